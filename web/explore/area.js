// What a hidden character costs, and the area under that curve, which is the model's bound on -log p (step 4).
//
// c_n is measured: the mean cross-entropy of a masked character when exactly n of L are masked. A schedule masks each
// character on its own with probability u, and then the n that one masked character belongs to is 1 + a binomial
// number. So m(u), what a masked character costs at u, is a mean of c_1 .. c_L with binomial weights, and its integral
// from 0 to u is (c_1 + .. + c_N) / L on average, N binomial (L, u). Nothing is fitted, and nothing is smoothed away.

import { SCHEDULES } from "./schedules.js";

/** P(n of N masked), n = 0 .. N, when each is masked with probability u. */
export function binomial(N, u) {
  if (u <= 0 || u >= 1) return Array.from({ length: N + 1 }, (_, n) => (n === (u <= 0 ? 0 : N) ? 1 : 0));
  const p = [];
  let log = N * Math.log1p(-u);
  for (let n = 0; n <= N; n++) {
    p.push(Math.exp(log));
    log += Math.log(((N - n) / (n + 1)) * (u / (1 - u)));
  }
  return p;
}

/** m(u): nats per masked character, each masked with probability u. `curve` is c_1 .. c_L. */
export function costAt(curve, u) {
  const p = binomial(curve.length - 1, u);
  return curve.reduce((sum, c, n) => sum + p[n] * c, 0);
}

/** The area under m from 0 to u, in nats per character. Up to 1 it is the mean of the curve. */
export function areaTo(curve, u) {
  let [nats, sofar] = [0, 0];
  const p = binomial(curve.length, u);
  for (let n = 1; n <= curve.length; n++) {
    sofar += curve[n - 1];
    nats += p[n] * sofar;
  }
  return nats / curve.length;
}

/**
 * Time in `parts` equal parts. In each: from when to when, from which share masked to which, and how many nats it adds
 * to the bound, the integral of -alpha'(t) m(u(t)) = w(t) u m(u).
 */
export function slices(curve, schedule, parts) {
  const { alpha } = SCHEDULES[schedule];
  const ends = Array.from({ length: parts + 1 }, (_, i) => ({ t: i / parts, u: 1 - alpha(i / parts) }));
  return ends.slice(1).map((to, i) => ({
    t: [ends[i].t, to.t],
    u: [ends[i].u, to.u],
    nats: areaTo(curve, to.u) - areaTo(curve, ends[i].u),
  }));
}

/** The share of the way from clean text to all MASK that lies outside a schedule, and the nats that it leaves out. */
export function beyondEnds(curve, schedule) {
  const [low, high] = [0, 1].map((t) => 1 - SCHEDULES[schedule].alpha(t));
  const nats = areaTo(curve, low) + areaTo(curve, 1) - areaTo(curve, high);
  return { low, high, nats: Math.max(0, nats) };
}

/**
 * The usual "validation loss": the mean cross-entropy over all masked characters of many texts, t uniform and no
 * weight. That is the integral of u m(u) over the integral of u, both over t, by the midpoint rule. No bound, and no
 * two schedules agree on it.
 */
export function withoutWeight(curve, schedule, points = 500) {
  let [nats, share] = [0, 0];
  for (let i = 0; i < points; i++) {
    const u = 1 - SCHEDULES[schedule].alpha((i + 0.5) / points);
    nats += u * costAt(curve, u);
    share += u;
  }
  return nats / share;
}
