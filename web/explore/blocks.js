// Is there anything between a GPT and a diffusion model? Block length from 1 to the whole page.

import { axes, count, frame, h, path, readOut, s, slider, whenSized, withData } from "./dom.js";
import { randomNumbers, shuffled } from "./letters.js";
import { blockCost, blockProgress, pairsSeen } from "./reading.js";

const L = 64;
const LENGTHS = [1, 4, 16, 64];
const MARGIN = { top: 30, right: 12, bottom: 44, left: 36 };

const words = (d) => ({
  title: "From GPT to diffusion",
  question: "A GPT writes from left to right, a diffusion model anywhere. Is there anything in between?",
  story: [
    "Blocks from left to right, and inside a block any order. In blocks of one token this is the GPT’s chain rule; " +
      "one block as long as the page is plain diffusion.",
    "A token sees its own block and the blocks before it. The block in work is read again in every pass, which " +
      "writes two of its tokens; a finished block is read once more, and remembered.",
  ],
  answer: [
    "Yes: blocks of every length. An exact denoiser scores the same with all of them: blocks cost no likelihood by " +
      "themselves. What grows with the block is how much there is to learn. After equally many steps of training, " +
      "a small network reaches ",
    LENGTHS.map((n) => `${n > 1 ? "≤\u00a0" : ""}${d.lengths[n].mean.toFixed(2)}`).join(", "),
    ` nats per character at lengths ${LENGTHS.join(", ")}, where a GPT reaches ${d.gpt.mean.toFixed(2)} and the ` +
      `exact value is ${d.exact.mean.toFixed(2)}. Tokens read grow too; passes fall no further than the tokens ` +
      "opened at once allow.",
  ],
  step: "step6_blocks",
  code: ["The numbers, of three seeds", "results/steps.json"],
  papers: [["BD3-LM", "2503.09573"]],
});

/** Who (row) may look at whom (column), as few rectangles as there are blocks: the past, and the block itself. */
export function rectangles(n) {
  return Array.from({ length: L / n }, (_, b) => ({ past: [0, b * n, b * n, n], own: [b * n, b * n, n, n] }));
}

function attention(width, { n, pass }) {
  const unit = Math.floor(Math.min(width, 340) / L);
  const size = unit * L;
  const rect = ([x, y, w, height], kind) =>
    s("rect", { class: kind, x: x * unit, y: y * unit, width: w * unit, height: height * unit });
  const { start } = blockProgress(L, n, pass);
  const label = `Attention among ${L} tokens in blocks of ${n}: ${count(pairsSeen(L, n))} of ${count(L * L)} pairs.`;
  return s(
    "svg",
    { width: size + 2, height: size + 2, viewBox: `-1 -1 ${size + 2} ${size + 2}`, role: "img", "aria-label": label },
    rectangles(n).map(({ past, own }) => [rect(past, "past"), rect(own, "own")]),
    s("rect", { class: "outline", x: 0, y: 0, width: size, height: size }),
    pass > 0 && s("rect", { class: "working", x: 0, y: start * unit, width: size, height: n * unit }),
  );
}

/** When each token has its turn within its block: any order, here one by lot. */
export function turns(n) {
  const random = randomNumbers(n);
  return Array.from({ length: L / n }, () => shuffled(n, random)).flat();
}

/** The page while it is written: what is remembered, what is in work, what is still blank. */
function pageRow({ n, pass }) {
  const { start, end, written } = blockProgress(L, n, pass);
  const turn = turns(n);
  const inside = (i) => (turn[i] < written - start ? "work done" : "work");
  const kind = (i) => (pass === 0 || i >= end ? "blank" : i < start ? "kept" : inside(i));
  const cells = Array.from({ length: L }, (_, i) => h("span", { class: `${kind(i)} ${i % n === 0 ? "first" : ""}` }));
  return h("div", { class: "page-row", "aria-hidden": "true" }, cells);
}

function scores(width, d, n) {
  const { svg, X, Y, put } = axes(width, 340, {
    x: { from: -0.3, to: 3.3, ticks: [0, 1, 2, 3], told: (i) => LENGTHS[i], label: "block length" },
    y: { from: 0, to: 3.6, ticks: [0, 1, 2, 3], label: "nats per character" },
    margin: MARGIN,
    label: "Nats per character by block length, measured with three seeds.",
  });
  const level = (nats, look, name, drop) => [
    s("path", {
      class: `line thin ${look}`,
      d: path([
        [X(-0.3), Y(nats)],
        [X(3.3), Y(nats)],
      ]),
    }),
    s("text", { class: `note ${look.split(" ")[0]}`, x: X(3.3), y: Y(nats) + drop, "text-anchor": "end" }, name),
  ];
  put(
    level(d.letters.mean, "other", "each letter alone", -8),
    level(d.gpt.mean, "gpt dotted", "a GPT", -8),
    level(d.exact.mean, "exact dashed", "the exact value", 18),
    s("path", { class: "line faint diffusion", d: path(LENGTHS.map((at, i) => [X(i), Y(d.lengths[at].mean)])) }),
    LENGTHS.map((at, i) => mark(X(i), Y, d.lengths[at], at, at === n)),
  );
  return svg;
}

function mark(x, Y, { mean, sd }, length, chosen) {
  const look = length === 1 ? "gpt" : "diffusion";
  const shape =
    length === 1
      ? s("rect", { class: `point ${look}`, x: x - 5, y: Y(mean) - 5, width: 10, height: 10 })
      : s("circle", { class: `point ${look}`, cx: x, cy: Y(mean), r: 5.5 });
  return [
    s("line", { class: `line ${look}`, x1: x, x2: x, y1: Y(mean - sd), y2: Y(mean + sd) }),
    chosen && s("circle", { class: "ring strong", cx: x, cy: Y(mean), r: 11 }),
    shape,
    s(
      "text",
      { class: `note ${look}`, x, y: Y(mean) - 17, "text-anchor": "middle" },
      `${length > 1 ? "≤\u00a0" : ""}${mean.toFixed(2)}`,
    ),
  ];
}

function numbers(d) {
  const rows = LENGTHS.map((n) => {
    const { passes, read } = blockCost(L, n);
    const { mean, sd } = d.lengths[n];
    return [
      `${n}`,
      `${n > 1 ? "≤\u00a0" : ""}${mean.toFixed(3)} ± ${sd.toFixed(3)}`,
      passes,
      count(read),
      count(pairsSeen(L, n)),
    ];
  });
  rows.push(["a GPT", `${d.gpt.mean.toFixed(3)} ± ${d.gpt.sd.toFixed(3)}`, "", "", ""]);
  rows.push(["exact", d.exact.mean.toFixed(3), "", "", ""], ["letters alone", d.letters.mean.toFixed(3), "", "", ""]);
  return [
    ["block length", "nats per character", "passes", "tokens read", "pairs that see each other"],
    rows,
    `Texts of ${L} tokens; ± is one standard deviation over three seeds`,
  ];
}

export function mount(root) {
  return withData(root, "blocks", (d) => show(root, d));
}

function show(root, d) {
  const { stage, readouts, controls, say, tables } = frame(root, words(d));
  const now = { n: 4, pass: 13 };
  const [mask, plot, row] = [h("div", { class: "plot mask" }), h("div", { class: "plot" }), h("div", {})];
  const redraw = [
    whenSized(mask, (width) => mask.replaceChildren(attention(width, now))),
    whenSized(plot, (width) => plot.replaceChildren(scores(width, d, now.n))),
  ];

  function update() {
    const [{ passes, read }, at, score] = [blockCost(L, now.n), blockProgress(L, now.n, now.pass), d.lengths[now.n]];
    row.replaceChildren(pageRow(now));
    readOut(readouts, [
      ["passes", `${now.pass} of ${passes}`],
      ["tokens read", `${count(at.read)} of ${count(read)}`],
      ["tokens written", `${at.written} of ${L}`],
      [
        "nats per character",
        `${now.n > 1 ? "≤\u00a0" : ""}${score.mean.toFixed(2)} ± ${score.sd.toFixed(2)}`,
        "strong",
      ],
    ]);
    redraw.forEach((again) => again());
    tables(numbers(d));
    say(
      `Blocks of ${now.n}: ${passes} passes read ${count(read)} tokens for ${L}; measured ${score.mean.toFixed(2)} ` +
        `nats per character. After pass ${now.pass}, ${at.written} are written.`,
    );
  }
  const handles = sliders(now, update);
  stage.append(row, h("div", { class: "beside even" }, h("div", {}, mask, legend()), plot));
  controls.append(...handles);
  update();
}

/** Of block length and of the pass; a new length keeps the share of the passes that are done. */
function sliders(now, update) {
  const film = slider({
    label: "pass",
    min: 0,
    max: blockCost(L, now.n).passes,
    value: now.pass,
    told: (p) => `${p}`,
    changed: (pass) => ((now.pass = pass), update()),
  });
  const knob = slider({
    label: "block length",
    min: 0,
    max: LENGTHS.length - 1,
    value: LENGTHS.indexOf(now.n),
    told: (i) => [`${LENGTHS[i]}`, i === 0 ? ", as a GPT" : i === 3 ? ", diffusion" : ""].join(""),
    changed: (i) => {
      const share = now.pass / blockCost(L, now.n).passes;
      now.n = LENGTHS[i];
      film.input.max = blockCost(L, now.n).passes;
      now.pass = Math.round(share * film.input.max);
      film.set(now.pass);
      update();
    },
  });
  return [knob.element, film.element];
}

const legend = () =>
  h(
    "ul",
    { class: "key" },
    [
      ["past", "the past, as a GPT sees it"],
      ["own", "the own block, as diffusion sees it"],
      ["nothing", "not seen"],
    ].map(([kind, name]) => h("li", {}, h("i", { class: kind, "aria-hidden": "true" }), name)),
  );
