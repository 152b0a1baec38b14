// How fast to write and what that costs, as in microdlm/pacing.py.

import { SCHEDULES } from "./schedules.js";

/** The share of the MASKs that is left at each of steps + 1 times from 1 down to 0. First 1, last 0. */
export function maskedShares(schedule, steps) {
  const { alpha } = SCHEDULES[schedule];
  const u = Array.from({ length: steps + 1 }, (_, i) => (1 - alpha(1 - i / steps)) / (1 - alpha(1)));
  u[steps] = 0;
  return u;
}

/** In how many of its steps ancestral sampling opens at least one of n MASKs, on average. The others need no pass. */
export function expectedPasses(schedule, steps, n) {
  const u = maskedShares(schedule, steps);
  let passes = 0;
  for (let i = 0; i < steps; i++) passes += 1 - (1 - (u[i] - u[i + 1])) ** n;
  return passes;
}

/** How many of n MASKs each of `steps` steps opens when all open about as many; at least one. */
export function stepCounts(steps, n) {
  const counts = [];
  for (let i = 0, left = n; i < steps && left > 0; i++) {
    const k = Math.min(left, Math.max(1, left - Math.floor(n * (1 - (i + 1) / steps) + 1e-9)));
    counts.push(k);
    left -= k;
  }
  return counts;
}

/**
 * The nats per token that writing costs when counts[0] tokens open in the first pass, counts[1] in the second, ..
 * curve[n - 1] is c_n, what a masked token costs on average when n are masked. The right Riemann sum of the curve.
 */
export function parallelBound(curve, counts) {
  let [left, nats] = [curve.length, 0];
  for (const k of counts) {
    nats += k * curve[left - 1];
    left -= k;
  }
  return nats / curve.length;
}
