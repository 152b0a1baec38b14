"""Rebuild every table of measured numbers in README.md and in the cards of weights/, from results/*.json.

python results/tables.py            write them
python results/tables.py --check    exit with 1 if one of them is not what the JSON says
"""

import json
import math
import re
import sys
from pathlib import Path

from sections_of_cards import LABEL, card, judge, number
from sections_of_costs import first_hour
from sections_of_epochs import scarce

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def config(name: str) -> dict:
    return json.loads((ROOT / f"weights/shakespeare-{name}/config.json").read_text(encoding="utf-8"))


def twins(name: str) -> str:
    """One comparison of the twins: a row a way of writing, and the exact answer where there is one."""
    numbers = read(name)
    exact, made = numbers.get("exact"), numbers["made_by"]
    extra = ("above exact", "lines valid") if exact else ("bits per character",)
    rows = [
        f"| model | writes | nats per character | {' | '.join(extra)} | passes | tokens read | seconds |",
        f"|---|---|{'---:|' * (len(extra) + 4)}",
    ]
    for w in numbers["writing"]:
        e = numbers["likelihood"][w["kind"]]
        if exact:
            above = f"{e['nats_per_char'] - exact['nats_per_char']:+.3f}"
            more = f"{above} | {share(w['lines_accepted'], w['lines'])}"
        else:
            more = f"{'≤ ' if w['kind'] == 'diffusion' else ''}{e['nats_per_char'] / math.log(2):.2f}"
        cost = f"{w['passes']} | {w['token_forwards']:,} | {w['seconds'] / w['texts']:.3f}"
        model = f"{LABEL[w['kind']]}, {e['parameters'] / 1e6:.2f}M"
        rows.append(f"| {model} | {w['way']} | {number(e, w['kind'])} | {more} | {cost} |")
    if exact:
        rows.append(f"| the language itself | it knows | {number(exact, 'exact')} | | 100% | | | |")
    floor = f" The exact entropy rate is {exact['entropy_rate']:.4f}. {LINES}" if exact else ""
    rows += [
        "",
        f"{numbers['windows']} held-out windows, first character given; ≤ marks an upper bound, the other values are "
        f"exact; ± is one standard error over windows.{floor} Passes, tokens read and seconds: one text, written "
        f"{numbers['writing'][0]['texts']} at a time on {made['threads']} CPU threads at temperature 1. Numbers: "
        f"`results/{name}.json`, made by `{made['command']}`.",
    ]
    return "\n".join(rows)


LINES = "Lines valid: of the whole lines written, ± one standard error if each were a draw of its own."


def share(hits: int, n: int) -> str:
    """Counted, and with the binomial error: of few lines, 13 and 5 % are no difference."""
    p = hits / max(1, n)
    return f"{p:.0%} ± {math.sqrt(p * (1 - p) / max(1, n)):.0%} ({hits} of {n})"


STEP6 = "{block_1} nats in blocks of 1, ≤ {block_4} of 4, ≤ {block_16} of 16, ≤ {block_64} in one of 64"
LADDER = {  # step: its question, and how to say some of its numbers in results/steps.json
    "step0_masking": ("What is noise, for text?", "{count} of 256 letters hidden at t = ½; predicted 75.0"),
    "step1_denoise_mlp": ("Can blanks be filled without context?", "{last} nats; unigram entropy {entropy}"),
    "step2_transformer": ("What does context buy?", "≤ {area} nats, the area under the curve; without context {flat}"),
    "step3_sampling": ("How does a filler of blanks write?", "{passes_1000} passes in 1,000 steps; predicted 200.77"),
    "step4_likelihood": ("When is masked cross-entropy a likelihood?", "{clipped_cosine} where ln 2 is true: no bound"),
    "step5_twins": ("What separates diffusion from GPT?", "diffusion ≤ {apart} nats above the GPT"),
    "step6_blocks": ("Is there anything in between?", STEP6),
}


def ladder() -> str:
    """One row a step: its question, numbers that it predicts or finds, what it took."""
    steps = read("steps")["steps"]
    rows = ["| step | question | measured with three seeds | seconds |", "|---|---|---|---:|"]
    for name, (question, text) in LADDER.items():
        numbers = {key: spread(n) for key, n in steps[name]["numbers"].items()}
        took = f"{steps[name]['seconds']:.0f}"
        rows.append(f"| [`{name}`](steps/{name}.py) | {question} | {text.format(**numbers)} | {took} |")
    threads = steps["step0_masking"]["made_by"]["threads"]
    rows += [
        "| [`step7_schedule_study`](steps/step7_schedule_study.py) | Does the schedule matter? | "
        f"{study()} | {study_seconds(steps)} |",
        "",
        f"± is one standard deviation over seeds {', '.join(map(str, steps['step0_masking']['seeds']))}, in step 7 one "
        f"standard error; seconds on {threads} CPU thread{'s' * (threads > 1)}. Numbers: `results/steps.json`, made by "
        "`python results/steps.py`, and `results/schedule_study_nano.json`, by `python -m study run`.",
    ]
    return "\n".join(rows)


def study() -> str:
    """What the study at nano has found, and how much it may have missed."""
    numbers = read("schedule_study_nano")
    proposal, masking = (numbers["effects"][family] for family in ("proposal", "masking"))
    named = {e["of"].removesuffix("-uniform"): e for e in proposal if e["found"] and e["of"].endswith("-uniform")}
    found = ", ".join(f"{name} {e['mean']:+.3f} ± {e['stderr']:.3f}" for name, e in named.items())
    most = max(max(abs(e["low"]), abs(e["high"])) for e in masking)
    by_type = f"masking by type of character: no effect found, the intervals reach {most:.2f} nats"
    by_type = "" if any(e["found"] for e in masking) else f"; {by_type}"
    return f"from `python -m study run`: [against linear](results/schedule_study_nano.md) {found} nats{by_type}"


def study_seconds(steps: dict) -> str:
    return f"{steps['step7_schedule_study']['seconds']:.0f}" if "step7_schedule_study" in steps else ""


def spread(n: dict) -> str:
    """What is computed and not measured is the same with every seed."""
    return f"{n['mean']:.4g}" + (f" ± {n['sd']:.1g}" if n["sd"] > 1e-6 else "")


def sampling() -> str:
    """The frontier: each way of writing at the diversity of real text, and what that costs."""
    numbers = read("sampling_frontier")
    at_one = {p["name"]: p for p in numbers["points"] if p["temperature"] == 1}
    rows = ["| writes | judge, at temperature 1 | judge, as diverse as real text | passes | tokens read |"]
    rows.append("|---|---:|---:|---:|---:|")
    for p in numbers["at_the_entropy_of_real_text"]:
        one = at_one[p["name"]]
        cost = f"{one['passes']['value']:.0f} | {one['tokens_read']['value']:,.0f}"
        rows.append(f"| {p['name']} | {judged(one)} | {judged(p)} | {cost} |")
    real = numbers["real_text"]
    rows += [
        f"| real text, held out | {judged(real)} | {judged(real)} | | |",
        "",
        f"{numbers['texts']} continuations of {numbers['length'] - numbers['prompt']} characters each; nats per "
        "character of what was written under a GPT of another seed, ± one standard error: near real text is good, not "
        "low. Third column: at the temperature at which the texts are as diverse as real ones, by the entropy of "
        f"4-grams, read off between two measured temperatures. {unmatched(numbers)} Numbers: "
        f"`results/sampling_frontier.json`, made by `{numbers['made_by']['command']}`.",
    ]
    return "\n".join(rows)


def unmatched(numbers: dict) -> str:
    """Who was measured and is not in the table: no two of his temperatures have real text's diversity between them."""
    here, found = {p["name"] for p in numbers["at_the_entropy_of_real_text"]}, {}
    for p in numbers["points"]:
        if p["name"] not in here:
            found.setdefault(p["name"], []).append(f"{p['entropy']['value']:.2f} at {p['temperature']:g}")
    told = "; ".join(f"{name} ({', '.join(values)})" for name, values in found.items())
    real = f"{numbers['real_text']['entropy']['value']:.2f} nats"
    why = f"because no two of their temperatures have real text's {real} of entropy between them"
    return f"Measured but neither here nor in the figures, {why}: {told}." if found else "All measured are here."


def judged(point: dict) -> str:
    return f"{point['judge_nats']['value']:.2f} ± {point['judge_nats']['stderr']:.2f}"


def speed() -> str:
    """Characters a second, ours beside the straightforward loop."""
    numbers = read("sampling_speed")
    of = {(r["writer"], r["batch"], r["way"]): r for r in numbers["rows"]}
    heads = ["writes", "texts at once", "the loop, characters/s", "ours, float32", "bfloat16", "compiled", "at most"]
    rows = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for writer, batch in dict.fromkeys(key[:2] for key in of):
        ways = ["ours", "ours, bfloat16", "ours, fastest, compiled"]
        cells = [f"× {of[writer, batch, w]['ratio']:.1f}" if (writer, batch, w) in of else "" for w in ways]
        loop = of[writer, batch, "loop"]
        cells.append(f"× {loop['most']:.1f}" if "most" in loop else "")
        rows.append(f"| {writer} | {batch} | {loop['chars_per_second']:,.0f} | {' | '.join(cells)} |")
    made, n = numbers["made_by"], numbers["turns"]
    rows += [
        "",
        f"Texts of {numbers['length']} characters, the shipped weights, top-k {numbers['top_k']}, {made['threads']} "
        f"CPU threads; {f'medians of {n} turns' if n > 1 else 'one turn'}, one contestant after the other. At most: "
        "if each pass of a sampler that always opens something were nothing but its matrix products. Numbers: "
        f"`results/sampling_speed.json`, made by `{made['command']}`.",
    ]
    return "\n".join(rows)


def race() -> str:
    """Both models writing a short text, frame by frame."""
    lines = ["```"]
    for kind, frames in read("twins")["race"].items():
        lines.append(f"{LABEL[kind]}, {frames[0]['way']}: passes and text")
        lines += [f"{f['passes']:>4}  {f['text'].replace(chr(10), '↵')}" for f in frames]
    return "\n".join([*lines, "```"])


def filled(text: str, name: str, table: str) -> str:
    """`text` with what stands between the two marks of `name` replaced."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not marked.search(text):
        raise SystemExit(f"no page has a place for the table {name!r}")
    return marked.sub(lambda m: m[1] + table + "\n" + m[2], text)


def pages() -> dict[Path, str]:
    """Every page with measured numbers, as it should read."""
    tables = {"race": race(), "demo": twins("demo"), "twins": twins("twins"), "ladder": ladder()}
    tables |= {"scarce": scarce(read("epochs")), "sampling": sampling(), "speed": speed()}
    readme, hour = ROOT / "README.md", ROOT / "docs" / "first_hour.md"
    text = readme.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = filled(text, name, table)
    told = filled(hour.read_text(encoding="utf-8"), "first_hour", first_hour(read("first_hour")))
    cards = {"judge": judge(config("judge")), **{kind: card(kind, config(kind), read("twins")) for kind in LABEL}}
    return {readme: text, hour: told} | {ROOT / f"weights/shakespeare-{n}/README.md": c for n, c in cards.items()}


def main() -> None:
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        sys.exit(f"not what results/*.json says: {', '.join(map(str, stale))}; run make results" if stale else 0)
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
