// The two models in this browser: what there is to fetch, one worker each, and a run of both at once.

import { fetchUnpacked, forgetAllBut } from "./download.js";
import { Timeline } from "./recording.js";

const TRIES = 4; // passes that decide between two devices; the first is thrown away

/** What was built: {models: kind -> about, runtimes: device -> files}; null if nothing was. */
export async function available() {
  const [models, runtimes] = await Promise.all(["models/models.json", "vendor/runtimes.json"].map(json));
  return models && runtimes && { models, runtimes };
}

async function json(url) {
  const response = await fetch(url, { cache: "no-cache" }).catch(() => null);
  return response?.ok ? response.json() : null;
}

/** "webgpu" where a real adapter answers (a software one is slower than the CPU), else "wasm". */
export async function bestDevice() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? "webgpu" : "wasm";
}

export function bytesToFetch({ models, runtimes }, device) {
  return [runtimes[device], ...Object.values(models)].reduce((sum, { bytes }) => sum + bytes, 0);
}

/** One model in a worker. */
class Writer {
  constructor(about) {
    this.about = about;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.asked = 0;
    this.worker.onmessage = ({ data }) => data.id === this.asked && this.hear(data); // late words of a stopped run are not heard
    this.worker.onerror = (event) => this.settle.reject(new Error(event.message || "the worker could not start"));
  }

  /** Send, and wait for the message of type `reply`; `others` gets what comes before it. */
  ask(message, reply, others = () => {}) {
    return new Promise((resolve, reject) => {
      this.settle = { resolve, reject };
      this.hear = (data) => {
        if (data.type === "failed") reject(new Error(data.message));
        else if (data.type === reply) resolve(data);
        else others(data);
      };
      this.worker.postMessage({ ...message, id: ++this.asked });
    });
  }

  async load(files, weights, device) {
    const runtime = new URL(`vendor/${files.module}`, location.href).href;
    await this.ask({ type: "load", runtime, binary: files.unpacked, weights, device, about: this.about }, "ready");
    this.device = device;
    return this;
  }

  /** Median seconds of a pass over `length` characters. */
  async time(length) {
    const { seconds } = await this.ask({ type: "time", length, times: TRIES }, "timed");
    return seconds.slice(1).sort((a, b) => a - b)[Math.floor((TRIES - 1) / 2)];
  }

  tell(type) {
    this.worker.postMessage({ type });
    if (type === "stop") this.settle.resolve();
  }
}

/** A writer on the device that is faster here for what this model does: a page a pass, or a character. */
async function fastest(about, files, weights, device) {
  if (device === "wasm") return new Writer(about).load(files, weights, "wasm");
  const length = about.kind === "gpt" ? 1 : about.window;
  const tried = [];
  for (const name of ["webgpu", "wasm"]) {
    const writer = new Writer(about);
    const seconds = await writer.load(files, weights, name).then(() => writer.time(length)).catch(() => Infinity);
    tried.push({ writer, seconds });
  }
  const [best, other] = tried.sort((a, b) => a.seconds - b.seconds);
  other.writer.worker.terminate();
  return best.writer;
}

/** Both models, loaded. `load` reports (bytes here, bytes in all). */
export class Twins {
  static async load({ models, runtimes }, device, progress, signal) {
    const total = bytesToFetch({ models, runtimes }, device);
    let here = 0;
    const arrived = (n) => progress((here += n), total);
    const urls = { runtime: `vendor/${runtimes[device].binary}` };
    for (const [kind, { file }] of Object.entries(models)) urls[kind] = `models/${file}`;
    await forgetAllBut(Object.values(urls));
    const fetched = await Promise.all(Object.entries(urls).map(async ([name, url]) => [name, await fetchUnpacked(url, arrived, signal)]));
    const { runtime, ...weights } = Object.fromEntries(fetched);
    const files = { ...runtimes[device], unpacked: runtime };
    const twins = new Twins();
    for (const [kind, about] of Object.entries(models)) twins[kind] = await fastest({ kind, ...about }, files, weights[kind], device);
    return twins;
  }

  get writers() {
    return [this.diffusion, this.gpt];
  }

  /** Let the writers of `kinds` fill the page at once. Returns their lanes, which grow, and a promise of the end. */
  write(page, settings, kinds, onStep) {
    const lanes = kinds.map((kind) => new Timeline(this.laneOf(kind, page, settings)));
    const ends = kinds.map((kind, i) => this.writeOne(kind, page, settings, (step) => onStep(i, lanes[i].push(step))));
    return { lanes, done: Promise.all(ends) };
  }

  laneOf(kind, page, { sampler, steps }) {
    const { name, parameters } = this[kind].about;
    const way = kind === "gpt" ? "left_to_right" : sampler;
    return { name: `${kind}, ${way}`, kind, model: name, parameters, sampler: way, num_steps: steps, start: page, judge: null };
  }

  writeOne(kind, page, { sampler, steps, temperature, seed, cache }, onStep) {
    const { alphabet } = this[kind].about;
    const start = page.map((token) => (token === null ? alphabet.length : alphabet.indexOf(token)));
    const how = { numSteps: steps, temperature, seed };
    const message = { type: "run", start, sampler: kind === "gpt" ? "left_to_right" : sampler, how, cached: cache };
    return this[kind].ask(message, "done", (step) => onStep(asRecorded(step, alphabet)));
  }

  tell(type) {
    this.writers.forEach((writer) => writer.tell(type));
  }
}

/** A worker's message, in the words of a recording: characters for ids. */
function asRecorded({ seconds, passes, read, at, to, p, where, tokens, shares }, alphabet) {
  const best = shares.length / (where.length || 1);
  const top = new Map(
    where.map((i, k) => [
      i,
      Array.from({ length: best }, (_, j) => ({ token: alphabet[tokens[k * best + j]], p: shares[k * best + j] })),
    ]),
  );
  return { seconds, passes, read, at, to: to.map((id) => alphabet[id] ?? null), p, top };
}
