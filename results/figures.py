"""Draw the figures of measured numbers again, from results/*.json. (The steps draw their own.)

python results/figures.py
"""

from functools import partial
from pathlib import Path

import numpy as np

from microdlm.colours import COLOURS
from microdlm.figures import figure
from microdlm.runs import ROOT, read_json

RESULTS, FIGURES = ROOT / "results", ROOT / "results" / "figures"
LOOK = {  # who is drawn: a colour for a family (planned, surest, revising), a marker
    **{"GPT": ("gpt", "s"), "left to right": ("diffusion", ">"), "one by one": ("diffusion", "D")},
    **{"ancestral": ("diffusion", "o"), "optimal pace": ("another", "P"), "surest first": ("other", "^")},
    **{"margin": ("other", "v"), "remask": ("remasked", "X")},
}
TEXT = {"judge_nats": "judge: nats per character", "known_words": "words found in the training text"}


def label(ax, ends: list[tuple]) -> None:
    """Names in the right margin, as near to the height of what they name as there is room."""
    ends, (low, high) = sorted(ends, key=lambda end: end[1]), ax.get_ylim()
    gap = 0.065 * (high - low)
    heights = np.array([y for _, y, _, _ in ends])
    for _ in range(200):  # neighbours that are too close push each other apart
        push = np.maximum(gap - np.diff(heights), 0) / 2
        heights[:-1] -= push
        heights[1:] += push
    for (x, y, name, colour), at in zip(ends, heights, strict=True):
        line = {"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 2, "shrinkB": 5, "relpos": (0, 0.5)}
        place = {"xytext": (1.05, at), "textcoords": ("axes fraction", "data"), "va": "center", "color": colour}
        ax.annotate(name, (x, y), arrowprops=line, fontsize=9, annotation_clip=False, **place)


def draw(numbers: dict, path: Path, x: str, y: str, rows: list[dict], axis: dict) -> None:
    """One curve a way of writing, through `rows` in their order, and real text."""
    real, ends = numbers["real_text"], []
    with figure(path, height=4.0) as (_, ax):
        for way, (colour, marker) in LOOK.items():
            mine, colour = [row for row in rows if row["way"] == way], COLOURS[colour]
            if mine:
                xs, ys = ([row[k]["value"] for row in mine] for k in (x, y))
                ax.errorbar(xs, ys, [1.96 * row[y]["stderr"] for row in mine], marker=marker, color=colour, lw=1.5)
                ends.append((xs[-1], ys[-1], way, colour))
        if x in real:
            ax.plot(real[x]["value"], real[y]["value"], "x", color=COLOURS["exact"], ms=9, mew=2.5, zorder=9)
        else:
            ax.axhline(real[y]["value"], color=COLOURS["exact"], ls="--", lw=1)
        ax.set(**axis, ylabel=TEXT[y])
        label(ax, [*ends, (real.get(x, {}).get("value", ax.get_xlim()[1]), real[y]["value"], "real text", "black")])


def frontier(numbers: dict, folder: Path) -> None:
    usual = [p for p in numbers["points"] if p["how"].get("num_steps", 32) == 32]
    axis = {"xlabel": "diversity: entropy of 4-grams of characters, nats"}
    title = {"title": "Quality against diversity, from cold to hot"}
    draw(numbers, folder / "sampling_frontier.png", "entropy", "judge_nats", usual, axis | title)
    title = {"title": "Real words against diversity, from cold to hot"}
    draw(numbers, folder / "sampling_frontier_words.png", "entropy", "known_words", usual, axis | title)
    ticks = (100, 300, 1000, 3000, 10_000)
    axis = {"xlabel": "tokens read for one text", "title": "As diverse as real text: quality against cost"}
    axis |= {"xscale": "log", "xticks": ticks, "xticklabels": [f"{n:,}" for n in ticks]}
    rows = numbers["at_the_entropy_of_real_text"]
    draw(numbers, folder / "sampling_frontier_cost.png", "tokens_read", "judge_nats", rows, axis)


# How each way looks: colour, marker, line.
LOOKS = {
    "ancestral": (COLOURS["diffusion"], "o", "-"),
    "random, linear pace": (COLOURS["another"], "s", "-"),
    "random, optimal pace": (COLOURS["new"], "v", "-"),
    "confidence": (COLOURS["gpt"], "^", "-"),
    "entropy": (COLOURS["other"], "D", "-"),
    "entropy-bounded": (COLOURS["exact"], "P", ":"),
    "remask": (COLOURS["remasked"], "X", "--"),
}


def exact(numbers: dict, folder: Path) -> None:
    panels = {
        "sampling_exact": ("nats_lost", "passes_told", "nats lost per character", "What opening several at once costs"),
        "sampling_exact_lines": ("lines_valid", "passes", "lines valid (%)", "What becomes of the lines"),
    }
    for file, (value, passes, label, title) in panels.items():
        with figure(folder / f"{file}.png", height=4) as (_, ax):
            for name, (colour, marker, line) in LOOKS.items():
                points = [p for p in numbers["points"] if p["way"] == name and value in p]
                scale = 100 if value == "lines_valid" else 1
                x, y = [p[passes] for p in points], [scale * p[value] for p in points]
                error = [2 * scale * p["stderr" if scale == 100 else "nats_lost_stderr"] for p in points]
                if points:
                    ax.errorbar(x, y, error, color=colour, marker=marker, ls=line, lw=1.5, ms=6, label=name)
                if value == "nats_lost" and points and "predicted" in points[0]:
                    right = [(p[passes], p["predicted"]) for p in points if p["predicted"] > 0]
                    ax.plot(*zip(*right, strict=True), color="black", ls="--", lw=1, zorder=9)
            ax.set_xscale("log", base=2)
            ax.set_xticks([1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 8, 16, 32, 64])
            ax.set(xlabel=f"forward passes for {numbers['length'] - 1} characters", ylabel=label, title=title)
            if value == "nats_lost":
                ax.set(yscale="log", ylim=(0.005, 4))
                ax.yaxis.set_major_formatter("{x:g}")
            ax.legend(title="- - right Riemann sum" if value == "nats_lost" else None, title_fontsize=9)


def quality(numbers: dict, folder: Path, name: str = "time_to_quality") -> None:
    """One curve a recipe, the mean over seeds at each number of characters; ours is a run for each point."""
    axis = {"xlabel": "characters read (± one standard error over seeds)", "xscale": "log"}
    axis["ylabel"] = "at most, nats per character"
    with figure(folder / f"{name}.png") as (_, ax):
        looks = {"plain": ("other", "^", "-"), "AdamW, tuned": ("another", "P", "--"), "ours": ("diffusion", "o", "--")}
        for recipe, (colour, marker, line) in looks.items():
            points = [p for run in numbers["runs"] if run["recipe"] == recipe for p in run["points"]]
            x = sorted({p["chars"] for p in points})
            values = [np.array([p["nelbo"] for p in points if p["chars"] == n]) for n in x]
            y, error = [v.mean() for v in values], [v.std(ddof=1) / len(v) ** 0.5 for v in values]
            ax.errorbar(x, y, error, color=COLOURS[colour], marker=marker, ls=line, lw=1.5)
            ax.annotate(recipe, (x[-1], y[-1]), (8, 4), textcoords="offset points", color=COLOURS[colour])
        ax.axhline(end := numbers["plain_end"]["value"], color="black", lw=1, ls=":", zorder=0)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "top"}
        ax.annotate("where plain ends", (0.93, end), (0, -4), fontsize=9, **place)  # ours never comes that far right
        ticks = [numbers["chars"] // n for n in (16, 8, 4, 2, 1)]
        axis["title"] = f"How much text a quality takes at {numbers['size']}"
        ax.set(**axis, xticks=ticks, xticklabels=[f"{n:,}" for n in ticks])
        ax.minorticks_off()


def growth(numbers: dict, folder: Path) -> None:
    """Time against length, as measured and as fitted, and the straight part of the fit."""
    kinds = {"diffusion": ("diffusion", "o"), "gpt": ("gpt", "s")}
    with figure(folder / "growth.png", width=8, height=3.6, ncols=2) as (_, axes):
        for ax, task in zip(axes, ("training", "writing"), strict=True):
            for kind, (colour, marker) in kinds.items():
                of = {"task": task, "kind": kind, "axis": "L"}
                mine = [r for r in numbers["rows"] if of.items() <= r.items()]
                fit = next(f for f in numbers["fits"] if (of | {"of": "seconds"}).items() <= f.items())
                x = np.geomspace(mine[0]["L"], mine[-1]["L"], 100)
                straight = fit["c"] + fit["a"] * x
                ax.plot(x, straight + fit["b"] * x**2, color=COLOURS[colour], lw=1.5)
                ax.plot(x, straight, color=COLOURS[colour], lw=1, ls=":")
                points = [r["L"] for r in mine], [r["seconds"] for r in mine]
                ax.plot(*points, marker, color=COLOURS[colour], label="GPT" if kind == "gpt" else kind)
            ticks = sorted({r["L"] for r in numbers["rows"] if r["axis"] == "L"})
            ax.set(xscale="log", yscale="log", xlabel="length L, characters", title=task, xticks=ticks)
            ax.set_xticklabels([str(n) for n in ticks], fontsize=9)
            ax.minorticks_off()
        axes[0].set_ylabel("seconds (dotted: without b·L²)")
        axes[0].legend(loc="upper left")


def epochs(numbers: dict, folder: Path) -> None:
    """Both twins against the epochs a run was planned for, at its best moment, ± one standard error over seeds: all of
    it, and the end from near. Dotted: with no regulariser, at the last step."""
    ticks = sorted({r["epochs"] for r in numbers["summary"]})
    with figure(folder / "epochs.png", 9, 3.6, ncols=2) as (_, axes):
        kinds = {"diffusion": ("o", "diffusion, at most", 5), "gpt": ("s", "GPT", -16)}
        for kind, (marker, name, below) in kinds.items():
            look = {"marker": marker, "color": COLOURS[kind], "lw": 1.5}
            for ax, least in zip(axes, (0, 100), strict=True):
                mine = [r for r in numbers["summary"] if r["kind"] == kind and r["epochs"] >= least]
                x, y, error = zip(*sorted((r["epochs"], r["nats_per_char"], r["stderr"]) for r in mine), strict=True)
                ax.errorbar(x, y, error, capsize=3, **look)
            plain = [r for r in numbers["runs"] if (r["kind"], r["regulariser"], r["seed"]) == (kind, "none", 0)]
            ends = sorted((r["epochs"], np.mean(r["curve"][-1][1:])) for r in plain if r["epochs"] in ticks)
            axes[0].plot(*zip(*ends, strict=True), ls=":", mfc="none", zorder=0, **look)
            axes[1].annotate(name, (x[0], y[0]), (10, below), textcoords="offset points", color=COLOURS[kind])
        for ax, least in zip(axes, (0, 100), strict=True):
            ax.set(xscale="log", xlabel="epochs planned", ylabel="nats per character")
            ax.set_xticks(here := [n for n in ticks if n >= least], [str(n) for n in here])
            ax.minorticks_off()
        values = [r["nats_per_char"] for r in numbers["summary"]]
        axes[0].set(ylim=(min(values) - 0.1, max(values) + 0.2), title="How often can a text be read?")
        axes[1].set(title="The end of it, ± one standard error")
        said = (
            f"dotted: no regulariser,\nlast step, on the\nwindows that choose\n(the GPT's goes on to {ends[-1][1]:.1f})"
        )
        axes[0].annotate(said, (0.98, 0.97), xycoords="axes fraction", fontsize=9, ha="right", va="top")


def main() -> None:
    drawings = {"sampling_exact": exact, "sampling_frontier": frontier, "time_to_quality": quality}
    drawings |= {"time_to_quality_small": partial(quality, name="time_to_quality_small")}
    drawings |= {"growth": growth, "epochs": epochs}
    for name, draw_all in drawings.items():
        if (path := RESULTS / f"{name}.json").exists():
            draw_all(read_json(path), FIGURES)


if __name__ == "__main__":
    main()
