// One lane of the race: a page of characters, its three counters, and the text as it reads.

import { count, description, NAMES, secondsAlone, shown, spoken, sureness } from "./words.js";

const SHOW = { passes: count, read: count, seconds: secondsAlone };

/** Draws frames of a Timeline. `onPoint(i)` and `onPress(i, key)` say what the reader's hand does to character i. */
export class Lane {
  constructor(template, timeline, { onPoint, onPress }) {
    Object.assign(this, { timeline, onPoint, onPress, looks: [], active: 0, marks: new Map(), index: -1 });
    this.element = template.content.firstElementChild.cloneNode(true);
    const { kind, sampler, num_steps, parameters } = timeline.about;
    this.element.classList.add(kind);
    this.find("h2").textContent = NAMES[kind];
    this.find("h2").id = `lane-${kind}`;
    this.element.setAttribute("aria-labelledby", `lane-${kind}`);
    this.find(".about").textContent = [sampler.replaceAll("_", " "), `${(parameters / 1e6).toFixed(2)}M parameters`].join(", ");
    this.page = this.find(".page");
    this.page.setAttribute("aria-label", `${NAMES[kind]}: the page, ${timeline.last.tokens.length} characters; arrow keys move, Enter acts`);
    this.cells = timeline.last.tokens.map((_, i) => this.cell(i));
    this.page.replaceChildren(...this.cells);
    this.cells[0].tabIndex = 0;
    this.listen();
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  get kind() {
    return this.timeline.about.kind;
  }

  get frame() {
    return this.timeline.frames[this.index];
  }

  cell(i) {
    const cell = document.createElement("button");
    Object.assign(cell, { type: "button", tabIndex: -1 });
    cell.dataset.i = i;
    return cell;
  }

  listen() {
    const at = (event) => event.target.dataset?.i !== undefined && Number(event.target.dataset.i);
    const point = (event) => at(event) !== false && this.onPoint(at(event));
    this.page.addEventListener("pointerover", point);
    this.page.addEventListener("focusin", (event) => {
      this.activate(at(event));
      point(event);
    });
    this.page.addEventListener("click", (event) => at(event) !== false && this.onPress(at(event), null));
    this.page.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const columns = getComputedStyle(this.page).gridTemplateColumns.split(" ").length;
    const last = this.cells.length - 1;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -last, End: last };
    if (event.key in moves) this.cells[Math.min(last, Math.max(0, this.active + moves[event.key]))].focus();
    else if (["m", "l"].includes(event.key) && !event.ctrlKey && !event.metaKey) this.onPress(this.active, event.key);
    else return;
    event.preventDefault();
  }

  /** One stop for the Tab key; the arrows do the rest. */
  activate(i) {
    const before = this.active;
    this.active = i;
    this.cells[before].tabIndex = -1;
    this.cells[i].tabIndex = 0;
    this.name(before);
    this.name(i);
  }

  /** The active character is named in full; the others by what they show, if that can be read. */
  name(i) {
    const mark = this.marks.has(i) ? `, ${this.marks.get(i)}ed` : "";
    this.cells[i].ariaLabel = i === this.active ? description(this.frame, i) + mark : spoken(this.frame.tokens[i]);
  }

  /** Draw frame number `index`; only what differs is touched. */
  show(index) {
    this.index = index;
    const { frame } = this;
    const changed = new Set(frame.changed);
    this.cells.forEach((cell, i) => {
      const look = this.look(frame, i, changed.has(i));
      if (this.looks[i] === look) return;
      this.looks[i] = look;
      [cell.className, cell.textContent] = [look, shown(frame.tokens[i])];
      this.name(i);
    });
    for (const [axis, show] of Object.entries(SHOW)) this.find(`[data-count=${axis}]`).textContent = show(frame[axis]);
    this.find("pre").textContent = frame.tokens.map((token) => token ?? "·").join("");
    this.element.classList.toggle("finished", this.timeline.finished && frame === this.timeline.last);
  }

  /** The classes of one character, its own token last so that a change of token is a change of look. */
  look(frame, i, changed) {
    const token = frame.tokens[i];
    const state = token === null ? "blank" : frame.when[i] === 0 ? "given" : `s${sureness(frame.p[i]).level}`;
    const news = changed ? (token === null ? " back" : " new") : "";
    return `char ${state}${news}${this.marks.has(i) ? ` ${this.marks.get(i)}ed` : ""} t${token?.codePointAt(0) ?? ""}`;
  }

  /** Mark character i to be masked or locked, or take that mark away. */
  toggle(i, mark) {
    if (this.marks.get(i) === mark) this.marks.delete(i);
    else this.marks.set(i, mark);
    this.show(this.index);
    this.activate(i);
  }

  /** The page that the marks ask for: masked ones blank; if any are locked, all that is neither locked nor given too. */
  get wanted() {
    const locks = [...this.marks.values()].includes("lock");
    return this.frame.tokens.map((token, i) => {
      const mark = this.marks.get(i);
      return mark === "mask" || (locks && mark !== "lock" && this.frame.when[i] !== 0) ? null : token;
    });
  }

  /** Take all marks away. */
  clear() {
    this.marks.clear();
    this.show(this.index);
  }

  note(text) {
    this.find(".note").textContent = text;
  }
}
