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
    """Characters to each mark for the three recipes, and the factors at the plain recipe's end."""
    shown = ("plain", "AdamW, tuned", "ours")
    rows = [r for r in numbers["marks"] if any(r[name] for name in shown)]
    times, end = numbers["times_less"], numbers["plain_end"]
    text = [
        f"\n## How much text does a quality take at `{numbers['size']}`?\n",
        "The plain recipe: AdamW at a constant 3e-4, each character hidden with probability t, the mean over all that "
        "is hidden, 16 windows a step. Ours: Muon at 6e-3, counts spread evenly over the batch, the same mean, 4 "
        "windows a step, warm-up and cosine to zero, a run of its own for each length. AdamW, tuned: as ours, but "
        f"AdamW at 3e-3{piloted(numbers)}. Network, text and estimator are the same; "
        f"{numbers['windows']} held-out windows. The search that found ours scored by windows of the same text.\n",
        "| nats per character | plain: characters | AdamW, tuned: characters | ours: characters |",
        "|---:|---:|---:|---:|",
        *(f"| ≤ {r['mark']:.1f} | {' | '.join(chars(r[name]) for name in shown)} |" for r in rows),
        f"\nTo where the plain recipe ends (≤ {end['value']:.3f} ± {end['stderr']:.3f}), ours takes "
        f"{factor(times['chars'])} times fewer characters and {factor(times['flops'])} times fewer operations, counted "
        f"by a formula (Muon takes some of its own). {tuned(numbers)} ± is one standard error over seeds; between two "
        "runs a curve is taken for straight in the logarithm of the characters, which is not in it. "
        f"Who knows only how frequent each character is stands at {numbers['unigram']:.3f} on these windows; nothing "
        f"here says how long the lead lasts. Numbers: `results/{name}.json`, where each run says how it was made.",
        f"\nAlso tried: {tried(numbers['runs'])} (one seed).",
        f"\n![Nats per character against characters read: plain, tuned AdamW and ours](figures/{name}.png)",
    ]
    return "\n".join(text)


def piloted(numbers: dict) -> str:
    """Who says that this is AdamW's batch and rate."""
    if "pilot" not in numbers:
        return ", the pair that was best at `nano`; no other was tried here"
    best, second, *_ = runs = numbers["pilot"]["runs"]
    return (
        f", the best of {len(runs)} pairs of batch and rate in one run each (seed {best['seed']}, {best['chars']:,} "
        f"characters: ≤ {best['nelbo']:.3f}, the next ≤ {second['nelbo']:.3f})"
    )


def tuned(numbers: dict) -> str:
    """How much of the lead over the plain recipe AdamW has too, with a good rate and batch."""
    tuned, than = numbers["times_less_tuned"], numbers["times_less_than_tuned"]
    if not tuned["chars"]:
        return "The runs of tuned AdamW end before they get there."
    return (
        "Much of that is the rate, the batch and the way down to zero, for which Muon is not needed: tuned AdamW takes "
        f"{factor(tuned['chars'])} times fewer characters than the plain recipe. Ours takes {factor(than['chars'])} "
        f"times fewer than that; of operations {factor(than['flops'])} times fewer"
        f"{', so it takes more' * (than['flops']['value'] < 1)}."
    )


def tried(runs: list[dict]) -> str:
    """What else has run: a recipe, and where it came."""
    others = [r for r in runs if r["recipe"] not in ("plain", "AdamW, tuned", "ours")]
    ends = [f"≤ {r['points'][-1]['nelbo']:.3f} after {r['points'][-1]['chars']:,} characters" for r in others]
    return f"{others[0]['recipe']}, {', '.join(ends)}" if others else "nothing else has run"


def chars(found: dict) -> str:
    return f"{found['value']:,.0f} ± {found['stderr']:,.0f}" if found else "–"


def factor(found: dict) -> str:
    """With as many digits as its error has something to say about."""
    digits = 2 if found and found["stderr"] < 0.1 else 1
    return f"**{found['value']:.{digits}f}** ± {found['stderr']:.{digits}f}" if found else "(not reached)"


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
            published; one seed. Ours is the same network on as much text, but the rate is higher, warms up and comes
            down to zero, weight decay is 0.1, gradients are clipped, masks are spread evenly, and the transformer's
            matrices have Muon. {exactly(numbers["models"])} The exam is the mean over all hidden characters of a batch:
            what was published, and no bound; in brackets what was published for it. The bound is beside it, and there ±
            is one standard error over windows; at the exams it is over rounds of masks, all on the same windows.
            {counted(numbers["models"])}
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
        [
            *text,
            f"\nWho knows only how frequent each character is stands at {floor}: the MLP cannot do better; where "
            "an exam of its stands lower, that is the draw of the masks.",
        ]
    )


def exactly(models: dict) -> str:
    """In which arithmetic each network was trained."""
    low = [name for name, found in models.items() if all(r.get("bfloat16") for r in found["runs"])]
    return f"Products in bfloat16: {', '.join(low) or 'none'}."


def counted(models: dict) -> str:
    """Which bounds also count the first character of each window, as those did that have not run again since."""
    all_of_it = [name for name, found in models.items() if not all(r.get("given") for r in found["runs"])]
    if not all_of_it:
        return "Each window's first character is given to the bound."
    return f"A bound has each window's first character given, but not that of: {', '.join(all_of_it)}."


def graded(run: dict, exam: str, published: float | None) -> str:
    """An exam and, in brackets, what was published for it."""
    value = f"{run[exam]:.4f} ± {run[exam + '_stderr']:.4f}" if exam in run else "not measured"
    return f"{value} ({published:.2f})" if published else value
