// The ways to write that the page offers, ported from microdlm/{samplers,planned,surest,revising}.py under the same names.
//
// A denoiser is `async (x, where) -> rows`: the logits at the positions `where` of the text x, an Int32Array in which
// maskId is a blank. Each sampler fills every blank and yields the text after every step. With `rng` of random.js the
// numbers are drawn in the order in which Python draws them, so the same seed writes the same text.

/** Probabilities of one row at a temperature; MASK, if the model has it, gets none. */
export function softmax(row, maskId, temperature = 1) {
  const p = Float64Array.from(row, (logit, v) => (v === maskId ? -Infinity : logit / temperature));
  const top = p.reduce((a, b) => Math.max(a, b));
  let total = 0;
  for (let v = 0; v < p.length; v++) total += p[v] = Math.exp(p[v] - top);
  return p.map((value) => value / total);
}

export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** One token from a row of logits: exponential clocks, as in microdlm/drawing.py. Temperature 0 takes the likeliest. */
export function draw(row, maskId, temperature, rng) {
  if (temperature === 0) return argmax(softmax(row, maskId));
  return argmax(softmax(row, maskId, temperature).map((p) => p / Math.max(-Math.log1p(-rng()), 1e-300)));
}

/** Where the blanks are, in reading order. */
export function blanks(x, maskId) {
  return [...x.keys()].filter((i) => x[i] === maskId);
}

/** A guess for every position of `where`, and how probable the model finds it. */
async function guess(denoiser, x, where, maskId, { temperature, rng }) {
  const rows = await denoiser(x, where);
  return where.map((at, i) => {
    const token = draw(rows[i], maskId, temperature, rng);
    return { at, token, sure: softmax(rows[i], maskId)[token] };
  });
}

function written(x, guesses) {
  const next = x.slice();
  for (const { at, token } of guesses) next[at] = token;
  return next;
}

/** How many of n blanks each step opens at a cosine pace: few at first. At least one, so no pass is for nothing. */
export function stepCounts(numSteps, n) {
  const counts = [];
  let left = n;
  for (let i = 1; i <= numSteps && left; i++) {
    const share = Math.cos(((Math.PI / 2) * i) / numSteps);
    counts.push(Math.min(left, Math.max(1, left - Math.floor(n * share + 1e-9))));
    left -= counts.at(-1);
  }
  return counts;
}

/** Guess every blank, keep the surest guesses, as many as the pace asks for. */
export async function* confidence(denoiser, x, maskId, how) {
  for (const count of stepCounts(how.numSteps, blanks(x, maskId).length)) {
    const guesses = await guess(denoiser, x, blanks(x, maskId), maskId, how);
    x = written(x, guesses.sort((a, b) => b.sure - a.sure).slice(0, count));
    yield x;
  }
}

/** Keep every guess more probable than tau, and always the surest: the text sets the pace. */
export async function* threshold(denoiser, x, maskId, { tau = 0.9, ...how }) {
  for (let where; (where = blanks(x, maskId)).length; ) {
    const guesses = (await guess(denoiser, x, where, maskId, how)).sort((a, b) => b.sure - a.sure);
    x = written(x, guesses.filter(({ sure }, i) => i === 0 || sure > tau));
    yield x;
  }
}

/** The reverse process: when each blank opens is drawn beforehand. A step that opens none needs no pass. */
export async function* ancestral(denoiser, x, maskId, { numSteps, rng, ...how }) {
  const when = Array.from(x, (token) => {
    const u = rng();
    let gone = 0; // linear schedule: of the shares 0, 1/n, .. (n-1)/n, so many are at most u
    while (gone < numSteps && gone / numSteps <= u) gone++;
    return token === maskId ? numSteps - gone : numSteps;
  });
  for (let step = 0; step < numSteps; step++) {
    const where = [...when.keys()].filter((i) => when[i] === step);
    if (where.length) x = written(x, await guess(denoiser, x, where, maskId, { rng, ...how }));
    yield x;
  }
}

/** ReMDM: what was written may be masked again, with a probability that leaves the share of blanks as it would be. */
export async function* remask(denoiser, x, maskId, { numSteps, eta = 0.5, rng, ...how }) {
  const given = Array.from(x, (token) => token !== maskId);
  for (let step = 0; step < numSteps; step++) {
    const [before, after] = [1 - step / numSteps, 1 - (step + 1) / numSteps]; // the share of blanks
    const sigma = before < 1 ? eta * Math.min(1, after / (1 - before)) : 0;
    const stays = (after - sigma * (1 - before)) / before;
    const noise = Array.from(x, () => rng());
    const opens = blanks(x, maskId).filter((i) => noise[i] >= stays);
    const back = [...x.keys()].filter((i) => !given[i] && x[i] !== maskId && noise[i] < sigma);
    if (opens.length) x = written(x, await guess(denoiser, x, opens, maskId, { rng, ...how }));
    x = written(x, back.map((at) => ({ at, token: maskId })));
    yield x;
  }
}

/** In reading order, one pass each: the chain rule. The GPT's only way. */
export async function* left_to_right(denoiser, x, maskId, how) {
  for (const at of blanks(x, maskId)) {
    x = written(x, await guess(denoiser, x, [at], maskId, how));
    yield x;
  }
}

export const SAMPLERS = { confidence, threshold, ancestral, remask, left_to_right };
