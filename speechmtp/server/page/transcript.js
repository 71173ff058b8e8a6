// The words on show, and what is saved of them. All times are milliseconds since the page's recording began.

const CUE_LONGEST = 7000; // milliseconds that a cue of subtitles is shown
const CUE_WIDTH = 84; // characters of a cue: two lines of 42

export function clock(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

function cueClock(ms) {
  const whole = Math.max(0, Math.round(ms));
  const part = (size, width, span) => String(Math.floor(whole / size) % span).padStart(width, "0");
  return `${part(3600000, 2, 100)}:${part(60000, 2, 60)}:${part(1000, 2, 60)},${part(1, 3, 1000)}`;
}

// The words of a segment with times; where the server did not say them they are spread by the number of characters.
function timedWords(segment) {
  const texts = segment.text.split(/\s+/).filter(Boolean);
  const known = (segment.words || []).filter((word) => word.start_ms !== null && word.end_ms !== null);
  if (known.length === texts.length) {
    return known.map((word) => ({
      text: word.text.trim(),
      start: segment.base + word.start_ms,
      end: segment.base + word.end_ms,
    }));
  }
  const total = texts.reduce((sum, text) => sum + text.length + 1, 0);
  const span = segment.end - segment.start;
  let at = 0;
  return texts.map((text) => {
    const start = segment.start + (span * at) / total;
    at += text.length + 1;
    return { text, start, end: segment.start + (span * at) / total };
  });
}

// Subtitles in the format SubRip of segments { base, start, end, text, words }.
export function subtitles(segments) {
  const cues = [];
  for (const segment of segments) {
    let cue = null;
    for (const word of timedWords(segment)) {
      const full = cue && (cue.text.length + 1 + word.text.length > CUE_WIDTH || word.end - cue.start > CUE_LONGEST);
      if (!cue || full) {
        cue = { start: word.start, end: word.end, text: word.text };
        cues.push(cue);
      } else {
        cue.text += ` ${word.text}`;
        cue.end = word.end;
      }
    }
  }
  return cues
    .map((cue, i) => `${i + 1}\n${cueClock(cue.start)} --> ${cueClock(cue.end)}\n${folded(cue.text)}\n`)
    .join("\n");
}

// A text of more than 42 characters in two lines.
function folded(text) {
  const safe = text.replaceAll("-->", "->");
  if (safe.length <= CUE_WIDTH / 2) return safe;
  const middle = safe.length / 2;
  let best = -1;
  for (let at = safe.indexOf(" "); at >= 0; at = safe.indexOf(" ", at + 1)) {
    if (Math.abs(at - middle) < Math.abs(best - middle) || best < 0) best = at;
  }
  return best < 0 ? safe : `${safe.slice(0, best)}\n${safe.slice(best + 1)}`;
}

export class Transcript {
  // `said` holds committed words, `tail` those that may still change.
  constructor(said, tail) {
    this.said = said;
    this.tail = tail;
    this.clear();
  }

  clear() {
    this.said.replaceChildren();
    this.tail.textContent = "";
    this.items = new Map(); // of this connection: id -> { lines, ended }
    this.segments = [];
    this.base = 0;
  }

  // A connection begins: its times count from `base`.
  begin(base) {
    this.base = base;
    this.items.clear();
  }

  get empty() {
    return !this.said.childElementCount && !this.tail.textContent;
  }

  // Whether there is any text.
  get spoken() {
    return Boolean(this.said.querySelector("[data-text]"));
  }

  // All that was said, a line for each segment; gaps are marked.
  text() {
    const lines = [...this.said.children].map((line) => line.dataset.text || "").filter(Boolean);
    return lines.length ? `${lines.join("\n")}\n` : "";
  }

  srt() {
    return subtitles(this.segments);
  }

  // Take a message of the server.
  event(message) {
    const kind = message.type.replace("conversation.item.input_audio_transcription.", "");
    if (kind === "input_audio_buffer.speech_started") this.start(message.item_id, message.audio_start_ms);
    else if (kind === "delta") this.add(message.item_id, message.delta);
    else if (kind === "speechmtp.tail") this.change(message.item_id, message.text);
    else if (kind === "speechmtp.final") this.segment(message);
    else if (kind === "completed") this.complete(message.item_id, message.transcript);
    else if (kind === "failed") this.fail(message.item_id, message.error);
  }

  // The line that an item is written into now: its last one, or a new one behind a segment that has ended.
  line(id) {
    if (!this.items.has(id)) this.items.set(id, { lines: [], ended: true });
    const item = this.items.get(id);
    if (item.ended) {
      const shown = document.createElement("p");
      const time = document.createElement("time");
      time.setAttribute("aria-hidden", "true");
      const words = document.createElement("span");
      shown.append(time, words);
      this.said.append(shown);
      item.lines.push({ shown, time, words, text: "" });
      item.ended = false;
    }
    return item.lines.at(-1);
  }

  start(id, ms) {
    const { time } = this.line(id);
    if (time.textContent || ms === undefined || ms === null) return;
    time.dateTime = `PT${((this.base + ms) / 1000).toFixed(1)}S`;
    time.textContent = clock(this.base + ms);
  }

  add(id, delta) {
    const line = this.line(id);
    const text = line.text ? delta : delta.trimStart();
    line.text += text;
    line.shown.dataset.text = line.text.trim();
    const part = document.createElement("span");
    part.className = "new";
    part.textContent = text;
    line.words.append(part);
  }

  change(id, text) {
    const begun = text ? this.line(id).text : "";
    this.tail.textContent = begun ? text : text.trimStart();
  }

  // A segment ended: what follows is a new line.
  segment(message) {
    const item = this.items.get(message.item_id);
    if (!message.text.trim()) return;
    const { base } = this;
    const start = base + message.start_ms;
    this.segments.push({ base, start, end: base + message.end_ms, text: message.text, words: message.words });
    this.start(message.item_id, message.words?.[0]?.start_ms ?? message.start_ms);
    if (item) item.ended = true;
  }

  complete(id, transcript) {
    const item = this.items.get(id);
    if (!item) return;
    this.items.delete(id);
    const plain = (text) => text.split(/\s+/).filter(Boolean).join(" ");
    if (plain(item.lines.map((line) => line.text).join(" ")) !== plain(transcript)) {
      const [first, ...others] = item.lines;
      first.text = transcript.trim();
      first.words.textContent = first.text;
      first.shown.dataset.text = first.text;
      for (const line of others) line.text = "";
    }
    this.drop(item);
    if (!this.items.size) this.tail.textContent = "";
  }

  // Take lines away that have no words.
  drop(item) {
    for (const line of item.lines) if (!line.text.trim()) line.shown.remove();
  }

  fail(id, error) {
    if (this.items.has(id)) this.drop(this.items.get(id));
    this.items.delete(id);
    this.tail.textContent = "";
    this.mark("failed", `Not recognised: ${error?.message || "the server gave no reason"}`);
  }

  // Words were lost here.
  gap(text) {
    this.settle();
    this.mark("gap", text);
  }

  // What was open stays as it is.
  settle() {
    for (const item of this.items.values()) this.drop(item);
    this.items.clear();
    this.tail.textContent = "";
  }

  mark(kind, text) {
    const line = document.createElement("p");
    line.className = kind;
    line.textContent = text;
    line.dataset.text = `[${text}]`;
    this.said.append(line);
  }
}
