// node --test web/explore     The maths of the explorables, each number found in two ways.

import assert from "node:assert/strict";
import { test } from "node:test";

import { rectangles } from "./blocks.js";
import { verdicts } from "./cost.js";
import { hiddenAt, pieces } from "./noise.js";
import { tallied } from "./parallel.js";
import { areaTo, beyondEnds, binomial, costAt, slices, withoutWeight } from "./area.js";
import { chanceOfA, chanceValid, isValid, lettersCurve, randomNumbers, shuffled, write } from "./letters.js";
import { expectedPasses, maskedShares, parallelBound, stepCounts } from "./pacing.js";
import * as reading from "./reading.js";
import { SCHEDULES, masked, meanShare } from "./schedules.js";

const TEXT = "Enter Cleo.\nCLEO: What a blue teapot!";
const near = (a, b, within = 1e-9) => assert.ok(Math.abs(a - b) <= within, `${a} is not ${b}`);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const mean = (numbers) => sum(numbers) / numbers.length;
const CURVE = Array.from({ length: 40 }, (_, i) => 0.3 + 3 * ((i + 1) / 40) ** 2 + 0.1 * Math.sin(i));

test("the weight is -alpha'/(1 - alpha), by differences", () => {
  for (const [name, { alpha, weight }] of Object.entries(SCHEDULES)) {
    for (const t of [0.01, 0.2, 0.5, 0.9, 0.99]) {
      const slope = (alpha(t + 1e-6) - alpha(t - 1e-6)) / 2e-6;
      near(weight(t) / (-slope / (1 - alpha(t))), 1, 1e-6);
      assert.ok(masked(name, t) > masked(name, t - 0.005), "what is hidden stays hidden");
    }
  }
});

test("mean shares are those that step 0 predicts", () => {
  const known = { linear: 0.5, cosine: 1 - 2 / Math.PI, maskgit_cosine: 2 / Math.PI, sqrt: 2 / 3, sigmoid: 0.5 };
  for (const [name, share] of Object.entries({ ...known, loglinear: 0.4995 })) near(meanShare(name), share, 1e-6);
});

test("binomial chances sum to one and have their mean", () => {
  for (const u of [0, 1e-9, 0.3, 0.97, 1]) {
    const p = binomial(127, u);
    near(sum(p), 1, 1e-10);
    near(sum(p.map((q, n) => n * q)), 127 * u, 1e-8);
  }
});

test("the area under m is its integral, and all of it the mean of the curve", () => {
  const parts = 4000;
  const integral = mean(Array.from({ length: parts }, (_, i) => costAt(CURVE, (0.6 * (i + 0.5)) / parts)));
  near(areaTo(CURVE, 0.6), 0.6 * integral, 1e-7);
  near(areaTo(CURVE, 1), mean(CURVE));
  near(costAt(CURVE, 1), CURVE.at(-1));
  near(costAt(CURVE, 0), CURVE[0]);
});

test("one area under every schedule, but for what lies beyond its ends", () => {
  for (const name of Object.keys(SCHEDULES)) {
    const inside = sum(slices(CURVE, name, 16).map((s) => s.nats));
    near(inside + beyondEnds(CURVE, name).nats, mean(CURVE), 1e-9);
  }
  assert.equal(beyondEnds(CURVE, "cosine").nats < 1e-12, true);
  assert.equal(beyondEnds(CURVE, "clipped_cosine").nats > 0.1, true);
});

test("a slice is the weighted loss of its time: the integral of w u m", () => {
  for (const name of Object.keys(SCHEDULES)) {
    const { t, nats } = slices(CURVE, name, 16)[9];
    const at = Array.from({ length: 2000 }, (_, i) => t[0] + ((t[1] - t[0]) * (i + 0.5)) / 2000);
    const loss = (s) => SCHEDULES[name].weight(s) * masked(name, s) * costAt(CURVE, masked(name, s));
    near(mean(at.map(loss)) * (t[1] - t[0]), nats, 1e-6);
  }
});

test("without its weight a loss depends on the schedule", () => {
  const flat = Array(40).fill(2);
  const losses = Object.keys(SCHEDULES).map((name) => withoutWeight(CURVE, name));
  assert.ok(Math.max(...losses) - Math.min(...losses) > 0.3);
  for (const name of Object.keys(SCHEDULES)) near(withoutWeight(flat, name), 2); // of a flat curve all means agree
  near(withoutWeight(CURVE, "linear"), 2 * mean(CURVE.map((c, i) => (c * (i + 1)) / 41)), 1e-4); // E 2 u m(u), exactly
});

test("the posterior of ABAB.. is what counting its two texts gives", () => {
  const texts = ["ABABABAB", "BABABABA"];
  for (const seen of ["........", "..A.....", ".B.B....", "B......A"]) {
    const text = [...seen].map((c) => (c === "." ? null : c));
    const possible = texts.filter((full) => text.every((c, i) => c === null || c === full[i]));
    for (let i = 0; i < 8; i++) near(chanceOfA(text, i), mean(possible.map((full) => Number(full[i] === "A"))));
  }
});

test("k letters at once are right with probability 2^(1-k)", () => {
  const random = randomNumbers(0);
  for (let k = 1; k <= 8; k++) {
    const n = 4000;
    const right = mean(Array.from({ length: n }, () => Number(isValid(write(8, k, random).at(-1).text))));
    const p = chanceValid(k);
    near(right, p, 4 * Math.sqrt((p * (1 - p)) / n));
  }
});

test("a text is written once and never overwritten", () => {
  const pages = write(8, 3, randomNumbers(1));
  assert.equal(pages.length, 4);
  assert.deepEqual(pages.flatMap((page) => page.fresh).sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
  for (const [i, { text, fresh }] of pages.entries()) {
    if (i) assert.ok(text.every((c, j) => fresh.includes(j) || c === pages[i - 1].text[j]));
  }
  assert.equal(isValid([..."ABABABAA"]), false);
});

test("a shuffle is a permutation, and its numbers repeat with the seed", () => {
  assert.deepEqual(
    shuffled(50, randomNumbers(3)).sort((a, b) => a - b),
    [...Array(50).keys()],
  );
  assert.equal(randomNumbers(7)(), randomNumbers(7)());
  const random = randomNumbers(11);
  near(mean(Array.from({ length: 10000 }, random)), 0.5, 4 / Math.sqrt(12 * 10000));
});

test("k at once cost k - 1 bits a text", () => {
  for (let k = 1; k <= 8; k++) {
    const counts = [k, ...Array(8 - k).fill(1)];
    near(
      8 * (parallelBound(lettersCurve(8), counts) - parallelBound(lettersCurve(8), Array(8).fill(1))),
      (k - 1) * Math.LN2,
    );
  }
});

test("as many steps as tokens cost the mean of the curve, one step its end", () => {
  near(parallelBound(CURVE, stepCounts(40, 40)), mean(CURVE));
  near(parallelBound(CURVE, stepCounts(1, 40)), CURVE.at(-1));
  assert.deepEqual(stepCounts(4, 12), [3, 3, 3, 3]);
  assert.deepEqual(stepCounts(3, 8), [3, 3, 2]);
});

test("passes are occupied boxes: T (1 - (1 - 1/T)^n)", () => {
  near(expectedPasses("linear", 40, 224), 40 * (1 - (39 / 40) ** 224), 1e-9);
  near(expectedPasses("linear", 1000, 224), 200.8, 0.05);
  for (const name of Object.keys(SCHEDULES)) near(sum(maskedShares(name, 7).slice(0, 1)), 1);
});

test("tokens read are the rows of the picture, counted", () => {
  const area = (rows) => sum(rows.map(([from, to]) => to - from));
  const L = 128;
  assert.equal(area(reading.rowsRead("cached", L, L - 1)), reading.gptWithCache(L).read);
  assert.equal(area(reading.rowsRead("uncached", L, L - 1)), reading.gptWithoutCache(L).read);
  assert.equal(area(reading.rowsRead("page", L, 32)), reading.diffusion(L, 32).read);
  assert.deepEqual(reading.gptWithoutCache(L), { passes: 127, read: 8128 }); // step 5 counts the same
  assert.deepEqual(reading.diffusion(L, 32), { passes: 32, read: 4096 });
  assert.deepEqual(reading.diffusion(L, 500), { passes: 127, read: 16256 });
  assert.ok(reading.ancestral(L, 500).passes < 127);
});

test("blocks: progress ends where the count does", () => {
  const known = { 1: [64, 127], 4: [32, 188], 16: [32, 560], 64: [32, 2048] }; // step 6 predicts and counts these
  for (const [n, [passes, read]] of Object.entries(known)) {
    assert.deepEqual(reading.blockCost(64, Number(n)), { passes, read });
    const last = reading.blockProgress(64, Number(n), passes);
    assert.deepEqual([last.read, last.written, last.end], [read, 64, 64]);
    assert.equal(reading.blockProgress(64, Number(n), 0).read, 0);
  }
});

test("pairs that may look at each other, counted one by one", () => {
  for (const n of [1, 4, 16, 64]) {
    let pairs = 0;
    for (let i = 0; i < 64; i++) for (let j = 0; j < 64; j++) pairs += reading.sees(i, j, n);
    assert.equal(pairs, reading.pairsSeen(64, n));
  }
});

test("every order of a shuffle is as likely", () => {
  const [random, n, found] = [randomNumbers(5), 20000, {}];
  for (let i = 0; i < n; i++) {
    const order = shuffled(3, random).join("");
    found[order] = (found[order] ?? 0) + 1;
  }
  assert.equal(Object.keys(found).length, 6);
  for (const times of Object.values(found)) near(times / n, 1 / 6, 4 * Math.sqrt(5 / 36 / n));
});

test("masks are nested in t, and as many as the schedule says", () => {
  const drawn = Array.from({ length: 5000 }, randomNumbers(2));
  for (const name of Object.keys(SCHEDULES)) {
    let before = drawn.map(() => false);
    for (let t = 0; t <= 1; t += 0.05) {
      const hidden = hiddenAt(name, t, drawn);
      assert.ok(before.every((is, i) => !is || hidden[i]));
      near(mean(hidden.map(Number)), masked(name, t), 4 * Math.sqrt(0.25 / 5000));
      before = hidden;
    }
  }
});

test("pieces are the text, and end where a line may break", () => {
  for (const text of ["", " ", "a  b\n\nc d", "one\ttwo 😀😀 three\n", TEXT]) {
    assert.equal(pieces(text).join(""), text);
    for (const piece of pieces(text)) assert.match(piece, /^\S*\s?$/u);
  }
});

test("the rectangles of attention are the pairs that see each other", () => {
  for (const n of [1, 4, 16, 64]) {
    const area = sum(
      rectangles(n)
        .flatMap(({ past, own }) => [past, own])
        .map(([, , width, height]) => width * height),
    );
    assert.equal(area, reading.pairsSeen(64, n));
  }
});

test("a tally counts all and keeps the last sixty", () => {
  let tally = { written: 0, valid: 0, last: [] };
  for (let i = 0; i < 100; i++) tally = tallied(tally, [...("AB"[i % 2] + "B")]);
  assert.deepEqual([tally.written, tally.valid, tally.last.length], [100, 50, 60]);
});

test("who is cheaper is said the right way round", () => {
  assert.deepEqual(verdicts(128, 32, "surest"), { passes: "4.0 × fewer", read: "32.3 × more", slow: "2.0 × fewer" });
  assert.deepEqual(verdicts(128, 1000, "surest"), { passes: "as many", read: "128 × more", slow: "2.0 × more" });
});
