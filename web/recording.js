// A recording: what one writer did, state by state. Recorded lanes are read from frames.json, live ones grow.

/** One lane of a recording, and every state it went through. Frame 0 is the starting page. */
export class Timeline {
  constructor({ start, steps = [], ...about }) {
    this.about = about;
    this.steps = [];
    const page = { tokens: [...start], p: start.map(() => null), when: start.map((token) => (token === null ? -1 : 0)) };
    this.frames = [{ ...page, seconds: 0, passes: 0, read: 0, changed: [], back: [], top: new Map() }];
    steps.forEach((step) => this.push(step));
  }

  get last() {
    return this.frames.at(-1);
  }

  /** Add the state after one more step. */
  push(step) {
    this.steps.push(step);
    const [tokens, p, when] = [[...this.last.tokens], [...this.last.p], [...this.last.when]];
    step.at.forEach((i, k) => {
      [tokens[i], p[i], when[i]] = [step.to[k], step.p[k], step.to[k] === null ? -1 : this.frames.length];
    });
    const back = step.at.filter((i, k) => step.to[k] === null);
    const { seconds, passes, read, top = new Map() } = step;
    this.frames.push({ tokens, p, when, seconds, passes, read, changed: step.at, back, top });
  }

  /** The number of the last frame at which no more than `value` of the axis ("seconds" or "passes") was spent. */
  indexAt(axis, value) {
    let low = 0;
    let high = this.frames.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.frames[middle][axis] <= value) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  get finished() {
    return !this.last.tokens.includes(null);
  }
}

/** Of a file written by `visualize.py --save`: the lanes, and what they were asked for. Throws if it is something else. */
export function readRecording(data) {
  if (data?.format !== "microdlm-recording" || data.version !== 1) throw new Error("this is no recording that the page can read");
  const { prompt, length, temperature, seed, lanes } = data;
  return { settings: { prompt, length, temperature, seed }, lanes: lanes.map((lane) => new Timeline(lane)), made: data.made_by };
}
