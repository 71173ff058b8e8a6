// Runs the page's worklet outside of a browser: node resampler_runs.mjs WORKLET RATE BLOCK, float32 samples in and int16
// samples out.
import { readFileSync, writeSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [worklet, rate, block] = process.argv.slice(2);
const found = [];
globalThis.sampleRate = Number(rate);
globalThis.AudioWorkletProcessor = class {
  port = { postMessage: (message) => message.samples && found.push(new Int16Array(message.samples)) };
};
let Capture;
globalThis.registerProcessor = (name, given) => (Capture = given);
await import(pathToFileURL(worklet));
const bytes = readFileSync(0);
const samples = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const capture = new Capture();
for (let at = 0; at < samples.length; at += Number(block)) {
  capture.process([[samples.subarray(at, at + Number(block))]]);
}
capture.port.onmessage({ data: "stop" });
if (found.slice(0, -1).some((piece) => piece.length !== 640)) throw new Error("pieces are not 40 ms");
for (const piece of found) writeSync(1, Buffer.from(piece.buffer));
