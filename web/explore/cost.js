// Does diffusion write faster than a GPT? Forward passes against tokens read, counted exactly.

import { axes, choice, count, frame, h, path, range, readOut, s, slider, whenSized, withData } from "./dom.js";
import { ancestral, diffusion, gptWithCache, gptWithoutCache, rowsRead } from "./reading.js";

const LENGTHS = [32, 64, 128, 256, 512, 1024];
const STEPS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000];
const MARGIN = { top: 30, right: 24, bottom: 46, left: 52 };
const WAYS = { surest: diffusion, ancestral };

const words = (d) => ({
  title: "Two kinds of cost",
  question: "Does a diffusion model write faster than a GPT?",
  story: [
    "A GPT with its cache reads one new token in each pass, a diffusion model the whole page. So there are two " +
      "counts, and they disagree about who is cheaper.",
    "Surest first opens as many blanks in each step as it must. Ancestral sampling lets each blank open by lot: of " +
      "1,000 steps most open none, and need no pass.",
  ],
  answer:
    "By passes it does. By tokens read it does not, unless the GPT has no cache and the steps are few. Fewer passes " +
    "pay where a pass takes as long however much it reads, on parallel hardware with time to spare. Where reading is " +
    "what takes time they do not: when the twins of step 5 write 128 characters, 16 texts at once on one thread of a " +
    `CPU, diffusion in 32 passes takes ${d.slower.mean.toFixed(1)} ± ${d.slower.sd.toFixed(1)} times as long as the ` +
    "GPT with its cache.",
  step: "step5_twins",
  code: ["The seconds", "results/steps.json"],
  papers: [
    ["LLaDA", "2502.09992"],
    ["Ni et al.", "2511.03276"],
  ],
});

/** The three ways to write L tokens, the first given. */
export function costs(L, steps, way) {
  return {
    "GPT with cache": { ...gptWithCache(L), look: "gpt", mark: "square", kind: "cached" },
    "GPT without cache": { ...gptWithoutCache(L), look: "gpt", mark: "hollow", kind: "uncached" },
    diffusion: { ...WAYS[way](L, steps), look: "diffusion", mark: "circle", kind: "page" },
  };
}

/** What is read, drawn to one scale: a row a pass, a column a token. The ink is the count. */
function ink(name, { passes, read, look, kind }, L, unit) {
  const rows = Math.round(passes);
  const height = Math.ceil(unit * (L - 1));
  const [width, bottom] = [unit * L, unit * rows];
  const outline = {
    cached: rowsRead("cached", L, rows)
      .map(([from, to], i) => `M${from * unit} ${i * unit}h${(to - from) * unit}v${unit}h${-(to - from) * unit}z`)
      .join(""),
    uncached: `M0 0L${unit} 0L${bottom + unit} ${bottom}L0 ${bottom}Z`,
    page: `M0 0H${width}V${bottom}H0Z`,
  }[kind];
  return h(
    "div",
    { class: "ink" },
    s(
      "svg",
      { width: width + 2, height: height + 2, viewBox: `-1 -1 ${width + 2} ${height + 2}`, "aria-hidden": "true" },
      s("rect", { class: "outline", x: 0, y: 0, width, height }),
      s("path", { class: `ink-fill ${look} ${kind}`, d: outline }),
    ),
    h(
      "p",
      {},
      h("strong", { class: look }, name),
      h("br"),
      `${passes % 1 > 1e-9 ? passes.toFixed(1) : count(passes)} passes`,
      h("br"),
      `${count(read)} tokens read`,
    ),
  );
}

function shape(kind, look, x, y) {
  const square = { class: `point ${look} ${kind}`, x: x - 6, y: y - 6, width: 12, height: 12 };
  return kind === "circle" ? s("circle", { class: `point ${look}`, cx: x, cy: y, r: 7 }) : s("rect", square);
}

function chart(width, { L, steps, way }) {
  const tens = (from, to) => range(from, to, to - from).map((power) => 10 ** power);
  const { svg, X, Y, put } = axes(width, 320, {
    x: { from: 0.8, to: 2500, ticks: tens(0, 3), told: count, log: true, label: "forward passes" },
    y: { from: 10, to: 3e6, ticks: tens(1, 6), told: short, log: true, label: "tokens read" },
    margin: MARGIN,
    label: `Passes and tokens read for ${L} tokens, on logarithmic axes.`,
  });
  const line = range(0, Math.log(L - 1), 40).map((v) => [X(Math.exp(v)), Y(Math.exp(v) * L)]);
  put(
    s("path", { class: "line faint diffusion", d: path(line) }),
    Object.entries(costs(L, steps, way)).map(([name, one]) => mark(name, one, X(one.passes), Y(one.read), width)),
  );
  return svg;
}

/** A point and its name: diffusion's above the line that it moves along, a GPT's beside it where there is room. */
function mark(name, { look, mark: kind }, x, y, width) {
  const before = look === "diffusion" ? x > 140 : x > width - (width < 480 ? 75 : 150);
  const drop = look === "diffusion" ? -12 : before ? 22 : 4;
  const place = { x: x + (before ? -10 : 12), y: y + drop, "text-anchor": before ? "end" : "start" };
  const short = width < 480 ? name.replace(/GPT with(out)? cache/, (_, out) => (out ? "no cache" : "cache")) : name;
  return [shape(kind, look, x, y), s("text", { class: `note ${look}`, ...place }, short)];
}

const short = (v) => (v >= 1e6 ? `${v / 1e6}M` : v >= 1e3 ? `${v / 1e3}k` : `${v}`);
const times = (ratio) => (ratio >= 100 ? count(ratio) : ratio.toFixed(1));

/** Who is cheaper, and how much, as a sentence on each count. */
export function verdicts(L, steps, way) {
  const { "GPT with cache": gpt, "GPT without cache": slow, diffusion: page } = costs(L, steps, way);
  const compared = (ratio) =>
    ratio > 1 ? `${times(ratio)} × more` : ratio < 1 ? `${times(1 / ratio)} × fewer` : "as many";
  return {
    passes: compared(page.passes / gpt.passes),
    read: compared(page.read / gpt.read),
    slow: compared(page.read / slow.read),
  };
}

function numbers({ L, steps, way }) {
  const rows = Object.entries(costs(L, steps, way)).map(([name, { passes, read }]) => [
    name,
    passes % 1 > 1e-9 ? passes.toFixed(1) : count(passes),
    count(read),
    (read / (L - 1)).toFixed(1),
  ]);
  return [
    ["way to write", "passes", "tokens read", "read for each token written"],
    rows,
    `${L} tokens, the first given; diffusion in ${count(steps)} steps`,
  ];
}

export function mount(root) {
  return withData(root, "cost", (d) => show(root, d));
}

function show(root, d) {
  const { stage, readouts, controls, say, tables } = frame(root, words(d));
  const now = { L: 128, steps: 32, way: "surest" };
  const [inks, plot] = [h("div", { class: "inks" }), h("div", { class: "plot" })];
  const redraw = [
    whenSized(inks, (width) => {
      const unit = Math.min(1.6, (width - 44) / 3 / now.L, 200 / now.L);
      inks.replaceChildren(
        ...Object.entries(costs(now.L, now.steps, now.way)).map(([name, one]) => ink(name, one, now.L, unit)),
      );
    }),
    whenSized(plot, (width) => plot.replaceChildren(chart(width, now))),
  ];

  function update() {
    const all = costs(now.L, now.steps, now.way);
    const { passes, read, slow } = verdicts(now.L, now.steps, now.way);
    readOut(readouts, [
      ["passes, beside the GPT", passes, "strong"],
      ["tokens, beside the GPT with cache", read, "strong"],
      ["tokens, beside the GPT without", slow, "strong"],
    ]);
    redraw.forEach((again) => again());
    tables(numbers(now));
    say(
      `${now.L} tokens in ${now.steps} steps: diffusion makes ${Math.round(all.diffusion.passes)} passes, ${passes}, ` +
        `and reads ${count(all.diffusion.read)} tokens, ${read} than the GPT with its cache.`,
    );
  }
  const set = (changes) => (Object.assign(now, changes), update());
  stage.append(inks, plot);
  controls.append(...handles(now, set));
  update();
}

const handles = (now, set) => [
  slider({
    label: "length of the text",
    min: 0,
    max: LENGTHS.length - 1,
    value: LENGTHS.indexOf(now.L),
    told: (i) => `${count(LENGTHS[i])} tokens`,
    changed: (i) => set({ L: LENGTHS[i] }),
  }).element,
  slider({
    label: "steps of diffusion",
    min: 0,
    max: STEPS.length - 1,
    value: STEPS.indexOf(now.steps),
    told: (i) => count(STEPS[i]),
    changed: (i) => set({ steps: STEPS[i] }),
  }).element,
  choice({
    label: "blanks open",
    options: { surest: "surest first", ancestral: "by lot (ancestral)" },
    value: now.way,
    changed: (way) => set({ way }),
  }),
];
