// What the small meters show.

const QUIET = -60; // dB: the left end of the level meter
const SLOW = 3; // seconds: the right end of the delay meter
const MANY = 4; // tokens a call: the right end of that meter

export class Meters {
  constructor(find) {
    this.level = find("level");
    this.track = find("level-track");
    this.delay = find("delay");
    this.delayBar = find("delay-bar");
    this.tokens = find("tokens");
    this.tokensBar = find("tokens-bar");
    this.told = 0;
  }

  // `level` is a root mean square from 0 to 1.
  loudness(level) {
    const share = Math.max(0, Math.min(1, 1 - (20 * Math.log10(level + 1e-9)) / QUIET));
    this.level.style.transform = `scaleX(${share.toFixed(3)})`;
    this.level.classList.toggle("high", level > 0.7);
    const now = performance.now();
    if (now - this.told > 500) {
      this.told = now;
      this.track.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    }
  }

  // Seconds by which the recogniser is behind; null if that is not known.
  behind(seconds) {
    const known = seconds !== null;
    const value = Math.max(0, seconds || 0);
    this.delay.textContent = known ? `${value.toFixed(value < 10 ? 1 : 0)} s` : "–";
    this.delayBar.style.transform = `scaleX(${Math.min(1, value / SLOW).toFixed(3)})`;
    this.delayBar.classList.toggle("high", value > SLOW);
  }

  // What the decoder has emitted, and its calls.
  decoded(tokens, calls) {
    const each = calls ? tokens / calls : 0;
    this.tokens.textContent = calls ? each.toFixed(2) : "–";
    this.tokensBar.style.transform = `scaleX(${Math.min(1, each / MANY).toFixed(3)})`;
  }

  quiet() {
    this.loudness(0);
  }
}
