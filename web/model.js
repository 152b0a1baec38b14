// The twins as denoisers: `ask(x, where)` returns rows of logits, `cost` counts what that took. Runs in a worker.

/** What both share: a session of onnxruntime-web, the counters, and the rows of the last pass. */
class Network {
  constructor(ort, session, maskId) {
    Object.assign(this, { ort, session, maskId });
    this.begin();
  }

  /** Forget the last text. */
  begin() {
    this.cost = { passes: 0, read: 0, seconds: 0 };
    this.rows = new Map(); // position -> logits, of the last pass
  }

  async pass(ids, more = {}) {
    const start = performance.now();
    const x = new this.ort.Tensor("int32", ids, [1, ids.length]);
    const out = await this.session.run({ x, ...more });
    this.cost.seconds += (performance.now() - start) / 1000;
    this.cost.passes += 1;
    this.cost.read += ids.length;
    return out;
  }
}

/** The rows of a (1, L, V) tensor. */
function rowsOf({ data, dims: [, length, width] }) {
  return Array.from({ length }, (_, i) => data.slice(i * width, (i + 1) * width));
}

/** Reads the whole page at every pass. */
export class Diffusion extends Network {
  async ask(x, where) {
    const rows = rowsOf((await this.pass(Int32Array.from(x))).logits);
    this.rows = new Map([...x.keys()].filter((i) => x[i] === this.maskId).map((i) => [i, rows[i]]));
    return where.map((i) => rows[i]);
  }
}

/** Predicts a position from what stands before it. With its cache it reads every token once; without, all each time. */
export class Gpt extends Network {
  constructor(ort, session, maskId, { layers, heads, head_size }) {
    super(ort, session, maskId);
    this.nothing = () => new ort.Tensor("float32", new Float32Array(0), [layers, 2, 1, heads, 0, head_size]);
  }

  begin(cached = true) {
    super.begin();
    Object.assign(this, { cached, past: null, known: 0 }); // keys and values of the first `known` tokens
  }

  async ask(x, [at]) {
    const start = this.cached ? this.known : 0;
    const { logits, present } = await this.pass(Int32Array.from(x.subarray(start, at)), { past: this.past ?? this.nothing() });
    if (this.cached) [this.past, this.known] = [present, at];
    this.rows = new Map([[at, rowsOf(logits).at(-1)]]);
    return [this.rows.get(at)];
  }
}

export const MODELS = { diffusion: Diffusion, gpt: Gpt };
