// How each schedule is drawn, wherever it is: a colour and a kind of line, the same as in the figure of step 0.

import { h, s } from "./dom.js";

export const LOOKS = {
  sqrt: "other",
  maskgit_cosine: "diffusion dashed",
  linear: "masked",
  sigmoid: "another dashdot",
  loglinear: "masked dotted",
  clipped_cosine: "diffusion dotted",
  cosine: "diffusion",
};

/** A piece of the line, and the name. */
export const named = (name, more = "") => [
  s(
    "svg",
    { width: 26, height: 10, class: "swatch", "aria-hidden": "true" },
    s("line", { class: `line ${LOOKS[name]}`, x1: 1, x2: 25, y1: 5, y2: 5 }),
  ),
  h("span", { class: "name" }, name),
  more && h("span", { class: "aside" }, more),
];
