// Does diffusion write faster than a GPT? Forward passes against tokens read, counted exactly.

import { axes, choice, count, frame, h, load, path, range, readOut, s, slider, whenSized } from "./dom.js";
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
      "many steps most open none, and need no pass.",
  ],
  answer:
    "By passes it does, by tokens read it does not. Fewer passes pay where a pass takes as long however much it " +
    "reads, on parallel hardware with time to spare. Where reading is what takes time, they do not: on one " +
    "thread of a CPU the " +
    `twins of step 5 write 128 characters, and diffusion in 32 passes takes ${d.slower.mean.toFixed(1)} ± ` +
    `${d.slower.sd.toFixed(1)} times as long as the GPT with its cache.`,
  step: "step5_twins",
  code: "Counted by microdlm/cost.py; seconds: results/steps.json.",
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
  const [tens, thousands] = [
    [1, 10, 100, 1000],
    [10, 1000, 100000],
  ];
  const { svg, X, Y, put } = axes(width, 320, {
    x: { from: 0.8, to: 1400, ticks: tens, told: count, log: true, label: "forward passes" },
    y: {
      from: 10,
      to: 2e6,
      ticks: [...thousands, 1e6].sort((a, b) => a - b).filter((v) => v !== 10),
      told: short,
      log: true,
      label: "tokens read",
    },
    margin: MARGIN,
    label: `Passes and tokens read for ${L} tokens.`,
  });
  const all = Object.entries(costs(L, steps, way));
  const line = range(0, Math.log(L - 1), 40)
    .map((v) => Math.exp(v))
    .map((passes) => [X(passes), Y(passes * L)]);
  put(
    s("path", { class: "line faint diffusion", d: path(line) }),
    all.map(([, { passes, read, look, mark }]) => shape(mark, look, X(passes), Y(read))),
    all.map(([name, { passes, read, look }], i) => {
      const left = X(passes) > width / 2;
      return s(
        "text",
        {
          class: `note ${look}`,
          x: X(passes) + (left ? -12 : 12),
          y: Y(read) + (i === 1 ? 4 : i === 0 ? 18 : -10),
          "text-anchor": left ? "end" : "start",
        },
        name,
      );
    }),
  );
  return svg;
}

const short = (v) => (v >= 1e6 ? `${v / 1e6}M` : v >= 1e3 ? `${v / 1e3}k` : `${v}`);
const times = (ratio) => (ratio >= 100 ? count(ratio) : ratio.toFixed(1));

/** Who is cheaper, and how much, as a sentence on each count. */
export function verdicts(L, steps, way) {
  const { "GPT with cache": gpt, diffusion: page } = costs(L, steps, way);
  const [passes, read] = [gpt.passes / page.passes, page.read / gpt.read];
  return {
    passes: passes > 1.005 ? `${times(passes)} × fewer` : "as many",
    read: `${times(read)} × more`,
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

export async function mount(root) {
  const d = await load("cost");
  const { stage, readouts, controls, say, table } = frame(root, words(d));
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
    const { passes, read } = verdicts(now.L, now.steps, now.way);
    readOut(readouts, [
      ["diffusion’s passes, beside the GPT’s", passes, "strong diffusion"],
      ["tokens it reads, beside the GPT with cache", read, "strong gpt"],
      ["tokens it reads for each one written", (all.diffusion.read / (now.L - 1)).toFixed(1)],
    ]);
    redraw.forEach((again) => again());
    table(...numbers(now));
    say(
      `${now.L} tokens in ${now.steps} steps: diffusion makes ${Math.round(all.diffusion.passes)} passes, ${passes}, and reads ` +
        `${count(all.diffusion.read)} tokens, ${read} than the GPT with its cache.`,
    );
  }
  const set = (changes) => (Object.assign(now, changes), update());
  stage.append(inks, plot);
  controls.append(
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
  );
  update();
}
