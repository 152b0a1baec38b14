// What writing costs, counted: forward passes, and tokens read in them. A text has L tokens and its first is given.

import { expectedPasses } from "./pacing.js";

/** A GPT that remembers what it has read: each pass reads the one token that is new. */
export const gptWithCache = (L) => ({ passes: L - 1, read: L - 1 });

/** A GPT that reads all the text again for each token: 1 + 2 + .. + (L - 1). */
export const gptWithoutCache = (L) => ({ passes: L - 1, read: ((L - 1) * L) / 2 });

/** Diffusion that opens some blanks in every step: each pass reads the whole page. A step without a blank is none. */
export function diffusion(L, steps) {
  const passes = Math.min(steps, L - 1);
  return { passes, read: passes * L };
}

/** Ancestral diffusion on the linear schedule, on average: blanks open by lot, and steps that open none are free. */
export function ancestral(L, steps) {
  const passes = expectedPasses("linear", steps, L - 1);
  return { passes, read: passes * L };
}

/**
 * How many of L positions each pass of `way` reads, for drawing: [from, to) in every row. `passes` rows.
 * way: "cached", "uncached" or "page".
 */
export function rowsRead(way, L, passes) {
  const row = { cached: (i) => [i, i + 1], uncached: (i) => [0, i + 1], page: () => [0, L] }[way];
  return Array.from({ length: passes }, (_, i) => row(i));
}

/**
 * Block diffusion of step 6, L tokens in blocks of n, `atOnce` tokens opened a pass if the block has them. Each pass
 * reads its block; a finished block is read once more, to be remembered.
 */
export function blockCost(L, n, atOnce = 2) {
  const passes = L / Math.min(n, atOnce);
  return { passes, read: passes * n + L - n };
}

/** The same after so many passes: where the block in work starts and ends, what has been written and read. */
export function blockProgress(L, n, pass, atOnce = 2) {
  const perBlock = n / Math.min(n, atOnce);
  const block = Math.min(L / n - 1, Math.max(0, Math.ceil(pass / perBlock) - 1));
  return { start: block * n, end: (block + 1) * n, written: pass * Math.min(n, atOnce), read: pass * n + block * n };
}

/** Whether token i may look at token j: at all of its own block, and of the blocks before it. */
export const sees = (i, j, n) => Math.floor(j / n) <= Math.floor(i / n);

/** How many of the L x L pairs may look at each other. */
export const pairsSeen = (L, n) => (L * (L + n)) / 2;
