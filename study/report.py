"""An analysis as files: the JSON, a page with its tables and its words, a figure of effects and one of curves."""

from pathlib import Path

from microdlm.colours import COLOURS
from microdlm.figures import figure
from microdlm.runs import ROOT, provenance, read_json, write_json
from study.analyse import LEVEL
from study.written import samples

LOOKS = {"uniform": ("o", COLOURS["diffusion"], -0.13), None: ("s", COLOURS["other"], 0.13)}  # None: masking by type


def stem(preset: str, grid: str) -> str:
    return f"schedule_study_{preset}" + "_published" * (grid == "published")


def write(found: dict, results: Path) -> Path:
    """Returns the page. What `evaluate` has left in the folder stands in it too."""
    name = stem(found["preset"], found["grid"])
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / f"{name}.json", found | {"seed": found["seeds"][0], "made_by": provenance()})
    page = results / f"{name}.md"
    beside = results / f"{name}_samples.json"
    written = samples(read_json(beside)) if beside.exists() else []
    page.write_text("\n".join([*lines(found, name), *written, *reference()]) + "\n", encoding="utf-8")
    names = list(dict.fromkeys(arm["schedule"] for arm in found["arms"]))
    with figure(results / "figures" / f"{name}.png", width=9.0, height=3.6, ncols=2, sharey=True) as (_, axes):
        for ax, family in zip(axes, ("proposal", "masking"), strict=True):
            forest(ax, found["effects"][family], found["noise_floor"], names)
        axes[0].set(title="Proposal: above linear", xlabel="nats per token")
        axes[1].set(title="Masking: by type above uniform", xlabel="nats per token")
        axes[0].legend(loc="upper right")
    with figure(results / "figures" / f"{name}_curves.png") as (_, ax):
        curves(ax, found["arms"])
    return page


def forest(ax, effects: list[dict], floor: float, names: list[str]) -> None:
    """Effects with their simultaneous intervals, a line for each of `names`; filled where found."""
    ax.axvspan(-floor, floor, color="#D8D8D8", zorder=0)
    ax.axvline(0, color=COLOURS["exact"], linewidth=1)
    told = set()
    for e in effects:
        schedule, masking = e["of"].split("-")
        marker, colour, dy = LOOKS.get(masking, LOOKS[None])
        label = None if masking in told else f"{masking} masking"
        told.add(masking)
        bar = [[e["mean"] - e["low"]], [e["high"] - e["mean"]]]
        fill = colour if e["found"] else "white"
        look = dict(fmt=marker, color=colour, mfc=fill, capsize=3, label=label)
        ax.errorbar(e["mean"], names.index(schedule) + dy, xerr=bar, **look)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=6)


def curves(ax, arms: list[dict]) -> None:
    """What a masked token costs against how many are masked, less the same for linear and uniform masking."""
    base = next(a for a in arms if (a["schedule"], a["masking"]) == ("linear", "uniform"))["curve"]["mean"]
    order = list(dict.fromkeys(a["schedule"] for a in arms))
    shades = ("exact", "another", "masked", "new", "remasked", "other")
    for arm in arms:
        k, colour = arm["curve"]["k"], COLOURS[shades[order.index(arm["schedule"])]]
        rise = [a - b for a, b in zip(arm["curve"]["mean"], base, strict=True)]
        label = arm["schedule"] if arm["masking"] == "uniform" else None
        style = "-" if arm["masking"] == "uniform" else "--"
        ax.plot([n / k[-1] for n in k], rise, style, color=colour, label=label, linewidth=1.5)
    ax.set(
        xlabel="share of tokens masked", ylabel="nats per masked token", title="Where arms differ from linear, uniform"
    )
    ax.legend(ncols=2, title="dashed: masked by type", title_fontsize=9)


def lines(found: dict, name: str) -> list[str]:
    """The page."""
    seeds, arms = found["seeds"], found["arms"]
    page = [
        f"# The schedule study, {found['preset']}" + ", as published" * (found["grid"] == "published"),
        "",
        "Planned in [study/PLAN.md](../study/PLAN.md) before any run. Nats per token on held-out text, upper bounds by "
        f"one estimator; {found['windows']} windows, seeds {', '.join(map(str, seeds))}. ± is one standard error over "
        "windows, which all arms share; what separates arms is in the second table. The own exam is the loss that a "
        "run was trained with: not comparable between lines.",
        "",
        "| proposal | masking | score | " + " | ".join(f"seed {s}" for s in seeds) + " | own bound | own exam |",
        "|---|---|---:|" + "---:|" * (len(seeds) + 2),
    ]
    for a in arms:
        own = f"≤ {a['own_bound']:.4f}" if "own_bound" in a else ""
        each = " | ".join(f"{v:.4f}" for v in a["seeds"])
        score = f"≤ {a['nelbo']:.4f} ± {a['stderr']:.4f}"
        page.append(f"| {a['schedule']} | {a['masking']} | {score} | {each} | {own} | {a['own_exam']:.4f} |")
    page += [f"| {run} | | {why} |" + " |" * (len(seeds) + 2) for run, why in found["lost"].items()]
    page += [
        "",
        f"Noise floor, linear against loglinear: {found['noise_floor']:.4f}. Residual standard deviation of a run: "
        f"{found['residual_sd']:.4f} ({found['degrees_of_freedom']} degrees of freedom). Intervals: {LEVEL:.0%} for "
        "each family together.",
        "",
        "| compared | effect | interval | verdict |",
        "|---|---:|---:|---|",
    ]
    for e in (e for family in found["effects"].values() for e in family):
        verdict = (
            "the noise floor" if e["of"].startswith("loglinear") and e["than"].startswith("linear") else e["words"]
        )
        page.append(
            f"| {e['of']} less {e['than']} | {e['mean']:+.4f} | {e['low']:+.4f} to {e['high']:+.4f} | {verdict} |"
        )
    page += ["", "## In words", "", *words(found), *hypotheses(found)]
    return page + [
        "",
        f"![Effects with intervals](figures/{name}.png)",
        "",
        f"![Curves](figures/{name}_curves.png)",
        "",
    ]


def words(found: dict) -> list[str]:
    """What was found, what was not, and how much could still be there."""
    said = []
    for family, what in (("proposal", "Against linear"), ("masking", "Masked by type, against uniform masking")):
        judged = [e for e in found["effects"][family] if not (family == "proposal" and "loglinear" in e["of"])]
        seen = [
            f"{e['of']} {abs(e['mean']):.3f} nats {'worse' if e['mean'] > 0 else 'better'}"
            for e in judged
            if e["found"]
        ]
        open_ = max((max(abs(e["low"]), abs(e["high"])) for e in judged if not e["found"]), default=0.0)
        rest = (
            f" Where nothing is found, the intervals allow up to {open_:.3f} nats either way."
            if len(seen) < len(judged)
            else ""
        )
        said.append(
            f"* {what}, found in {len(seen)} of {len(judged)} comparisons: {', '.join(seen) or 'nothing'}.{rest}"
        )
    for name, label in (("nelbo", "the common score"), ("own_exam", "own exams")):
        values = [arm[name] for arm in found["arms"]]
        said.append(
            f"* Between best and worst of the {len(values)} arms, {label}: {max(values) - min(values):.3f} nats."
        )
    if len(found["seeds"]) == 1:
        said.append("* With one seed nothing can be found: the noise of a training is not known.")
    return said


def hypotheses(found: dict) -> list[str]:
    """What PLAN.md expected of these runs, and what came of it."""
    if len(found["seeds"]) == 1:
        return []
    if found["grid"] == "published":
        return as_published(found)
    proposal = [e for e in found["effects"]["proposal"] if e["found"] and "loglinear" not in e["of"]]
    better = [e["of"] for e in proposal if e["mean"] < 0]
    worse = [e["of"] for e in proposal if e["mean"] > 0 and e["of"].startswith("sqrt")]
    lower = [e["of"] for e in found["effects"]["masking"] if e["found"] and e["mean"] < 0]
    asked = {
        "H1, no schedule is better than linear by more than the noise": ("refuted by", "not contradicted", better),
        "H1, sqrt is worse than linear": ("found with", "not found", worse),
        "H2, masking by type does not lower the common score": ("refuted by", "not contradicted", lower),
    }
    return [
        f"* {what}: {yes} {', '.join(who)}." if who else f"* {what}: {no}." for what, (yes, no, who) in asked.items()
    ]


EASIEST_FIRST = ("clipped_cosine", "cosine", "loglinear", "linear", "sqrt", "sigmoid")  # by PLAN.md, H0


def as_published(found: dict) -> list[str]:
    """H3: own exams tell the exam, the common score tells the model."""
    said, of = [], {(arm["schedule"], arm["masking"]): arm for arm in found["arms"]}
    for masking in ("uniform", "clamped"):
        six = [of[name, masking] for name in EASIEST_FIRST if (name, masking) in of]
        order = [arm["schedule"] for arm in sorted(six, key=lambda arm: arm["own_exam"])]
        same = [n.removeprefix("log") for n in order] == [a["schedule"].removeprefix("log") for a in six]
        own, common = (max(a[k] for a in six) - min(a[k] for a in six) for k in ("own_exam", "nelbo"))
        said += [
            f"* H3, {masking}: own exams rank as one network's do: {'yes' if same else 'no, ' + ' < '.join(order)}. "
            f"Between best and worst lie {own:.3f} nats of own exams and {common:.3f} of the common score."
        ]
    both = [n for n in EASIEST_FIRST if (n, "uniform") in of and (n, "clamped") in of]
    looks = sum(of[n, "clamped"]["own_exam"] < of[n, "uniform"]["own_exam"] for n in both)
    worse = sum(e["found"] and e["mean"] > 0 for e in found["effects"]["masking"])
    said += [
        f"* H3, clamped: better by its own exam in {looks} of {len(both)}; by the common score found worse in {worse}."
    ]
    return said


def reference() -> list[str]:
    known = read_json(ROOT / "study" / "published.json")
    head = [f"For reference, {known['what']} ({known['source']}):", ""]
    table = ["| " + " | ".join(known["columns"]) + " |", "|---|" + "---:|" * (len(known["columns"]) - 1)]
    return head + table + ["| " + " | ".join(map(str, row)) + " |" for row in known["rows"]]
