// What is known of one character: when it was written, how sure the model was, what else it considered.

import { description, glyph, percent, spoken } from "./words.js";

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function bar({ token, p }, chosen) {
  const fill = element("span", "fill");
  fill.style.width = `${100 * p}%`;
  const name = element("span", "token", glyph(token));
  name.title = spoken(token);
  const row = element("li", token === chosen ? "chosen" : "", name, element("span", "track", fill), element("span", "p", percent(p)));
  if (token === chosen) row.append(element("span", "unseen", "chosen"));
  return row;
}

/** Fill `panel` with character i of a lane's present frame. */
export function inspect(panel, lane, i) {
  const { frame, timeline } = lane;
  const token = frame.tokens[i];
  const asked = token === null ? frame : timeline.frames[frame.when[i]];
  const best = frame.when[i] === 0 ? [] : (asked.top.get(i) ?? []);
  const title = element("p", `what ${lane.kind}`, element("span", "glyph", glyph(token)), element("span", "", capital(description(frame, i))));
  panel.replaceChildren(title, best.length ? element("ol", "top", ...best.map((c) => bar(c, token))) : element("p", "hint", why(frame, i)));
}

function why(frame, i) {
  if (frame.when[i] === 0) return "It was given, so no model was asked.";
  if (frame.tokens[i] === null) return "The pass just made did not ask about it.";
  return "A recording keeps only what was written. Run it live to see the alternatives.";
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
