"""What results/README.md says of each measurement, from its JSON. Written by `python results/page.py`."""


def tales(numbers: dict) -> str:
    """Whether stories end, whether their words are words, and what the first of each way says."""
    bound, made = numbers["bound"], numbers["trained"]
    rows = {f"written {way}": told for way, told in numbers["writing"].items()} | {"held out": numbers["held_out"]}
    text = [
        "\n## Do stories end?\n",
        f"A diffusion model of {made['parameters']:,} weights, {made['training']['steps']:,} steps of "
        f"{made['training']['batch_size']} windows of TinyStories by the token: ≤ {bound['nats_per_char']:.3f} ± "
        f"{bound['stderr']:.3f} nats per character on {numbers['windows']} held-out windows.\n",
        "| stories | texts | end within the window | words that stand in no story it read |",
        "|---|---:|---:|---:|",
    ]
    for whose, told in rows.items():
        end, error = told["ended"].values()
        text.append(f"| {whose} | {told['texts']:,} | {end:.0%} ± {error:.0%} | {told['unknown_words']:.1%} |")
    for way, told in numbers["writing"].items():
        text.append(f"\nThe first one written {way}:\n\n> {' '.join(told['samples'][0].split())}")
    return "\n".join([*text, f"\nNumbers: `results/tinystories.json`, made by `{numbers['made_by']['command']}`."])


def quality(numbers: dict, name: str = "time_to_quality") -> str:
    """Characters to each mark, plain beside ours, and the factor at the plain recipe's end."""
    rows = [r for r in numbers["marks"] if r["plain"] or r["ours"]]
    times, end = numbers["times_less"], numbers["plain_end"]
    text = [
        f"\n## How much text does a quality take at `{numbers['size']}`?\n",
        "The plain recipe: AdamW at a constant 3e-4, each character hidden with probability t, the mean over all that "
        "is hidden, 16 windows a step. Ours: Muon, counts spread evenly over the batch, the same mean, 4 windows a "
        "step, warm-up and cosine, a run of its own for each length. Network, text and estimator are the same; "
        f"{numbers['windows']} held-out windows.\n",
        "| nats per character | plain: characters | ours: characters |",
        "|---:|---:|---:|",
        *(f"| ≤ {r['mark']:.1f} | {chars(r['plain'])} | {chars(r['ours'])} |" for r in rows),
        f"\nTo where the plain recipe ends (≤ {end['value']:.3f} ± {end['stderr']:.3f}), ours takes "
        f"{factor(times['chars'])} times fewer characters and {factor(times['flops'])} times fewer operations (Muon "
        "takes some of its own); ± is one standard error over seeds. Who knows only how frequent each character is "
        f"stands at {numbers['unigram']:.3f}; nothing here says how long the lead lasts. Numbers: "
        f"`results/{name}.json`, made by `{numbers['made_by']['command']}`.",
        f"\nAlso tried: {tried(numbers['runs'])} (one seed).",
        f"\n![Nats per character against characters read, plain and ours](figures/{name}.png)",
    ]
    return "\n".join(text)


def tried(runs: list[dict]) -> str:
    """What else has run: a recipe, and where it came."""
    others = [r for r in runs if r["recipe"] not in ("plain", "ours")]
    ends = [f"≤ {r['points'][-1]['nelbo']:.3f} after {r['points'][-1]['chars']:,} characters" for r in others]
    return f"{others[0]['recipe']}, {', '.join(ends)}" if others else "nothing else has run"


def chars(found: dict) -> str:
    return f"{found['value']:,.0f} ± {found['stderr']:,.0f}" if found else "–"


def factor(found: dict) -> str:
    return f"**{found['value']:.1f}** ± {found['stderr']:.1f}" if found else "(not reached)"


def prose(text: str) -> str:
    """A paragraph, however it is wrapped here."""
    return " ".join(text.split()) + "\n"


def budgets(numbers: dict) -> str:
    """Published models in their budget, and ours in the same."""
    text = [
        "\n## Published numbers in their own budget\n",
        prose(
            f"""
            Batches of {numbers["batch"]} windows of {numbers["length"]} characters, AdamW at a constant 3e-4, as
            published; ours is the same network on as much text with the rate brought down to zero (and Muon for the
            transformer). The exam is the mean over all hidden characters of a batch: what was published, and no
            bound; in brackets what was published for it. The bound is beside it, and there ± is one standard error
            over windows; at the exams it is over rounds of masks, all on the same windows.
            """
        ),
        "| network | recipe | steps | bound in nats, held-out text | exam, held-out text | exam, training text |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, found in numbers["models"].items():
        for r in found["runs"]:
            who = f"{name}, {r['parameters']:,} weights | {r['recipe']} | {r['steps']:,}"
            known = found["published"] if r["recipe"] == "published" else {}
            exams = graded(r, "exam", known.get("held_out")), graded(r, "exam_training", known.get("training"))
            text.append(f"| {who} | ≤ {r['bound']:.4f} ± {r['bound_stderr']:.4f} | {' | '.join(exams)} |")
    floors = {k: v for found in numbers["models"].values() for k, v in found.items() if k.startswith("unigram")}
    floor = f"{floors['unigram']:.4f} on held-out text and at {floors['unigram_training']:.4f} on training text"
    return "\n".join(
        [*text, f"\nWho knows only how frequent each character is stands at {floor}: the MLP cannot do better."]
    )


def graded(run: dict, exam: str, published: float | None) -> str:
    """An exam and, in brackets, what was published for it."""
    value = f"{run[exam]:.4f} ± {run[exam + '_stderr']:.4f}" if exam in run else "not measured"
    return f"{value} ({published:.2f})" if published else value
