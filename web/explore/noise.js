// What is noise, for text? A text of the reader's own dissolves under one of seven schedules.

import {
  axes,
  button,
  choice,
  count,
  frame,
  h,
  path,
  percent,
  play,
  range,
  readOut,
  s,
  slider,
  whenSized,
} from "./dom.js";
import { randomNumbers } from "./letters.js";
import { LOOKS, named } from "./looks.js";
import { SCHEDULES, masked, meanShare } from "./schedules.js";

const TEXT = "Enter Cleo.\nCLEO: What a blue teapot!\nFOX: The eager giant laughs softly.";
const LONGEST = 240;
const MARGIN = { top: 28, right: 14, bottom: 44, left: 46 };

const WORDS = {
  title: "Noise, for text",
  question: "An image can be made a little noisier. What is a little noise, for text?",
  story: [
    "Some of its characters are hidden behind one more symbol, MASK: here a grey dot. Time t runs from 0, clean, " +
      "to 1, all noise. A schedule says which share u of a text is hidden at time t.",
    "Every character draws one number, once, and is visible while alpha = 1 − u lies above it. So while t grows, " +
      "what is hidden stays hidden. Move t back, and what comes back is green.",
  ],
  answer:
    "A little noise is a few characters hidden. Each is hidden on its own, so the count scatters around u times the " +
    "length. The seven schedules differ in nothing but pace. Two of them are called “cosine” in published code: one " +
    "hides 64% of a text on average, the other 36%.",
  step: "step0_masking",
  code: ["The curves", "microdlm/schedules.py"],
  papers: [
    ["D3PM", "2107.03006"],
    ["MDLM", "2406.07524"],
  ],
};

/** Which of so many characters are hidden at time t, given the number that each has drawn. Nested in t. */
export const hiddenAt = (schedule, t, drawn) => drawn.map((number) => number >= 1 - masked(schedule, t));

/** Cut a text after its spaces and line breaks, so that a line can break there whatever is hidden. */
export const pieces = (text) => text.match(/\S*\s|\S+/gu) ?? [];

function sheet(text, hidden, fresh) {
  let i = 0;
  const letter = (c) => {
    const shown = hidden[i] ? "·" : c === "\n" ? "↵" : c;
    const kind = hidden[i] ? "hidden" : fresh[i] ? "fresh" : c === "\n" ? "break" : "";
    i++;
    return h("span", { class: kind }, shown);
  };
  return pieces(text).flatMap((piece) => {
    const word = h("span", { class: "word" }, [...piece].map(letter));
    return piece.endsWith("\n") ? [word, h("br")] : [word];
  });
}

function curves(width, { schedule, t }) {
  const share = { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1], told: (v) => percent(v) };
  const time = { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1], label: "time t" };
  const label = `Seven schedules. ${schedule} hides ${percent(masked(schedule, t))} of a text at t = ${t}.`;
  const { svg, X, Y, put } = axes(width, Math.min(340, 120 + 0.5 * width), {
    x: time,
    y: { ...share, label: "share hidden, u" },
    margin: MARGIN,
    label,
  });
  const line = (name) => path(range(0, 1, 120).map((at) => [X(at), Y(masked(name, at))]));
  const others = Object.keys(SCHEDULES).filter((name) => name !== schedule);
  const [x, y] = [X(t), Y(masked(schedule, t))];
  put(
    others.map((name) => s("path", { class: `line faint ${LOOKS[name]}`, d: line(name) })),
    s("path", { class: `line strong ${LOOKS[schedule]}`, d: line(schedule) }),
    s("path", {
      class: "guide",
      d: path([
        [X(0), y],
        [x, y],
        [x, Y(0)],
      ]),
    }),
    s("circle", { class: `point ${LOOKS[schedule]}`, cx: x, cy: y, r: 6.5 }),
  );
  return svg;
}

function numbers({ schedule, t, text }) {
  const rows = Object.keys(SCHEDULES).map((name) => {
    const u = masked(name, t);
    return [
      name + (name === schedule ? " (chosen)" : ""),
      percent(u, 1),
      (u * text.length).toFixed(1),
      percent(meanShare(name, 2000), 1),
    ];
  });
  return [
    ["schedule", `u at t = ${t}`, "characters hidden, expected", "mean share over t"],
    rows,
    "Share hidden under each schedule",
  ];
}

export function mount(root) {
  const { stage, readouts, controls, say, tables } = frame(root, WORDS);
  const page = h("p", { class: "sheet", "aria-hidden": "true" });
  const plot = h("div", { class: "plot" });
  const now = { schedule: "cosine", t: 0.5, text: [...TEXT], seed: 1, hidden: [] };
  const redraw = whenSized(plot, (width) => plot.replaceChildren(curves(width, now)));

  function update() {
    const hidden = hiddenAt(now.schedule, now.t, now.text.map(randomNumbers(now.seed)));
    const fresh = hidden.map((is, i) => now.hidden[i] && !is);
    now.hidden = hidden;
    page.replaceChildren(...sheet(now.text.join(""), hidden, fresh));
    readOut(readouts, counts(now));
    redraw();
    tables(numbers(now));
    say(spoken(now));
  }
  const set = (changes) => (Object.assign(now, changes), update());

  const time = timeSlider(now, set);
  stage.append(page, h("div", { class: "beside" }, h("div", {}, plot, time.element), legend(now, set)));
  controls.append(...handles(now, set, time));
  update();
}

function counts({ schedule, t, hidden }) {
  const [u, n] = [masked(schedule, t), hidden.length];
  return [
    ["share hidden, u", percent(u, 1)],
    ["expected", `${(n * u).toFixed(1)} ± ${Math.sqrt(n * u * (1 - u)).toFixed(1)}`],
    ["counted", `${count(hidden.filter(Boolean).length)} of ${n}`, "strong"],
  ];
}

function spoken({ schedule, t, text, hidden }) {
  const [, [, expected], [, counted]] = counts({ schedule, t, hidden });
  const shown = text.map((c, i) => (hidden[i] ? "·" : c)).join("");
  return `At t = ${t}, ${schedule} hides ${counted} characters; ${expected} were expected. The text reads: ${shown}`;
}

/** The slider is the axis of the drawing above it. */
function timeSlider(now, set) {
  const told = (t) => t.toFixed(2);
  const time = slider({ label: "time t", min: 0, max: 1, step: 0.01, value: now.t, told, changed: (t) => set({ t }) });
  time.element.classList.add("under-plot");
  return time;
}

const legend = (now, set) =>
  choice({
    label: "schedule, and the mean share it hides",
    options: Object.fromEntries(
      Object.keys(SCHEDULES).map((name) => [name, named(name, percent(meanShare(name, 2000)))]),
    ),
    value: now.schedule,
    changed: (schedule) => set({ schedule }),
    kind: "legend",
  });

/** The controls under the figure: a film, other random numbers, a text of one's own. */
function handles(now, set, time) {
  let stop = null;
  const film = button("Let it dissolve", () => {
    if (stop) return end();
    film.textContent = "Stop";
    stop = play(5, (share) => (time.set(share.toFixed(2)), set({ t: Number(share.toFixed(2)) })), end);
  });
  const end = () => {
    stop?.();
    stop = null;
    film.textContent = "Let it dissolve";
  };
  const field = h(
    "textarea",
    {
      rows: 3,
      maxlength: LONGEST,
      spellcheck: "false",
      input: ({ target }) => set({ text: [...(target.value || " ")], hidden: [] }),
    },
    TEXT,
  );
  return [
    h("label", { class: "field" }, h("span", {}, `a text of your own, up to ${LONGEST} characters`), field),
    h(
      "div",
      { class: "buttons" },
      film,
      button("Draw other numbers", () => set({ seed: now.seed + 1, hidden: [] })),
    ),
  ];
}
