// What the explorables share: making elements, the frame around a figure, controls, axes. No maths, no state.

const SVG = "http://www.w3.org/2000/svg";
// Where the repository can be read: <meta name="repository"> says so; without it, the folder above the page.
const HOME = () => document.querySelector("meta[name=repository]")?.content ?? "..";

function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** h("p", { class: "question", click: (event) => .. }, "text", element, [more]): an HTML element. */
export const h = (tag, attributes = {}, ...children) => dressed(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const s = (tag, attributes = {}, ...children) =>
  dressed(document.createElementNS(SVG, tag), attributes, children);

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
export const count = (n) => Math.round(n).toLocaleString("en");
export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Fetch data/NAME.json and call then(data); or say, in the place of the figure, that it did not come. */
export async function withData(root, name, then) {
  const answer = await fetch(new URL(`data/${name}.json`, import.meta.url)).catch(() => null);
  if (answer?.ok) return then(await answer.json());
  root.replaceChildren(h("p", {}, `The measured numbers of this figure (${name}.json) could not be fetched.`));
}

/**
 * Fill root: on one side the words, on the other the figure. Returns its empty places
 * { stage, readouts, controls } and say(text) for those who listen, tables([head, rows, caption], ..) for the numbers.
 */
export function frame(root, { title, question, story, answer, step, code, papers }) {
  const [stage, controls] = [h("div", { class: "stage" }), h("div", { class: "controls" })];
  const readouts = h("dl", { class: "readouts" });
  const numbers = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}, as a table` });
  const status = h("p", { class: "unseen", role: "status" });
  const link = (path) => h("a", { href: `${HOME()}/${path}` }, h("code", {}, path));
  root.replaceChildren(
    h(
      "div",
      { class: "story" },
      h("h2", {}, title),
      h("p", { class: "question" }, question),
      story.map((text) => h("p", {}, text)),
      h(
        "p",
        { class: "source" },
        "The step that shows it: ",
        link(`steps/${step}.py`),
        ". ",
        code[0],
        ": ",
        link(code[1]),
        ". ",
        cited(papers),
      ),
    ),
    h(
      "figure",
      { class: "figure", "aria-label": title },
      stage,
      readouts,
      controls,
      h("figcaption", { class: "answer" }, answer),
      h("details", { class: "numbers" }, h("summary", {}, "The figure as a table"), numbers),
      status,
    ),
  );
  root.classList.add("explorable");
  return {
    stage,
    readouts,
    controls,
    say: sayer(status),
    tables: (...all) => numbers.replaceChildren(...all.map((one) => tabled(...one))),
  };
}

/** [name, number on arXiv] of each paper. */
const cited = (papers) => [
  papers.length > 1 ? "Papers: " : "Paper: ",
  papers.map(([name, number], i) => [i ? ", " : "", h("a", { href: `https://arxiv.org/abs/${number}` }, name)]),
  ".",
];

/** Tells assistive technology what changed, once the hand rests: a slider would otherwise never stop talking. */
function sayer(status, wait = 500) {
  let timer;
  return (text) => {
    clearTimeout(timer);
    timer = setTimeout(() => (status.textContent = text), wait);
  };
}

function tabled(head, rows, caption) {
  const cells = (row) => row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell)));
  return h(
    "table",
    {},
    h("caption", {}, caption),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        head.map((name) => h("th", { scope: "col" }, name)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((row) => h("tr", {}, cells(row))),
    ),
  );
}

/** Numbers under the figure: [[name, value, class of its colour], ..]. */
export function readOut(list, entries) {
  list.replaceChildren(
    ...entries.map(([name, value, meaning]) =>
      h("div", {}, h("dt", {}, name), h("dd", { class: meaning ?? "" }, value)),
    ),
  );
}

let made = 0; // so that every label finds its control

/** A slider. `told(value)` is what its number means, for eyes and ears; `changed(value)` is called on input. */
export function slider({ label, min, max, step = 1, value, told, changed }) {
  const id = `control-${++made}`;
  const output = h("output", { for: id });
  const input = h("input", { type: "range", id, min, max, step, value, input: () => (show(), changed(+input.value)) });
  const show = () => {
    output.textContent = told(+input.value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  show();
  const element = h("div", { class: "slider" }, h("label", { for: id }, label), input, output);
  return { element, input, set: (to) => ((input.value = to), show()) };
}

/** One of several: { name: label or element }. `changed(name)` is called on a choice. */
export function choice({ label, options, value, changed, kind = "pills" }) {
  const group = `control-${++made}`;
  return h(
    "fieldset",
    { class: kind },
    h("legend", {}, label),
    Object.entries(options).map(([name, shown]) => {
      const input = { type: "radio", name: group, value: name, checked: String(name) === String(value) };
      return h("label", {}, h("input", { ...input, change: () => changed(name) }), h("span", {}, shown));
    }),
  );
}

export const button = (label, click) => h("button", { type: "button", click }, label);

/** Call draw(width) now, whenever the width of `box` changes, and whenever the returned function is called. */
export function whenSized(box, draw) {
  let width = 0;
  const redraw = () => width > 0 && draw(width);
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width) return;
    width = now;
    redraw();
  }).observe(box);
  return redraw;
}

function scale({ from, to, log = false }, start, end) {
  const f = log ? Math.log : (v) => v;
  return (v) => start + ((end - start) * (f(v) - f(from))) / (f(to) - f(from));
}

/**
 * Axes. x and y: { from, to, ticks, label, log, told }, margin: { top, right, bottom, left }.
 * Returns { svg, X, Y, put }: scales to pixels, and put(..elements) into the drawing.
 */
export function axes(width, height, { x, y, margin, label }) {
  const [X, Y] = [scale(x, margin.left, width - margin.right), scale(y, height - margin.bottom, margin.top)];
  const [told, bottom, right] = [(axis, v) => (axis.told ?? String)(v), height - margin.bottom, width - margin.right];
  const svg = s(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    y.ticks.map((v) => [
      s("line", { class: "grid", x1: margin.left, x2: right, y1: Y(v), y2: Y(v) }),
      s("text", { class: "tick", x: margin.left - 8, y: Y(v) + 4, "text-anchor": "end" }, told(y, v)),
    ]),
    x.ticks.map((v) => s("text", { class: "tick", x: X(v), y: bottom + 18, "text-anchor": "middle" }, told(x, v))),
    s("line", { class: "axis", x1: margin.left, x2: right, y1: bottom, y2: bottom }),
    s("text", { class: "axis-name", x: right, y: bottom + 36, "text-anchor": "end" }, x.label),
    s("text", { class: "axis-name", x: 0, y: 13 }, y.label),
  );
  return { svg, X, Y, put: (...parts) => svg.append(...parts.flat(Infinity)) };
}

/** "M x y L x y ..": a line through points. */
export const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** from, .., to in so many equal parts. */
export const range = (from, to, parts) => Array.from({ length: parts + 1 }, (_, i) => from + ((to - from) * i) / parts);

/**
 * Call frame(share) while a share from 0 to 1 of the seconds has passed, then done(). Who asks for less motion gets
 * ten still pictures. Returns a function that stops it.
 */
export function play(seconds, frame, done) {
  const start = performance.now();
  let waiting;
  const next = (then) => (waiting = still() ? setTimeout(then, 100 * seconds) : setTimeout(then, 30));
  const tick = () => {
    const share = Math.min(1, (performance.now() - start) / (1000 * seconds));
    frame(share);
    share < 1 ? next(tick) : done();
  };
  tick();
  return () => clearTimeout(waiting);
}
