// The race: settings on one side, two lanes on the other, time between them.

import { drawLegend, drawOutcome, drawTransport } from "./board.js";
import { asText, UserError } from "./canvas.js";
import { Controls } from "./controls.js";
import { megabytes } from "./download.js";
import { inspect } from "./inspector.js";
import { Lane } from "./lane.js";
import { Player } from "./player.js";
import { readRecording } from "./recording.js";
import { DEFAULTS, fromAddress, isShared, toAddress } from "./settings.js";
import { available, bestDevice, bytesToFetch, Twins } from "./twins.js";
import { count, judgement, measuredOnce, NAMES, seconds } from "./words.js";

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
    this.controls = new Controls();
    this.player = new Player(() => this.duration(), () => this.draw());
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    $("how").open = matchMedia("(min-width: 46rem)").matches; // where there is little room, the lanes come first
    this.controls.set(fromAddress(location.search));
    this.listen();
    drawLegend($("sureness"));
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
      if (!isShared(location.search)) this.controls.set({ ...DEFAULTS, ...recording.settings });
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
      this.controls.problem("The models are not here: run make site to build them. Until then the recording plays.");
      return;
    }
    const { measured } = this.built.runtimes;
    if (measured) $("measured").textContent = measuredOnce(measured);
    const window = Math.min(...Object.values(this.built.models).map((about) => about.window));
    this.controls.setWindow(window);
    $("run").textContent = `Run it live, ${megabytes(bytesToFetch(this.built, this.device))}`;
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
    const { writing, held } = this;
    drawTransport({ axis, player, end: this.duration(), writing, held });
    this.drawOutcome();
  }

  drawOutcome() {
    const done = this.lanes.filter((lane) => lane.timeline.finished);
    const state = done.map((lane) => lane.timeline.last);
    if (this.told?.length === state.length && state.every((frame, k) => frame === this.told[k])) return;
    this.told = state;
    drawOutcome(Object.fromEntries(done.map((lane) => [lane.kind, lane.timeline.last])), this.cached ?? true);
  }

  source(kind, text) {
    [$("source").textContent, $("source").dataset.kind, $("source-text").textContent] = [kind, kind, text];
  }

  // The reader's hand

  listen() {
    $("settings").addEventListener("input", () => this.controls.tell());
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
    $("example").addEventListener("click", () => this.controls.setPrompt($("example").textContent));
    $("another").addEventListener("click", () => this.controls.setSeed(Math.floor(Math.random() * 10000)));
    $("share").addEventListener("click", () => this.share());
    $("play").addEventListener("click", () => this.playOrPause());
    $("back").addEventListener("click", () => this.step(-1));
    $("forth").addEventListener("click", () => this.step(1));
    $("time").addEventListener("input", () => this.player.seek(Number($("time").value)));
    $("axis").addEventListener("change", () => this.player.seek(Infinity));
    $("tool").addEventListener("change", () => this.useTool());
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
    this.controls.setPrompt(asText(lane.wanted));
  }

  async share() {
    const url = `${location.origin}${location.pathname}?${toAddress(this.controls.values)}`;
    history.replaceState(null, "", url);
    const copied = await navigator.clipboard?.writeText(url).then(() => true).catch(() => false);
    $("share").textContent = copied ? "Copied" : "The address bar has the link";
    setTimeout(() => ($("share").textContent = "Copy a link"), 2500);
  }

  // Live

  async run() {
    if (this.writing || this.loading) return;
    try {
      const page = this.controls.page(this.built.models.diffusion);
      this.controls.problem("");
      await this.load();
      await this.write(page);
    } catch (error) {
      this.failed(error);
    }
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
    const settings = this.controls.values;
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
    this.controls.problem(error instanceof UserError ? error.message : `The models cannot run here (${error.message}). The recording still plays.`);
  }

  busy(busy) {
    $("run").disabled = busy;
    $("stop").hidden = !busy;
  }

  announce(text) {
    $("transcript").textContent = text;
  }
}
