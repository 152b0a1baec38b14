// The smallest language with a secret: ABAB.. or BABA.., equally likely. One visible letter tells all the others.

/** Numbers on [0, 1) that repeat with the seed (mulberry32). */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The numbers 0 .. n - 1 in random order. */
export function shuffled(n, random) {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** p(letter at place i is A | the visible letters of `text`), exact. A letter is "A", "B", or null where masked. */
export function chanceOfA(text, i) {
  const seen = text.findIndex((letter) => letter !== null);
  if (seen < 0) return 0.5;
  return (text[seen] === "A") === ((i - seen) % 2 === 0) ? 1 : 0;
}

/**
 * Write one text of n letters, k at a time, at places drawn by lot. Letters of one pass are drawn without a look at
 * each other. Returns a page a pass, the empty one first: { text, fresh: the places that this pass filled }.
 */
export function write(n, k, random) {
  const pages = [{ text: Array(n).fill(null), fresh: [] }];
  const order = shuffled(n, random);
  for (let done = 0; done < n; done += k) {
    const before = pages.at(-1).text;
    const fresh = order.slice(done, done + k);
    const text = [...before];
    for (const i of fresh) text[i] = random() < chanceOfA(before, i) ? "A" : "B";
    pages.push({ text, fresh });
  }
  return pages;
}

/** Whether a finished text belongs to the language: no letter stands beside its like. */
export const isValid = (text) => text.every((letter, i) => i === 0 || letter !== text[i - 1]);

/** The chance that k letters drawn at once agree: all but the first must follow it. */
export const chanceValid = (k) => 2 ** (1 - k);

/** c_1 .. c_n: what a masked letter costs, in nats, when so many of n are masked. Nothing, unless all of them are. */
export const lettersCurve = (n) => [...Array(n - 1).fill(0), Math.LN2];
