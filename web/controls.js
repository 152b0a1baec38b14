// The form: what to write and how. Says what each setting means, and what is wrong with the text.

import { startingPage, UserError } from "./canvas.js";
import { PACED, SAMPLERS } from "./settings.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["steps", "temperature", "length", "seed"];

export class Controls {
  get values() {
    const numbers = Object.fromEntries(NUMBERS.map((name) => [name, Number($(name).value)]));
    return { prompt: $("prompt").value, sampler: $("sampler").value, ...numbers, cache: $("cache").checked };
  }

  set({ cache, ...values }) {
    for (const [name, value] of Object.entries(values)) if ($(name)) $(name).value = value;
    $("cache").checked = cache;
    this.tell();
  }

  tell() {
    const { sampler, steps, temperature, length, prompt } = this.values;
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

  setPrompt(text) {
    $("prompt").value = text;
    this.tell();
  }

  setSeed(seed) {
    $("seed").value = seed;
    this.tell();
  }

  /** The models' window is the longest text there is. */
  setWindow(window) {
    $("length").max = window;
    this.tell();
  }

  /** The page to start from. UserError: it cannot be read, is too long, or has no blank. */
  page({ alphabet, window }) {
    const { prompt, length } = this.values;
    const page = startingPage(prompt, length, alphabet, window);
    if (page.every((token) => token !== null)) throw new UserError("There is no blank to fill: put some ____ into the text.");
    return page;
  }
}
