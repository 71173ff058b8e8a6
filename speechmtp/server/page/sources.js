// Where audio comes from: the microphone, or a file. Both give pieces of int16 samples at 16 kHz.

export const RATE = 16000;
const FILE_PIECE = 3200; // samples

// An error that is told to the person as it is.
export class Problem extends Error {}

function microphoneProblem(error) {
  const told = {
    NotAllowedError: "The microphone is blocked. Allow it for this page in your browser's settings, then start again.",
    NotFoundError: "No microphone was found. Plug one in, or drop a recording here.",
    NotReadableError: "The microphone does not answer. Another program may be using it.",
    OverconstrainedError: "That microphone is gone. Choose another one in the settings.",
  };
  return new Problem(told[error.name] || `The microphone cannot be opened (${error.message || error.name}).`);
}

// The microphones there are, as [{ id, label }]; labels are empty until the person has allowed one.
export async function microphones() {
  if (!navigator.mediaDevices?.enumerateDevices) return [];
  const found = await navigator.mediaDevices.enumerateDevices();
  return found.filter((one) => one.kind === "audioinput").map((one) => ({ id: one.deviceId, label: one.label }));
}

// An open microphone. `onPiece(samples, level)` gets what it hears, `onLost(message)` says that it stopped by itself.
export class Microphone {
  static async open(device, onPiece, onLost) {
    if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia || !window.AudioWorklet) {
      throw new Problem(
        window.isSecureContext
          ? "This browser cannot hand over a microphone. Take a newer one, or drop a recording here."
          : "Browsers give the microphone only to pages from localhost or over https. " +
            "Open this page there, or drop a recording here.",
      );
    }
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
    if (device) audio.deviceId = { exact: device };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw microphoneProblem(error);
    }
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
      await context.resume();
      return new Microphone(stream, context, onPiece, onLost);
    } catch (error) {
      stream.getTracks().forEach((track) => track.stop());
      context.close();
      throw new Problem(`The microphone's sound cannot be read (${error.message || error.name}).`);
    }
  }

  constructor(stream, context, onPiece, onLost) {
    this.stream = stream;
    this.context = context;
    this.finished = new Promise((done) => {
      this.node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
      this.node.port.onmessage = ({ data }) => {
        if (data.done) done();
        else onPiece(new Int16Array(data.samples), data.level);
      };
    });
    this.input = context.createMediaStreamSource(stream);
    this.input.connect(this.node);
    for (const track of stream.getTracks()) {
      track.onended = () => onLost("The microphone was unplugged or taken away.");
    }
  }

  // Give what was heard so far, then let the microphone go.
  close() {
    this.closing ||= this.release();
    return this.closing;
  }

  async release() {
    this.stream.getTracks().forEach((track) => (track.onended = null));
    this.node.port.postMessage("stop");
    await Promise.race([this.finished, new Promise((done) => setTimeout(done, 500))]);
    this.stream.getTracks().forEach((track) => track.stop());
    this.input.disconnect();
    await this.context.close();
  }
}

// A recording, decoded by the browser.
export class Recording {
  static async open(file) {
    const bytes = await file.arrayBuffer();
    let audio;
    try {
      audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
    } catch {
      throw new Problem(`${file.name}: your browser cannot read this file as audio. Convert it to WAV, FLAC or MP3.`);
    }
    return new Recording(audio);
  }

  constructor(audio) {
    this.channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
    this.length = audio.length;
    this.at = 0;
  }

  get seconds() {
    return this.length / RATE;
  }

  // The next samples and their level; null at the end.
  next() {
    if (this.at >= this.length) return null;
    const count = Math.min(FILE_PIECE, this.length - this.at);
    const samples = new Int16Array(count);
    let squares = 0;
    for (let i = 0; i < count; i++) {
      let sum = 0;
      for (const channel of this.channels) sum += channel[this.at + i];
      const value = sum / this.channels.length;
      squares += value * value;
      samples[i] = Math.max(-32768, Math.min(32767, Math.round(32768 * value)));
    }
    this.at += count;
    return { samples, level: Math.sqrt(squares / count) };
  }
}
