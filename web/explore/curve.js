// When is masked cross-entropy a likelihood? One curve, its area, and the schedule that only cuts it up.

import { areaTo, beyondEnds, costAt, slices, withoutWeight } from "./area.js";
import { axes, choice, frame, h, path, percent, range, readOut, s, slider, whenSized, withData } from "./dom.js";
import { SCHEDULES } from "./schedules.js";

const PARTS = 16;
const MARGIN = { top: 30, right: 22, bottom: 46, left: 36 };
const CURVES = { "no context": "other", transformer: "diffusion", exact: "exact dashed" };

const WORDS = {
  title: "One curve, one number",
  question: "When is masked cross-entropy a likelihood?",
  story: [
    "The curve is what a hidden character costs when a share u of the text is hidden: measured for the small " +
      "network of step 2 on the built-in language, whose exact curve is known too. The area under it is an upper " +
      "bound on −log p, per character: the NELBO.",
    "A schedule says only where on this axis time is spent. Sixteen equal parts of time cut the area into slices, " +
      "narrow where the schedule lingers, wide where it hurries. Drawn against time they are all as wide, and the " +
      "weight w(t) makes each as high as its area asks.",
  ],
  answer:
    "When every slice counts with its own area, and the slices go all the way from clean text to nothing but MASK. " +
    "Then the sum is the same under every schedule. Leave the weight out, as many a “validation loss” does, and " +
    "one network gets another number under each of them; stop short of the ends, and what is left over is no " +
    "bound.",
  step: "step4_likelihood",
  code: ["The curve", "results/curve.json"],
  papers: [
    ["MDLM", "2406.07524"],
    ["MD4", "2406.04329"],
  ],
};

/** m(u) at evenly spaced u, once for each denoiser: drawing needs it at every move of a slider. */
export const sampled = (curve, points = 160) => range(0, 1, points).map((u) => [u, costAt(curve, u)]);

const inside = (points, [from, to], curve) => [
  [from, costAt(curve, from)],
  ...points.filter(([u]) => u > from && u < to),
  [to, costAt(curve, to)],
];

/** The strip of the area that belongs to one part of time. */
function strip(points, curve, X, Y, { u }, kind) {
  const top = inside(points, u, curve).map(([at, nats]) => [X(at), Y(nats)]);
  return s("path", { class: kind, d: `${path(top)}L${X(u[1])} ${Y(0)}L${X(u[0])} ${Y(0)}Z` });
}

const kindOf = (i, chosen) => `slice ${i % 2 ? "odd" : "even"} ${i === chosen ? "chosen" : ""}`;

/** On the left: nats against the share hidden. Under every schedule the same curve and the same area. */
function inShares(width, { data, drawn, cut, part, schedule }) {
  const nats = { from: 0, to: 3.7, ticks: [0, 1, 2, 3], label: "nats per hidden character" };
  const { svg, X, Y, put } = axes(width, 300, {
    x: { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1], told: (v) => percent(v), label: "share hidden, u" },
    y: nats,
    margin: MARGIN,
    label: `Nats per hidden character against the share hidden, in ${PARTS} slices of equal time under ${schedule}.`,
  });
  const curve = data.transformer.nats;
  const { low, high } = beyondEnds(curve, schedule);
  const missing = [
    [0, low],
    [high, 1],
  ].filter(([from, to]) => to - from > 2e-3);
  put(
    missing.map((u) => strip(drawn.transformer, curve, X, Y, { u }, "missing")),
    cut.map((slice, i) => strip(drawn.transformer, curve, X, Y, slice, kindOf(i, part))),
    Object.entries(CURVES).map(([name, look]) =>
      s("path", { class: `line ${look}`, d: path(drawn[name].map(([u, c]) => [X(u), Y(c)])) }),
    ),
    s("text", { class: "note other", x: X(0.5), y: Y(3.45), "text-anchor": "middle" }, "without context"),
    s("text", { class: "note diffusion", x: X(0.42), y: Y(1.62), "text-anchor": "middle" }, "network"),
    s("text", { class: "note exact", x: X(0.83), y: Y(0.4) }, "exact"),
  );
  return svg;
}

/** On the right: the same slices in time. Equal widths, and as high as their area asks for. */
function inTime(width, { cut, part, schedule }) {
  const height = Math.max(...cut.map(({ nats }) => nats * PARTS));
  const step = height > 5 ? 2 : 1;
  const { svg, X, Y, put } = axes(width, 300, {
    x: { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1], label: "time t" },
    y: {
      from: 0,
      to: Math.max(3.7, 1.05 * height),
      ticks: range(0, step * Math.floor(Math.max(3.7, height) / step), Math.floor(Math.max(3.7, height) / step)),
      label: "the same slices in time: weighted loss",
    },
    margin: MARGIN,
    label: `The weighted loss in time under ${schedule}: ${PARTS} bars, each with the area of its slice.`,
  });
  put(
    cut.map(({ t, nats }, i) =>
      s("rect", {
        class: kindOf(i, part),
        x: X(t[0]),
        width: X(t[1]) - X(t[0]),
        y: Y(nats * PARTS),
        height: Y(0) - Y(nats * PARTS),
      }),
    ),
  );
  return svg;
}

/** The sum of all slices, and what habit makes of the same curve, under each schedule. Computed once. */
export function sums(curve) {
  return Object.fromEntries(
    Object.keys(SCHEDULES).map((name) => [
      name,
      {
        area: areaTo(curve, 1) - beyondEnds(curve, name).nats,
        ...beyondEnds(curve, name),
        loss: withoutWeight(curve, name),
      },
    ]),
  );
}

function pointTable(data) {
  const at = range(0, 1, 8).map((u) => [
    percent(u, 1),
    ...Object.keys(CURVES).map((name) => costAt(data[name].nats, u).toFixed(2)),
  ]);
  return [["share hidden", ...Object.keys(CURVES)], at, "The curves: nats per hidden character"];
}

function numbers(all, schedule) {
  const rows = Object.entries(all).map(([name, { area, low, high, loss }]) => [
    name + (name === schedule ? " (chosen)" : ""),
    `${percent(low, 1)} to ${percent(high, 1)}`,
    area.toFixed(3),
    loss.toFixed(3),
  ]);
  return [
    ["schedule", "u goes from, to", "sum of slices, nats", "without the weight"],
    rows,
    "The network’s curve under seven schedules, nats per character",
  ];
}

export function mount(root) {
  return withData(root, "curve", (data) => show(root, data));
}

function show(root, data) {
  const { stage, readouts, controls, say, tables } = frame(root, WORDS);
  const drawn = Object.fromEntries(Object.keys(CURVES).map((name) => [name, sampled(data[name].nats)]));
  const all = sums(data.transformer.nats);
  const now = { data, drawn, schedule: "cosine", part: 10, cut: slices(data.transformer.nats, "cosine", PARTS) };
  const points = pointTable(data);
  const [left, right] = [h("div", { class: "plot" }), h("div", { class: "plot" })];
  const redraw = [
    whenSized(left, (width) => left.replaceChildren(inShares(width, now))),
    whenSized(right, (width) => right.replaceChildren(inTime(width, now))),
  ];

  function update() {
    const [{ t, u, nats }, sum] = [now.cut[now.part], all[now.schedule]];
    const [whole, error] = [sum.nats < 5e-4, data.transformer.area_stderr.toFixed(3)];
    readOut(readouts, [
      ["sum of the slices", `${sum.area.toFixed(3)}${whole ? ` ± ${error}` : ""} nats`, "strong diffusion"],
      ["beyond the ends", whole ? "nothing" : `${sum.nats.toFixed(3)} nats: no bound yet`],
      ["without the weight", `${sum.loss.toFixed(3)} nats`],
      ["this slice", `${nats.toFixed(3)} nats`],
    ]);
    redraw.forEach((again) => again());
    tables(numbers(all, now.schedule), points);
    say(
      `${now.schedule}: the slices sum to ${sum.area.toFixed(3)} nats per character. From t = ${t[0].toFixed(2)} to ` +
        `${t[1].toFixed(2)} the share hidden grows from ${percent(u[0])} to ${percent(u[1])} and adds ` +
        `${nats.toFixed(3)}. Without the weight the loss is ${sum.loss.toFixed(3)}.`,
    );
  }
  const choose = (schedule) => {
    Object.assign(now, { schedule, cut: slices(data.transformer.nats, schedule, PARTS) });
    part.set(now.part);
    update();
  };
  const told = (i) => now.cut[i].u.map((u) => percent(u)).join(" to ") + " hidden";
  const part = slider({
    label: "one part of time",
    min: 0,
    max: PARTS - 1,
    value: now.part,
    told,
    changed: (i) => ((now.part = i), update()),
  });
  stage.append(h("div", { class: "beside even" }, left, right));
  const options = Object.fromEntries(Object.keys(SCHEDULES).map((name) => [name, name]));
  controls.append(choice({ label: "schedule", options, value: now.schedule, changed: choose }), part.element);
  update();
}
