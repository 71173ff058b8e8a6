// A session with the server: OpenAI's realtime protocol with the events that speechmtp adds. It opens itself again when
// the connection is lost.

import { RATE } from "./sources.js";

const INCLUDE = ["speechmtp.tail", "speechmtp.heard", "speechmtp.final", "speechmtp.words"];
const BYTES = (2 * RATE * 4) / 3; // of a second in base64
const WARN = 1; // seconds that wait in the browser before it is said
const GIVE_UP = 10; // seconds that wait in the browser before the session ends
const AHEAD = 120; // seconds of a file that may wait for the recogniser
const LAST_WORDS = 15000; // milliseconds that the end may take
const FIRST_WAIT = 1; // seconds before the first new attempt; it doubles
const LONGEST_WAIT = 30;

export function base64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

// The names of the server's models; none if it does not say.
export async function models(base, token) {
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(new URL("v1/models", base), { headers });
    return answer.ok ? ((await answer.json()).data || []).map((one) => one.id) : [];
  } catch {
    return [];
  }
}

// What the server says of itself over HTTP, since a browser hides why it refused a websocket: `token`, `full`, `gone`, or
// nothing if all seems well.
async function reason(base, token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const ask = (path) => fetch(new URL(path, base), { headers, cache: "no-store" });
  try {
    if ((await ask("v1/models")).status === 401) return "token";
    return (await ask("readyz")).status === 503 ? "full" : "";
  } catch {
    return "gone";
  }
}

// `on` has the functions `state(name, detail)`, `event(message)`, `connected()`, `lost()`, `slow(seconds)`. States:
// connecting, live, waiting (detail: { seconds, why, message }), finishing, closed (detail: { why, message }).
export class Session {
  constructor(options, on) {
    this.options = options; // { base, token, silence, retries }
    this.on = on;
    this.wait = FIRST_WAIT;
    this.ended = false;
    this.open();
  }

  open() {
    this.sent = 0; // samples of this connection
    this.heard = 0; // milliseconds of them
    this.asked = 0; // settings that are not answered
    this.pending = new Set(); // items that are committed and not answered
    this.live = false;
    this.waits = false; // for the next attempt
    this.finishing = false;
    this.failure = null;
    this.on.state("connecting");
    const url = new URL("v1/realtime?intent=transcription", this.options.base);
    url.protocol = url.protocol.replace("http", "ws");
    const { token } = this.options;
    try {
      this.socket = new WebSocket(url, token ? ["realtime", `openai-insecure-api-key.${token}`] : ["realtime"]);
    } catch {
      this.end("token", "A token has only letters, digits and a few signs, and no blanks.");
      return;
    }
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = (event) => this.closed(event);
  }

  get waiting() {
    return this.socket.bufferedAmount / BYTES; // seconds
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  settings() {
    const { silence, model } = this.options;
    const turns = silence ? { type: "server_vad", silence_duration_ms: silence } : null;
    const input = { format: { type: "audio/pcm", rate: RATE }, turn_detection: turns };
    if (model) input.transcription = { model };
    this.asked += 1;
    return { type: "session.update", session: { type: "transcription", include: INCLUDE, audio: { input } } };
  }

  // Segments end after that many milliseconds without speech; 0: only by `line`.
  endAfter(silence) {
    this.options.silence = silence;
    if (this.live && !this.finishing) this.send(this.settings());
  }

  // End the segment here.
  line() {
    if (this.live && !this.finishing) this.send({ type: "input_audio_buffer.commit" });
  }

  // Samples of a microphone; false if they are lost, because there is no connection.
  push(samples) {
    if (!this.live || this.finishing) return false;
    this.send({ type: "input_audio_buffer.append", audio: base64(samples) });
    this.sent += samples.length;
    const late = this.waiting;
    if (late > GIVE_UP) {
      this.end("slow", `The network is too slow: ${Math.round(late)} s of sound are waiting.`);
      return false;
    }
    this.on.slow(late > WARN ? late : 0);
    return true;
  }

  // Whether more of a file can be sent now.
  get ready() {
    return this.live && !this.finishing && this.waiting < 2 && this.sent / RATE - this.heard / 1000 < AHEAD;
  }

  // Nothing follows: ask for the last words, then close.
  finish() {
    if (this.ended) return;
    if (!this.live) {
      this.end("done", "");
      return;
    }
    this.finishing = true;
    this.on.state("finishing");
    if (this.sent) this.send({ type: "input_audio_buffer.commit" });
    this.send(this.settings()); // answered behind the commit: then all items are known
    this.patience();
  }

  // The end comes if nothing is heard for a while.
  patience() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.end("late", "The last words did not come; the connection was closed."), LAST_WORDS);
  }

  take(message) {
    const { type } = message;
    if (type === "session.updated") this.asked -= 1;
    if (type === "session.updated" && !this.live) {
      this.live = true;
      this.wait = FIRST_WAIT;
      this.on.connected();
      this.on.state("live");
    } else if (type === "session.created") {
      this.send(this.settings());
    } else if (type === "input_audio_buffer.committed") {
      this.pending.add(message.item_id);
    } else if (type === "speechmtp.heard") {
      this.heard = message.audio_ms;
      if (this.finishing) this.patience();
    } else if (type === "error") {
      this.complain(message.error);
    }
    this.on.event(message);
    if (type.endsWith("transcription.completed") || type.endsWith("transcription.failed")) {
      this.pending.delete(message.item_id);
    }
    if (this.finishing && !this.asked && !this.pending.size) this.end("done", "");
  }

  complain(error) {
    if (error.code !== "input_audio_buffer_commit_empty") this.failure = error.message;
  }

  async closed(event) {
    if (this.ended) return;
    const began = this.live;
    this.live = false;
    if (began) this.on.lost();
    if (this.finishing) {
      this.end("late", "The connection was lost before the last words.");
      return;
    }
    let why = event.code === 1013 ? "full" : event.code === 1008 ? "policy" : "";
    if (!why && !began) why = await reason(this.options.base, this.options.token);
    if (this.ended) return;
    const message = event.reason || this.failure || "";
    if (why === "token" || why === "policy" || (this.options.retries === 0 && began)) this.end(why || "lost", message);
    else this.retry(why || "lost", message);
  }

  retry(why, message) {
    const seconds = this.wait;
    this.wait = Math.min(LONGEST_WAIT, 2 * this.wait);
    this.waits = true;
    this.on.state("waiting", { seconds, why, message });
    this.timer = setTimeout(() => !this.ended && this.open(), 1000 * seconds);
  }

  end(why, message) {
    if (this.ended) return;
    this.ended = true;
    this.live = false;
    clearTimeout(this.timer);
    this.socket?.close(1000);
    this.on.state("closed", { why, message });
  }
}
