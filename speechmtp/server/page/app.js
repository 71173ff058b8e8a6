// The page: one button, the transcript, and what goes wrong.

import { Meters } from "./meters.js";
import { Session, models } from "./session.js";
import { Microphone, Problem, RATE, Recording, microphones } from "./sources.js";
import { Transcript, clock } from "./transcript.js";

const TOKEN = "speechmtp.token";
const HELD = 10 * RATE; // samples that wait for a connection; older ones are lost
const find = (id) => document.getElementById(id);
const meters = new Meters(find);
const transcript = new Transcript(find("said"), find("tail"));

let run = null; // what goes on: { session, microphone, recording }
let recorded = 0; // milliseconds of sound so far, whether it was sent or not
let from = 0; // of them before the connection
let away = null; // milliseconds of sound before which nothing was lost; null while connected
let opening = false; // the microphone
let again = null; // starts what was refused for want of a token
let token = sessionStorage.getItem(TOKEN) || "";

// What is said to the person

function notice(text, { error = true, asks = false } = {}) {
  find("notice").hidden = !text;
  find("notice").classList.toggle("error", error);
  find("notice-text").textContent = text;
  find("token-form").hidden = !asks;
  if (asks) find("token").focus();
}

// `quiet` leaves screen readers alone, as with what counts.
function state(text, quiet = false) {
  find("state").textContent = text;
  if (!quiet) find("told").textContent = text;
}

const SEEN = { full: "The server is full", gone: "The server does not answer", lost: "The connection was lost" };

function sentence(why, message) {
  const told = message ? `${message.charAt(0).toUpperCase()}${message.slice(1)}` : "";
  return `${[SEEN[why], told].filter(Boolean).join(": ") || "The server ended the session"}.`.replace(/([.!?])\.$/, "$1");
}

// The session

function onState(name, detail = {}) {
  if (name === "connecting") state("Connecting …");
  else if (name === "live") {
    notice("");
    state(run.recording ? "Transcribing …" : "Listening");
  } else if (name === "waiting") onWaiting(detail);
  else if (name === "finishing") state("Waiting for the last words …");
  else if (name === "closed") onClosed(detail);
  draw();
}

function onWaiting({ seconds, why, message }) {
  const mine = run;
  const until = performance.now() + 1000 * seconds;
  notice(`${sentence(why, message)} The page tries again by itself.`, { error: why !== "full" });
  const count = () => {
    if (run !== mine || !run.session.waits) return;
    state(`Trying again in ${Math.max(1, Math.ceil((until - performance.now()) / 1000))} s`, true);
    setTimeout(count, 250);
  };
  count();
}

function onClosed({ why, message }) {
  const { microphone } = run;
  run = null;
  microphone?.close();
  transcript.settle();
  markGap(recorded);
  meters.quiet();
  meters.behind(null);
  state("Ready");
  if (why === "token") {
    const asked = token ? "The server refused this token." : "This server asks for a token.";
    notice(message || asked, { asks: true });
  }
  if (why !== "token" && why !== "done") notice(message || sentence(why, message));
}

// Sound between `away` and `until` was not heard.
function markGap(until) {
  if (away === null) return;
  const seconds = Math.max(1, Math.round((until - away) / 1000));
  transcript.gap(`No connection: about ${seconds} s are missing here`);
  away = null;
}

function onConnected() {
  if (!run) return;
  const held = run.held.splice(0);
  from = recorded - held.reduce((sum, piece) => sum + piece.length, 0) / (RATE / 1000);
  if (away === null && from - run.began > 500) away = run.began;
  markGap(from);
  run.began = Infinity; // what was lost before the first connection is told
  transcript.begin(from);
  held.forEach((piece) => run.session.push(piece));
  if (run.recording) pump(run);
}

function onLost() {
  away = from + (run ? run.session.heard : 0);
  transcript.settle();
}

// A microphone's sound waits to be sent; a file's may.
function onSlow(late) {
  if (!run?.microphone || Boolean(late) === run.slow) return;
  run.slow = Boolean(late);
  notice(late ? "The network is slow: sound is waiting to be sent." : "", { error: false });
}

function onEvent(message) {
  if (message.type === "speechmtp.heard") meters.decoded(message.tokens, message.calls);
  const scroller = find("transcript");
  const follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  transcript.event(message);
  if (follows) scroller.scrollTop = scroller.scrollHeight;
  find("latest").hidden = follows;
  progress();
  if (message.type !== "speechmtp.heard") draw();
}

function progress() {
  if (!run) return;
  find("time").textContent = clock(recorded);
  const { session, recording } = run;
  if (session.live) meters.behind(session.sent / (RATE / 1000) / 1000 - session.heard / 1000);
  if (recording && session.live) {
    state(`${clock(session.heard)} of ${clock(1000 * recording.seconds)} heard`, true);
  }
}

function open(more) {
  const silence = Number(find("silence").value);
  const model = find("model").value;
  const options = { base: document.baseURI, token, silence, model, retries: more.recording ? 0 : 1 };
  run = { ...more, slow: false, held: [], began: recorded };
  run.session = new Session(options, {
    state: (name, detail) => queueMicrotask(() => run && onState(name, detail)),
    event: onEvent,
    connected: onConnected,
    lost: onLost,
    slow: onSlow,
  });
}

// Microphone and files

async function listen() {
  notice("");
  again = listen;
  opening = true;
  state("Opening the microphone …");
  try {
    const microphone = await Microphone.open(find("device").value, onPiece, (message) => {
      notice(message);
      stop();
    });
    away = null;
    open({ microphone });
    stayAwake();
    fillDevices();
  } catch (error) {
    report(error);
  }
  opening = false;
  draw();
}

function onPiece(samples, level) {
  recorded += samples.length / (RATE / 1000);
  meters.loudness(level);
  if (run && !run.session.push(samples) && !run.session.finishing) hold(samples);
  progress();
}

// Keep what is said while there is no connection.
function hold(samples) {
  const { held } = run;
  held.push(samples);
  while (held.reduce((sum, piece) => sum + piece.length, 0) > HELD) held.shift();
}

async function play(file) {
  if (run || !file) return;
  notice("");
  again = () => play(file);
  state(`Reading ${file.name} …`);
  try {
    const recording = await Recording.open(file);
    if (run) return;
    away = null;
    open({ recording });
  } catch (error) {
    report(error);
  }
  draw();
}

// Send a file as fast as it is taken.
function pump(mine) {
  if (run !== mine || !mine.session.live) return;
  while (mine.session.ready) {
    const piece = mine.recording.next();
    if (!piece) {
      meters.quiet();
      mine.session.finish();
      return;
    }
    meters.loudness(piece.level);
    mine.session.push(piece.samples);
    recorded += piece.samples.length / (RATE / 1000);
  }
  progress();
  setTimeout(() => pump(mine), 20);
}

async function stop() {
  if (!run || run.stopping) return;
  const { microphone, session } = run;
  run.stopping = true;
  draw();
  await microphone?.close();
  meters.quiet();
  session.finish();
}

function report(error) {
  state("Ready");
  notice(error instanceof Problem ? error.message : `Something went wrong: ${error.message || error}`);
  if (!(error instanceof Problem)) console.error(error);
}

// A phone that goes to sleep stops listening.
async function stayAwake() {
  try {
    const lock = await navigator.wakeLock?.request("screen");
    const watch = setInterval(() => {
      if (run) return;
      clearInterval(watch);
      lock?.release();
    }, 1000);
  } catch {
    // Nothing depends on it.
  }
}

async function fillDevices() {
  const chosen = find("device").value;
  const found = (await microphones()).filter((one) => one.id && one.id !== "default" && one.label);
  const options = [new Option("The system's own", ""), ...found.map((one) => new Option(one.label, one.id))];
  find("device").replaceChildren(...options);
  find("device").value = found.some((one) => one.id === chosen) ? chosen : "";
}

// The choice of a model, where there are several.
async function fillModels() {
  const chosen = find("model").value;
  const names = await models(document.baseURI, token);
  find("models").hidden = names.length < 2;
  find("model").replaceChildren(...(names.length > 1 ? names.map((name) => new Option(name, name)) : []));
  if (names.includes(chosen)) find("model").value = chosen;
}

// The transcript's buttons

function save(text, ending, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `transcript${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copy() {
  const text = transcript.text();
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    find("copy").focus();
  }
  find("copy").textContent = "Copied";
  setTimeout(() => (find("copy").textContent = "Copy"), 1500);
}

function clear() {
  transcript.clear();
  if (!run) recorded = 0;
  if (run) transcript.begin(from);
  find("time").textContent = clock(recorded);
  find("latest").hidden = true;
  draw();
}

const ACTIONS = {
  main: () => (run ? stop() : opening || listen()),
  line: () => run?.session.line(),
  copy,
  text: () => save(transcript.text(), ".txt", "text/plain"),
  srt: () => save(transcript.srt(), ".srt", "application/x-subrip"),
  clear,
};
const KEYS = { r: "main", l: "line", c: "copy", t: "text", s: "srt" };

function draw() {
  const running = Boolean(run);
  const stopping = Boolean(run?.stopping || run?.session?.finishing);
  document.body.classList.toggle("running", running);
  find("main-label").textContent = stopping ? "Finishing" : running ? "Stop" : "Start";
  find("main").setAttribute("aria-disabled", String(stopping)); // not `disabled`, which would take the focus away
  document.title = running ? "● speechmtp: live transcript" : "speechmtp: live transcript";
  find("line").disabled = !run?.session?.live || stopping;
  find("choose").disabled = running;
  for (const id of ["device", "model"]) find(id).disabled = running;
  const words = transcript.spoken;
  find("empty").hidden = !transcript.empty;
  find("empty").classList.toggle("waits", running);
  find("lead").textContent = running ? "Words appear here." : "Speak, and read along.";
  for (const id of ["copy", "text", "clear"]) find(id).disabled = !words;
  find("srt").disabled = !transcript.segments.length;
}

// Wiring

for (const [id, action] of Object.entries(ACTIONS)) find(id).addEventListener("click", action);
find("choose").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", (event) => {
  play(event.target.files[0]);
  event.target.value = "";
});
find("settings-open").addEventListener("click", () => {
  fillDevices();
  fillModels();
  find("settings").showModal();
});
find("silence").addEventListener("change", (event) => run?.session.endAfter(Number(event.target.value)));
find("times").addEventListener("change", (event) => document.body.classList.toggle("without-times", !event.target.checked));
find("shortcuts").addEventListener("change", (event) => (find("keys").hidden = !event.target.checked));
find("notice-close").addEventListener("click", () => notice(""));
find("latest").addEventListener("click", () => {
  find("transcript").scrollTop = find("transcript").scrollHeight;
  find("latest").hidden = true;
});
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  sessionStorage.setItem(TOKEN, token);
  find("token").value = "";
  (again || listen)();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !find("shortcuts").checked) return;
  const button = find(KEYS[event.key.toLowerCase()] || "");
  if (button && !button.disabled) {
    event.preventDefault();
    button.click();
  }
});
let over = 0;
const carries = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
document.addEventListener("dragenter", (event) => carries(event) && (find("drop").hidden = ++over < 1 || Boolean(run)));
document.addEventListener("dragleave", (event) => carries(event) && (find("drop").hidden = --over < 1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  over = 0;
  find("drop").hidden = true;
  if (run) notice("Stop first, then drop the recording.", { error: false });
  else play(event.dataTransfer.files[0]);
});
window.addEventListener("beforeunload", (event) => run?.microphone && event.preventDefault());
navigator.mediaDevices?.addEventListener?.("devicechange", fillDevices);
draw();
