// One model in a thread of its own, so that the page never freezes. Messages in: load, run, pause, resume, stop.
// Messages out: ready, step (one a state the sampler yields), done, failed.

import { MODELS } from "./model.js";
import { generator } from "./random.js";
import { SAMPLERS, softmax } from "./samplers.js";

const BEST = 5; // candidates shown of each position
let model;
let running = null; // the request whose answers are wanted
let queue = Promise.resolve(); // a session does one thing at a time
let gate = Promise.resolve();
let open = () => {};

const actions = {
  async load({ id, runtime, binary, weights, device, about }) {
    const ort = await import(runtime);
    Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary: binary });
    const start = performance.now();
    const session = await ort.InferenceSession.create(weights, { executionProviders: [device], logSeverityLevel: 3 });
    model = new MODELS[about.kind](ort, session, about.alphabet.length, about);
    postMessage({ type: "ready", id, seconds: (performance.now() - start) / 1000 });
  },

  async time({ id, length, times }) {
    const page = new Int32Array(length);
    const seconds = [];
    for (let i = 0; i < times; i++) {
      model.begin(false);
      await model.ask(page, [length]); // of a GPT: after the last; of a denoiser: only the cost counts
      seconds.push(model.cost.seconds);
    }
    postMessage({ type: "timed", id, seconds });
  },

  async run({ id, start, sampler, how, cached }) {
    model.begin(cached);
    let before = Int32Array.from(start);
    const options = { ...how, rng: generator(how.seed) };
    const ask = (x, where) => model.ask(x, where);
    for await (const x of SAMPLERS[sampler](ask, before, model.maskId, options)) {
      await gate;
      if (running !== id) return;
      postMessage({ type: "step", id, ...change(before, x), ...candidates(), ...model.cost });
      before = x;
    }
    postMessage({ type: "done", id });
  },
};

const controls = {
  pause() {
    gate = new Promise((resolve) => (open = resolve));
  },

  resume() {
    open();
  },

  stop() {
    running = null;
    open();
  },
};

/** What differs between two states, and how probable the model found what was written (null: masked again). */
function change(before, x) {
  const at = [...x.keys()].filter((i) => x[i] !== before[i]);
  const p = at.map((i) => (x[i] === model.maskId ? null : softmax(model.rows.get(i), model.maskId)[x[i]]));
  return { at, to: at.map((i) => x[i]), p };
}

/** The likeliest tokens of every position that the last pass was asked about, flat: position, then BEST of each. */
function candidates() {
  const where = [...model.rows.keys()];
  const top = where.flatMap((i) => {
    const p = softmax(model.rows.get(i), model.maskId);
    const order = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, BEST);
    return order.map((token) => ({ token, p: p[token] }));
  });
  return { where, tokens: Uint16Array.from(top, (c) => c.token), shares: Float32Array.from(top, (c) => c.p) };
}

onmessage = ({ data }) => {
  if (data.type in controls) return controls[data.type]();
  running = data.id;
  queue = queue
    .then(() => actions[data.type](data))
    .catch((error) => postMessage({ type: "failed", id: data.id, message: error.message }));
};
