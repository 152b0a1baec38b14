"""One meaning, one colour: in the terminal, in the figures and on the page. Okabe-Ito, safe for colour-blind eyes.

Never colour alone: each also has a line style, a weight or a symbol of its own.
"""

COLOURS = {
    "diffusion": "#0072B2",
    "gpt": "#D55E00",
    "exact": "#000000",
    "remasked": "#CC79A7",
    "new": "#009E73",
    "masked": "#999999",
    "other": "#E69F00",
    "another": "#56B4E9",
}
