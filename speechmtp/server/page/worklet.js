// The microphone's samples at 16 kHz in pieces of 40 ms, made on the audio thread. It imports nothing, since not every
// browser lets a worklet import.

const RATE = 16000;
const PIECE = 640; // samples of a piece
const CROSSINGS = 32; // zero crossings of the filter on each side
const CUTOFF = 0.925; // of the lower of both Nyquist frequencies
const BETA = 8; // of the Kaiser window: what would alias is 80 dB down
const PHASES = 2048; // at most; rates whose ratio to 16 kHz needs more are rounded to the nearest one

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

// The modified Bessel function of the first kind and order 0.
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

// A windowed sinc, as one row of taps for each place that an output sample can have between two input samples.
function filterRows(rate, phases, half) {
  const cutoff = CUTOFF * Math.min(1, RATE / rate); // of the input's Nyquist frequency
  const rows = [];
  for (let phase = 0; phase < phases; phase++) {
    const row = new Float32Array(2 * half);
    let sum = 0;
    for (let tap = 0; tap < 2 * half; tap++) {
      const distance = tap - half + 1 - phase / phases;
      const inside = Math.max(0, 1 - (distance / half) ** 2);
      const angle = Math.PI * cutoff * distance;
      const sinc = angle === 0 ? 1 : Math.sin(angle) / angle;
      row[tap] = (sinc * bessel(BETA * Math.sqrt(inside))) / bessel(BETA);
      sum += row[tap];
    }
    for (let tap = 0; tap < 2 * half; tap++) row[tap] /= sum;
    rows.push(row);
  }
  return rows;
}

// Resamples to 16 kHz what comes in blocks of any size; the phase is kept from block to block, as whole numbers.
class Resampler {
  constructor(rate) {
    const common = divisor(Math.round(rate), RATE);
    this.up = RATE / common;
    this.down = Math.round(rate) / common; // output sample n is at n * down / up input samples
    this.half = Math.ceil((CROSSINGS * Math.max(1, rate / RATE)) / CUTOFF);
    this.phases = Math.min(this.up, PHASES);
    this.rows = filterRows(rate, this.phases, this.half);
    this.kept = new Float32Array(1 << 16);
    this.size = this.half - 1; // samples in `kept`: silence before the first one
    this.first = 0; // where in `kept` the next output sample's taps begin
    this.phase = 0; // from 0 to `up`: where it is behind the input sample before it
  }

  // Calls `put` with every output sample that is known now.
  push(block, put) {
    if (this.size + block.length > this.kept.length) {
      this.kept.copyWithin(0, this.first, this.size);
      this.size -= this.first;
      this.first = 0;
    }
    this.kept.set(block, this.size);
    this.size += block.length;
    const taps = 2 * this.half;
    while (this.first + taps <= this.size) {
      const place = Math.min(this.phases - 1, Math.round((this.phase * this.phases) / this.up));
      const row = this.rows[place];
      let sum = 0;
      for (let tap = 0; tap < taps; tap++) sum += row[tap] * this.kept[this.first + tap];
      put(sum);
      this.phase += this.down;
      while (this.phase >= this.up) {
        this.phase -= this.up;
        this.first += 1;
      }
    }
  }

  // The samples that the filter still holds back.
  finish(put) {
    this.push(new Float32Array(this.half), put);
  }
}

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate);
    this.mono = new Float32Array(128);
    this.running = true;
    this.begin();
    this.port.onmessage = () => this.stop();
    this.put = (value) => this.take(value);
  }

  begin() {
    this.piece = new Int16Array(PIECE);
    this.size = 0;
    this.squares = 0;
  }

  take(value) {
    this.squares += value * value;
    this.piece[this.size++] = Math.max(-32768, Math.min(32767, Math.round(32768 * value)));
    if (this.size === PIECE) this.give();
  }

  give() {
    const samples = this.piece.slice(0, this.size);
    const level = Math.sqrt(this.squares / Math.max(1, this.size));
    this.port.postMessage({ samples: samples.buffer, level }, [samples.buffer]);
    this.begin();
  }

  stop() {
    if (!this.running) return;
    this.running = false;
    this.resampler.finish(this.put);
    if (this.size) this.give();
    this.port.postMessage({ done: true });
  }

  process(inputs) {
    const channels = inputs[0];
    if (!this.running || !channels.length) return this.running;
    const count = channels[0].length;
    if (this.mono.length !== count) this.mono = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.mono[i] = sum / channels.length;
    }
    this.resampler.push(this.mono, this.put);
    return true;
  }
}

registerProcessor("capture", Capture);
