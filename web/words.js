// What the page says of a race, as sentences: nothing here touches the page.

const AXES = {
  passes: { title: "Fewest forward passes", show: count, as: "as many" },
  read: { title: "Fewest characters read", show: count, as: "as many" },
  seconds: { title: "First by the clock", show: seconds, as: "as long" },
};

export function count(value) {
  return value.toLocaleString("en");
}

export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

/** The same for a counter that says "seconds" below it. */
export function secondsAlone(value) {
  return value.toFixed(value < 9.95 ? 2 : 1);
}

/** How much more the larger is: "3.4 times", "31 times". */
function times(a, b) {
  const ratio = Math.max(a, b) / Math.min(a, b);
  return `${ratio < 9.95 ? ratio.toFixed(1) : count(Math.round(ratio))} times`;
}

/** Who won, by each measure. `ends`: kind -> {passes, read, seconds}, for those that have finished. */
export function verdicts(ends) {
  const kinds = Object.keys(ends);
  return Object.entries(AXES).map(([axis, { title, show, as }]) => {
    if (kinds.length < 2) return { axis, title, winner: null, text: "" };
    const [first, second] = kinds.toSorted((a, b) => ends[a][axis] - ends[b][axis]);
    const [best, other] = [ends[first][axis], ends[second][axis]];
    const winner = best === other ? null : first;
    const text = winner ? `${show(best)} against ${show(other)}: ${times(best, other)} ${as}` : `${show(best)} each`;
    return { axis, title, winner, text };
  });
}

export const NAMES = { diffusion: "Diffusion", gpt: "GPT" };

const WHY = {
  "GPT true": "With its cache it reads each character once, so its many passes are light ones; a pass of the diffusion model reads the whole page.",
  "GPT false": "Even without its cache it has no more to read than the diffusion model, which reads the whole page at every pass.",
  "diffusion model true": "Here a pass costs much the same however little it reads, and it makes fewer of them.",
  "diffusion model false": "Without its cache the GPT reads all that stands before a character to write it: many passes, and heavy ones.",
};
const WHERE = "Fewer passes pay where a pass over the page costs hardly more than one over a character: on a GPU with nothing else to do.";

/** Why the clock says what it says. */
export function moral(ends, cached) {
  if (!ends.gpt || !ends.diffusion) return "";
  const first = ends.gpt.seconds < ends.diffusion.seconds ? "GPT" : "diffusion model";
  return `By this clock the ${first} is first. ${WHY[`${first} ${cached}`]} ${WHERE}`;
}

/** What results/web.json has measured, as one sentence. */
export function measuredOnce({ writing, browser, device }) {
  const all = Object.entries(writing).map(([name, run]) => `${name} ${seconds(run.seconds)}`);
  return `Measured for each alone, in ${browser} on one thread of ${device}, 240 characters: ${all.join(", ")} (results/web.json).`;
}

/** How likely an independent judge holds the text, if a recording says so. Near real text is good, not low. */
export function judgement({ judge }) {
  if (!judge) return "";
  const [text, real] = [judge.nats_per_char, judge.held_out].map((nats) => nats?.toFixed(2));
  return `${judge.model}, a GPT of another seed, holds it at ${text} nats a character${real ? `; real text at ${real}` : ""}.`;
}

/** How sure, in one of four bins: the number is the class of the look, the word its name. */
export function sureness(p) {
  if (p === null || p === undefined) return { level: 0, name: "not recorded" };
  const level = [0.25, 0.5, 0.9].filter((edge) => p >= edge).length + 1;
  return { level, name: ["a guess", "unsure", "fairly sure", "sure"][level - 1] };
}

export function percent(p) {
  return p >= 0.995 ? "> 99 %" : p < 0.005 ? "< 1 %" : `${Math.round(100 * p)} %`;
}

const SPOKEN = { "\n": "line break", " ": "space", ",": "comma", ".": "full stop", ":": "colon", ";": "semicolon", "'": "apostrophe", "-": "hyphen" };

/** One character, as it is read aloud. */
export function spoken(token) {
  return token === null ? "blank" : (SPOKEN[token] ?? token);
}

/** One character, as it is shown by itself: a space is visible. */
export function glyph(token) {
  return token === " " ? "␣" : shown(token);
}

/** One character, as it is shown in the page. */
export function shown(token) {
  return token === null ? "·" : token === "\n" ? "↵" : token === " " ? "\u00a0" : token;
}

/** What a character of a frame is, for a screen reader and for the inspector. */
export function description(frame, i) {
  const token = frame.tokens[i];
  if (token === null) return `blank, position ${i + 1}`;
  if (frame.when[i] === 0) return `${spoken(token)}, position ${i + 1}, given`;
  const sure = frame.p[i] === null ? "" : `, ${percent(frame.p[i])} sure`;
  return `${spoken(token)}, position ${i + 1}, written at step ${frame.when[i]}${sure}`;
}
