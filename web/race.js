// The race: settings on one side, two lanes on the other, time between them.

import { asText, startingPage, UserError } from "./canvas.js";
import { megabytes } from "./download.js";
import { inspect } from "./inspector.js";
import { Lane } from "./lane.js";
import { Player } from "./player.js";
import { readRecording } from "./recording.js";
import { DEFAULTS, fromAddress, isShared, PACED, SAMPLERS, toAddress } from "./settings.js";
import { available, bestDevice, bytesToFetch, Twins } from "./twins.js";
import { count, judgement, measuredOnce, moral, NAMES, seconds, sureness, verdicts } from "./words.js";

const $ = (id) => document.getElementById(id);
const FAST = 2.5; // a live run shorter than this many seconds is shown again, slower
const TOOLS = {
  look: "Point at a character, or move to it with Tab and the arrow keys, to see what the model thought of it.",
  mask: "What you mask becomes a blank in the text above. Run it to have both models fill it. Key: m.",
  lock: "What you lock stays; everything else that was written is written anew. Key: l.",
};

export class Race {
  constructor() {
    this.lanes = [];
    this.player = new Player(() => this.duration(), () => this.draw());
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    $("how").open = matchMedia("(min-width: 46rem)").matches; // where there is little room, the lanes come first
    this.setSettings(fromAddress(location.search));
    this.listen();
    this.legend();
    this.useTool();
  }

  async start() {
    const [recorded] = await Promise.all([this.openRecording(), this.lookForModels()]);
    if (recorded && !this.calm && !document.hidden) this.player.play();
    if (recorded && this.calm) this.player.seek(Infinity);
  }

  // What is there

  async openRecording() {
    try {
      const recording = readRecording(await (await fetch("frames.json")).json());
      if (this.twins) return false;
      if (!isShared(location.search)) this.setSettings({ ...DEFAULTS, ...recording.settings });
      this.setLanes(recording.lanes);
      this.source("recorded", `Made on ${recording.made?.device ?? "another machine"}, each model alone. Seconds are that machine's.`);
      return true;
    } catch (error) {
      this.source("no recording", `The recording cannot be shown: ${error.message}.`);
      return false;
    }
  }

  async lookForModels() {
    [this.built, this.device] = await Promise.all([available(), bestDevice()]);
    if (!this.built) {
      $("run").disabled = true;
      this.problem("The models are not here: run make site to build them. Until then the recording plays.");
      return;
    }
    const { measured } = this.built.runtimes;
    if (measured) $("measured").textContent = measuredOnce(measured);
    const window = Math.min(...Object.values(this.built.models).map((about) => about.window));
    $("length").max = window;
    $("length").value = Math.min(window, $("length").value);
    $("run").textContent = `Run it live, ${megabytes(bytesToFetch(this.built, this.device))}`;
  }

  // Settings

  get settings() {
    const form = new FormData($("settings"));
    const number = Object.fromEntries(["steps", "temperature", "length", "seed"].map((name) => [name, Number($(name).value)]));
    return { prompt: form.get("prompt"), sampler: $("sampler").value, ...number, cache: $("cache").checked };
  }

  setSettings({ cache, ...values }) {
    for (const [name, value] of Object.entries(values)) if ($(name)) $(name).value = value;
    $("cache").checked = cache;
    this.tellSettings();
  }

  tellSettings() {
    const { sampler, steps, temperature, length, prompt } = this.settings;
    $("steps").disabled = !PACED.has(sampler);
    $("steps-out").textContent = PACED.has(sampler) ? steps : "as needed";
    $("temperature-out").textContent = temperature || "0, no chance";
    const blanks = /_|\{\d+\}/.test(prompt);
    $("length").disabled = blanks;
    $("length-out").textContent = blanks ? "as written" : length;
    $("sampler-help").textContent = `${sampler} ${SAMPLERS[sampler]}`;
    $("prompt").rows = Math.min(8, prompt.split("\n").length + Math.floor(prompt.length / 90));
  }

  problem(text) {
    $("prompt-error").textContent = text;
    $("prompt").setAttribute("aria-invalid", String(Boolean(text)));
  }

  // Lanes and time

  setLanes(timelines) {
    this.lanes = timelines.map((timeline) => {
      const lane = new Lane($("lane"), timeline, {
        onPoint: (i) => this.point(lane, i),
        onPress: (i, key) => this.press(lane, i, key),
      });
      return lane;
    });
    $("lanes").replaceChildren(...this.lanes.map((lane) => lane.element));
    for (const lane of this.lanes) lane.note(judgement(lane.timeline.about));
    this.pointed = null;
    this.player.at = 0;
    this.draw();
    this.point(this.lanes[0], timelines[0].frames[0].tokens.indexOf(null));
  }

  get axis() {
    return document.querySelector("[name=axis]:checked").value;
  }

  duration() {
    return Math.max(0, ...this.lanes.map((lane) => lane.timeline.last[this.axis]));
  }

  draw() {
    const { axis, player } = this;
    for (const lane of this.lanes) {
      const index = lane.timeline.indexAt(axis, player.at + 1e-9);
      if (lane.index !== index || player.following) lane.show(index);
    }
    if (this.pointed) inspect($("inspector"), ...this.pointed);
    this.drawTransport();
    this.drawOutcome();
  }

  drawTransport() {
    const { axis, player } = this;
    const end = this.duration();
    const show = axis === "seconds" ? seconds : (value) => `pass ${count(Math.floor(value))}`;
    [$("time").max, $("time").value] = [end || 1, player.at];
    $("clock").textContent = `${show(player.at)} of ${axis === "seconds" ? seconds(end) : count(end)}`;
    $("time").setAttribute("aria-valuetext", $("clock").textContent);
    const moves = player.playing || (this.writing && !this.held);
    [$("play").textContent, $("play").ariaLabel] = moves ? ["❚❚", "Pause"] : ["▶", "Play"];
    $("pace").textContent = this.paceText(end);
  }

  paceText(end) {
    if (this.writing) return this.held ? "Held. The clocks of both models stand still." : "Being written now, in real time.";
    if (this.axis === "passes") return "One pass of each at the same moment: this is how it looks if all passes cost the same. They do not.";
    const factor = this.player.speed;
    if (!end) return "";
    return factor < 1 ? `Replayed ${(1 / factor).toPrecision(2)} times slower than it ran.` : `Replayed ${factor.toPrecision(2)} times faster than it ran.`;
  }

  drawOutcome() {
    const done = this.lanes.filter((lane) => lane.timeline.finished);
    const ends = Object.fromEntries(done.map((lane) => [lane.kind, lane.timeline.last]));
    const state = JSON.stringify(Object.values(ends).map(({ seconds, passes, read }) => [seconds, passes, read]));
    if (this.told === state) return;
    this.told = state;
    const rows = verdicts(ends).map(({ axis, title, winner, text }) => {
      const [row, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      [row.dataset.axis, dt.textContent] = [axis, title];
      const name = document.createElement("strong");
      [name.className, name.textContent] = [winner ?? "", winner ? NAMES[winner] : text ? "A tie" : "not yet"];
      const rest = document.createElement("span");
      rest.textContent = text;
      dd.append(name, rest);
      row.append(dt, dd);
      return row;
    });
    $("outcome").replaceChildren(...rows);
    $("moral").textContent = moral(ends, this.cached ?? true);
  }

  source(kind, text) {
    [$("source").textContent, $("source").dataset.kind, $("source-text").textContent] = [kind, kind, text];
  }

  // The reader's hand

  listen() {
    $("settings").addEventListener("input", () => this.tellSettings());
    $("settings").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      $("settings").requestSubmit();
    });
    $("stop").addEventListener("click", () => this.stop());
    $("example").addEventListener("click", () => this.setPrompt($("example").textContent));
    $("another").addEventListener("click", () => {
      $("seed").value = Math.floor(Math.random() * 10000);
      this.tellSettings();
    });
    $("share").addEventListener("click", () => this.share());
    $("play").addEventListener("click", () => this.playOrPause());
    $("back").addEventListener("click", () => this.step(-1));
    $("forth").addEventListener("click", () => this.step(1));
    $("time").addEventListener("input", () => this.player.seek(Number($("time").value)));
    $("axis").addEventListener("change", () => this.player.seek(Infinity));
    $("tool").addEventListener("change", () => this.useTool());
  }

  setPrompt(text) {
    $("prompt").value = text;
    this.tellSettings();
  }

  playOrPause() {
    if (this.writing) return this.hold(!this.held);
    if (this.player.playing) this.player.pause();
    else this.player.play();
  }

  hold(held) {
    this.held = held;
    this.twins.tell(held ? "pause" : "resume");
    this.draw();
  }

  /** To the nearest moment, before or after, at which one of the lanes changes. */
  step(direction) {
    const { axis, player } = this;
    const moments = this.lanes.flatMap((lane) => lane.timeline.frames.map((frame) => frame[axis]));
    const ahead = moments.filter((at) => direction * (at - player.at) > 1e-9);
    if (ahead.length) player.seek(direction > 0 ? Math.min(...ahead) : Math.max(...ahead));
  }

  get tool() {
    return document.querySelector("[name=tool]:checked").value;
  }

  useTool() {
    $("lanes").dataset.tool = this.tool;
    $("tool-help").textContent = TOOLS[this.tool];
  }

  point(lane, i) {
    this.pointed = [lane, i];
    inspect($("inspector"), lane, i);
  }

  press(lane, i, key) {
    this.point(lane, i);
    const mark = key ? { m: "mask", l: "lock" }[key] : this.tool;
    if (mark === "look" || this.writing || lane.frame.tokens[i] === null) return;
    this.player.pause();
    for (const other of this.lanes) if (other !== lane && other.marks.size) other.clear();
    lane.toggle(i, mark);
    this.setPrompt(asText(lane.wanted));
  }

  async share() {
    const url = `${location.origin}${location.pathname}?${toAddress(this.settings)}`;
    history.replaceState(null, "", url);
    const copied = await navigator.clipboard?.writeText(url).then(() => true).catch(() => false);
    $("share").textContent = copied ? "Copied" : "The address bar has the link";
    setTimeout(() => ($("share").textContent = "Copy a link"), 2500);
  }

  legend() {
    const bins = [0.1, 0.4, 0.7, 0.95].map((p) => [`s${sureness(p).level}`, "a", sureness(p).name]);
    const edges = ["below 25 %", "25 to 50 %", "50 to 90 %", "90 % and above"];
    const more = [["given", "a", "given"], ["blank", "·", "blank"], ["new", "a", "just written"], ["back", "·", "taken back"]];
    $("sureness").replaceChildren(
      ...[...bins, ...more].map(([look, glyph, name], k) => {
        const [item, cell] = ["li", "span"].map((tag) => document.createElement(tag));
        [cell.className, cell.textContent] = [`char ${look}`, glyph];
        item.append(cell, edges[k] ? `${name}, ${edges[k]}` : name);
        return item;
      }),
    );
  }

  // Live

  async run() {
    if (this.writing || this.loading) return;
    try {
      const page = this.readPage();
      this.problem("");
      await this.load();
      await this.write(page);
    } catch (error) {
      this.failed(error);
    }
  }

  readPage() {
    const { prompt, length } = this.settings;
    const { alphabet, window } = this.built.models.diffusion;
    const page = startingPage(prompt, length, alphabet, window);
    if (page.every((token) => token !== null)) throw new UserError("There is no blank to fill: put some ____ into the text.");
    return page;
  }

  /** A GPT predicts from what stands before, so it cannot fill a blank at the very beginning. */
  kindsFor(page) {
    return page[0] === null ? ["diffusion"] : ["diffusion", "gpt"];
  }

  async load() {
    if (this.twins) return;
    this.loading = new AbortController();
    this.busy(true);
    $("loading").hidden = false;
    try {
      this.twins = await Twins.load(this.built, this.device, (here, total) => this.progress(here, total), this.loading.signal);
    } finally {
      this.loading = null;
      $("loading").hidden = true;
      this.busy(false);
    }
    $("run").textContent = "Run";
  }

  progress(here, total) {
    $("progress").value = here / total;
    $("loaded").textContent = here < total ? `${megabytes(here)} of ${megabytes(total)}` : "starting the models";
  }

  async write(page) {
    const settings = this.settings;
    const kinds = this.kindsFor(page);
    history.replaceState(null, "", `?${toAddress(settings)}`);
    const { lanes, done } = this.twins.write(page, settings, kinds, () => this.player.follow());
    Object.assign(this, { writing: true, held: false, cached: settings.cache });
    this.source("live", `Written on this machine, ${this.where()}. Both write at once, each in its own thread.`);
    this.setLanes(lanes);
    if (kinds.length < 2) this.lanes[0].note("A GPT cannot fill a blank at the very beginning: it predicts from what stands before. Only the diffusion model writes.");
    this.busy(true);
    this.announce("Both models are writing.");
    $("lanes").scrollIntoView({ block: "nearest", behavior: this.calm ? "auto" : "smooth" });
    try {
      await done;
    } finally {
      this.writing = false;
      this.busy(false);
    }
    this.finish();
  }

  where() {
    const names = { wasm: "on its processor (WebAssembly, one thread a model)", webgpu: "on its graphics card (WebGPU)" };
    const [a, b] = this.twins.writers.map((writer) => names[writer.device]);
    return a === b ? a : `the diffusion model ${a}, the GPT ${b}`;
  }

  finish() {
    const { player } = this;
    player.seek(Infinity);
    if (this.duration() < FAST && this.axis === "seconds" && !this.calm) player.play();
    const told = this.lanes.filter((lane) => lane.timeline.finished).map(({ kind, timeline: { last } }) => {
      return `${NAMES[kind]}, ${last.passes} passes, ${count(last.read)} characters read, ${seconds(last.seconds)}: ${last.tokens.join("")}`;
    });
    this.announce(told.join(". ") || "Stopped.");
  }

  stop() {
    this.loading?.abort();
    this.twins?.tell("stop");
  }

  failed(error) {
    if (error.name === "AbortError") return;
    this.problem(error instanceof UserError ? error.message : `The models cannot run here (${error.message}). The recording still plays.`);
  }

  busy(busy) {
    $("run").disabled = busy;
    $("stop").hidden = !busy;
  }

  announce(text) {
    $("transcript").textContent = text;
  }
}
