// Tokens per second, from the counts and times of frames.

// Seconds over which a rate is taken, and seconds that the line shows.
const WINDOW = 2;
const SHOWN = 60;

export class Speed {
  constructor() {
    this.samples = [];
    this.history = [];
  }

  take(at, tokens, rows) {
    const last = this.samples.at(-1);
    if (last && (tokens < last.tokens || at < last.at)) this.samples = []; // another process counts from 0
    this.samples.push({ at, tokens });
    while (this.samples.length > 2 && this.samples[1].at <= at - WINDOW) this.samples.shift();
    this.isIdle = rows === 0;
  }

  get now() {
    const [first, last] = [this.samples[0], this.samples.at(-1)];
    if (this.isIdle || !first || last.at - first.at < 0.1) return 0;
    return (last.tokens - first.tokens) / (last.at - first.at);
  }

  tick() {
    this.history.push(this.now);
    if (this.history.length > SHOWN) this.history.shift();
  }

  points(width, height) {
    const most = Math.max(1, ...this.history);
    const left = SHOWN - this.history.length;
    return this.history
      .map((value, place) => `${(((left + place) * width) / (SHOWN - 1)).toFixed(1)},${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`)
      .join(" ");
  }
}
