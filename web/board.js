// What stands below the lanes: the time, who won, and what the looks mean.

import { count, moral, NAMES, seconds, sureness, verdicts } from "./words.js";

const $ = (id) => document.getElementById(id);
const EDGES = ["below 25 %", "25 to 50 %", "50 to 90 %", "90 % and above"];
const MORE = [["given", "a", "given"], ["blank", "·", "blank"], ["new", "a", "just written"], ["back", "·", "taken back"]];

/** The buttons, the slider and the clock, for a player on an axis ("seconds" or "passes") that ends at `end`. */
export function drawTransport({ axis, player, end, writing, held }) {
  const show = axis === "seconds" ? seconds : (value) => `pass ${count(Math.floor(value))}`;
  [$("time").max, $("time").value] = [end || 1, player.at];
  $("clock").textContent = `${show(player.at)} of ${axis === "seconds" ? seconds(end) : count(end)}`;
  $("time").setAttribute("aria-valuetext", $("clock").textContent);
  const moves = player.playing || (writing && !held);
  [$("play").textContent, $("play").ariaLabel] = moves ? ["❚❚", "Pause"] : ["▶", "Play"];
  $("pace").textContent = writing ? writingText(held) : paceText(axis, player.speed);
}

function writingText(held) {
  return held ? "Held. The clocks of both models stand still." : "Being written now, in real time.";
}

function paceText(axis, speed) {
  if (axis === "passes") return "One pass of each at the same moment: this is how it looks if all passes cost the same. They do not.";
  if (!speed) return "";
  return speed < 1 ? `Replayed ${(1 / speed).toPrecision(2)} times slower than it ran.` : `Replayed ${speed.toPrecision(2)} times faster than it ran.`;
}

function element(tag, className, text) {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

/** Who won by each measure. `ends`: kind -> the last frame, of those that have finished. */
export function drawOutcome(ends, cached) {
  const rows = verdicts(ends).map(({ axis, title, winner, text }) => {
    const [row, answer] = [element("div", ""), element("dd", "")];
    row.dataset.axis = axis;
    answer.append(element("strong", winner ?? "", winner ? NAMES[winner] : text ? "A tie" : "not yet"), element("span", "", text));
    row.append(element("dt", "", title), answer);
    return row;
  });
  $("outcome").replaceChildren(...rows);
  $("moral").textContent = moral(ends, cached);
}

/** One line a look: how sure in four bins, then the states. */
export function drawLegend(list) {
  const bins = [0.1, 0.4, 0.7, 0.95].map(sureness).map(({ level, name }, k) => [`s${level}`, "a", `${name}, ${EDGES[k]}`]);
  const items = [...bins, ...MORE].map(([look, glyph, name]) => {
    const item = element("li", "");
    item.append(element("span", `char ${look}`, glyph), name);
    return item;
  });
  list.replaceChildren(...items);
}
