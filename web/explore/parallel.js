// How many characters may be written in one pass? ABAB.. with an exact denoiser, k letters at once.

import { axes, button, count, frame, h, path, percent, range, readOut, s, slider, whenSized } from "./dom.js";
import { chanceValid, chanceOfA, isValid, randomNumbers, write } from "./letters.js";

const L = 8;
const MARKS = 60;
const MARGIN = { top: 30, right: 18, bottom: 44, left: 44 };

const WORDS = {
  title: "Several at once",
  question: "A filler of blanks can fill many of them in one pass. How many may it?",
  story: [
    "This language has two texts, ABABABAB and BABABABA, equally likely. The denoiser is exact: with one letter " +
      "visible it is sure of all the others.",
    "Letters that open in the same pass do not see each other. On an empty page each of them is A or B at even " +
      "odds, and so k of them agree with probability 2^(1−k). Choose k, press, and count.",
  ],
  answer:
    "As many as do not depend on each other. One at a time is the chain rule, and never wrong. Two at once are " +
    "wrong half of the time, and every letter more loses one more bit: k − 1 bits a text. The denoiser is " +
    "perfect, so no training helps; the error is the sampler’s own. In any language it is known beforehand: if " +
    "places are drawn by lot, it is the right Riemann sum of the curve above, less its area.",
  step: "step3_sampling",
  code: ["The cost of any plan", "microdlm/pacing.py"],
  papers: [
    ["Lavenant and Zanella", "2510.25544"],
    ["Chen, Cong and Li", "2511.04647"],
  ],
};

/** The counts of one k with one more text, and of the last MARKS texts whether each was valid. */
export function tallied({ written, valid, last }, text) {
  const right = isValid(text);
  return { written: written + 1, valid: valid + Number(right), last: [...last.slice(1 - MARKS), right] };
}

function letter(page, before, i) {
  const fresh = page.fresh.includes(i);
  const clash = page.text[i] !== null && page.text[i] === page.text[i - 1];
  const odds = before && fresh ? chanceOfA(before.text, i) : null;
  const belief = odds === null ? "" : odds === 0.5 ? "½" : "1";
  const kind = page.text[i] === null ? "hidden" : fresh ? "fresh" : "";
  return h("span", { class: `cell ${kind} ${clash ? "clash" : ""}` }, page.text[i] ?? "·", h("sub", {}, belief));
}

/** One row a pass: what stands there after it, what is new, and how sure the denoiser was of it. */
function filmStrip(pages) {
  const valid = isValid(pages.at(-1).text);
  const verdict = h("p", { class: `verdict ${valid ? "good" : "bad"}` }, valid ? "✓ valid" : "✗ not in the language");
  const rows = pages.map((page, i) =>
    h(
      "li",
      {},
      h("span", { class: "turn" }, i ? `pass ${i}` : "empty"),
      h(
        "span",
        { class: "cells" },
        page.text.map((_, at) => letter(page, pages[i - 1], at)),
      ),
    ),
  );
  return [h("ol", { class: "film", "aria-hidden": "true" }, rows), verdict];
}

/** The last texts, a mark each: a full one was valid, an empty one was not. */
const marks = (last) =>
  h(
    "div",
    { class: "marks", "aria-hidden": "true" },
    h("p", {}, `the last ${last.length} texts, full ones valid`),
    last.map((right) => h("i", { class: right ? "good" : "bad" })),
  );

function errorBar(X, Y, k, { written, valid }) {
  const p = valid / written;
  const error = 2 * Math.sqrt((p * (1 - p)) / written);
  const [low, high] = [Math.max(0, p - error), Math.min(1, p + error)];
  return [
    s("line", { class: "line diffusion", x1: X(k), x2: X(k), y1: Y(low), y2: Y(high) }),
    s("circle", { class: "point diffusion", cx: X(k), cy: Y(p), r: 5 }),
  ];
}

function chart(width, { k, counts }) {
  const { svg, X, Y, put } = axes(width, 300, {
    x: { from: 0.6, to: L + 0.4, ticks: range(1, L, L - 1), label: "letters at once, k" },
    y: { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1], told: (v) => percent(v), label: "texts that are valid" },
    margin: MARGIN,
    label: `Valid texts by k. Predicted for k = ${k}: ${percent(chanceValid(k), 1)}.`,
  });
  const points = range(1, L, L - 1).map((at) => [X(at), Y(chanceValid(at))]);
  put(
    s("rect", { class: "column", x: X(k - 0.4), y: MARGIN.top, width: X(0.4) - X(-0.4), height: Y(0) - MARGIN.top }),
    s("path", { class: "line exact dashed", d: path(points) }),
    points.map(([cx, cy]) => s("circle", { class: "ring exact", cx, cy, r: 7 })),
    s("text", { class: "note", x: X(2) + 12, y: Y(0.5) - 8 }, "predicted, 2^(1−k)"),
    counts.map((c, i) => c.written > 0 && errorBar(X, Y, i + 1, c)),
  );
  return svg;
}

const numbers = (counts) => [
  ["k", "passes", "predicted valid", "counted valid", "bits lost a text"],
  counts.map((c, i) => [
    `${i + 1}`,
    Math.ceil(L / (i + 1)),
    percent(chanceValid(i + 1), 1),
    c.written ? `${percent(c.valid / c.written, 1)} of ${count(c.written)}` : "none written",
    i,
  ]),
  "Texts of eight letters written k at a time",
];

export function mount(root) {
  const { stage, readouts, controls, say, tables } = frame(root, WORDS);
  const random = randomNumbers(2026);
  const now = { k: 2, counts: Array.from({ length: L }, () => ({ written: 0, valid: 0, last: [] })), pages: null };
  const [film, plot] = [h("div", { class: "film-box" }), h("div", { class: "plot" })];
  const redraw = whenSized(plot, (width) => plot.replaceChildren(chart(width, now)));

  function update() {
    const { written, valid, last } = now.counts[now.k - 1];
    film.replaceChildren(...filmStrip(now.pages), marks(last));
    readOut(readouts, [
      ["passes for 8 letters", `${Math.ceil(L / now.k)}`],
      ["predicted valid", percent(chanceValid(now.k), 1)],
      ["counted valid", written ? `${percent(valid / written, 1)} of ${count(written)}` : "press to write", "strong"],
      ["lost", `${now.k - 1} bit${now.k === 2 ? "" : "s"} a text`],
    ]);
    redraw();
    tables(numbers(now.counts));
    say(
      `${now.k} at once. The text ${now.pages.at(-1).text.join("")} is ${isValid(now.pages.at(-1).text) ? "" : "not "}` +
        `valid. ${valid} of ${written} were valid; predicted ${percent(chanceValid(now.k), 1)}.`,
    );
  }
  /** Write n texts and show the last of them. */
  function more(n) {
    for (let i = 0; i < n; i++) {
      now.pages = write(L, now.k, random);
      now.counts[now.k - 1] = tallied(now.counts[now.k - 1], now.pages.at(-1).text);
    }
    update();
  }
  const knob = slider({
    label: "letters at once, k",
    min: 1,
    max: L,
    value: now.k,
    told: String,
    changed: (k) => ((now.k = k), more(1)),
  });
  stage.append(h("div", { class: "beside even" }, film, plot));
  const buttons = [1, 100, 1000].map((n) => button(n === 1 ? "Write one" : `Write ${count(n)}`, () => more(n)));
  controls.append(knob.element, h("div", { class: "buttons" }, buttons));
  more(100);
}
