"""What results/README.md says of searches: which recipes helped, and what the options of the backbone are worth."""

from microdlm.search import T_95

MEANS = {  # variants whose names do not say what they do
    "batch ratio": "trained on the mean over all hidden characters of a batch: no bound, texts with many weigh more",
    "in time, weight 1/t": "each character hidden with probability t, its cost times 1/t",
    "attention × 2": "the logits of attention times 2",
    "attention × 4": "the same times 4",
    "windows cut in two": "trained on twice as many windows of half the length",
    "complementary masks": "half as many windows, each twice: what is hidden the first time is visible the second",
    "few masked more often": "hidden is the share 1 - cos(πs/2), s even from 0 to 1, weighted to the same bound",
    "many masked more often": "likewise with sin(πs/2)",
    "shares from 10 to 90 % only": "trained on no window that is nearly whole or nearly hidden: no bound",
    "counts not stratified": "how much of a window is hidden is drawn for each alone, not spread over the batch",
    "embedding std 1": "the standard deviation that the embedding begins with, the base's is 1/√width",
    "embedding std 0.02": "likewise",
    "EMA 0.99": "a moving average of the weights is scored",
    "down to a tenth": "where the rate ends, instead of zero",
    "warm-up 1 %": "the share of the steps in which the rate rises",
    "t added": "t as a vector, added to the stream",
    "t by adaLN-Zero": "t sets scale, shift and gate in each block, which makes the network larger",
    "learned positions": "a vector for each position instead of rotation",
    "constant rate": "the rate does not come down to zero",
}


def named(rows: list[dict]) -> str:
    """What is meant by those names that do not say it themselves."""
    here = {r["variant"] for r in rows}
    said = "; ".join(f"*{name}*, {what}" for name, what in MEANS.items() if name in here)
    return f"\nIn words: {said}." if said else ""


def verdict(r: dict) -> str:
    return "not settled" if not r["clear"] else "hurt" if r["difference"] > 0 else "helped"


def needed(seeds: int) -> str:
    """What it takes to be clear, and what it means not to be."""
    return (
        f"A verdict wants the 95 % interval of Student's t to leave out zero: with {seeds} seeds the difference must "
        f"be {T_95[seeds]:.1f} standard errors. What is less is not settled, which is not the same as no effect."
    )


def other_steps(runs: list[dict]) -> str:
    """The text is the same for all: who reads it in other batches takes another number of steps, at the same rate."""
    steps = {r["variant"]: r["steps"] for r in runs}
    others = [f"{name} takes {n:,}" for name, n in steps.items() if n != steps["base"]]
    told = f"The base takes {steps['base']:,} steps; {', '.join(others)}, at the same learning rate."
    return told if others else f"All take {steps['base']:,} steps."


def recipes(numbers: dict) -> str:
    """What helped, what hurt, what did neither clearly, what has not run."""
    base, rows, groups = verdicts(numbers)
    seeds, whole = len(base["seeds"]), sum(groups.values(), [])
    net = numbers["sizes"]
    text = [
        "\n## Which recipe trains best?\n",
        f"A network of {net['n_layer']} layers, {net['n_head']} heads and width {net['d_model']} on Tiny "
        f"Shakespeare. Every run reads {numbers['chars']:,} characters, {numbers['chars'] / 1_003_854:.1f} times the "
        "text, and brings its learning rate to zero within them: what helps here helps a short training.\n",
        f"The base is Muon at {base_of(numbers)}. It reaches **≤ {base['nelbo']:.4f}** nats per character on "
        f"{numbers['windows']} held-out windows: an upper bound, with the same windows and masks for every run, "
        f"whatever it was trained on. Each row changes one thing. {other_steps(numbers['runs'])} The difference is "
        f"taken seed by seed; ± is its standard error over {seeds} seeds. {needed(seeds)} One row in twenty would get "
        "a verdict, if none had any effect.\n",
        "| changed | | against the base, nats | verdict |",
        "|---|---|---:|---|",
    ]
    for said, mine in groups.items():
        text += [line(r, said) for r in mine]
    part = [r for r in rows if r not in whole]
    text += [line(r, f"{len(r['seeds'])} of {seeds} seeds") for r in part if "difference" in r]
    text += [named([r for r in rows if "difference" in r])]
    missing = [r["variant"] for r in part] + numbers["not_run"]
    text += [f"\nNot yet run with all seeds: {'; '.join(missing) if missing else 'nothing'}.\n"]
    return "\n".join([*text, f"Numbers: `results/recipes.json`, made by `{numbers['made_by']['command']}`."])


def verdicts(numbers: dict) -> tuple[dict, list[dict], dict[str, list[dict]]]:
    """The base, the other rows with the best first, and those of them that have run with all its seeds by verdict."""
    base, *rows = numbers["summary"]
    rows = sorted(rows, key=lambda r: r.get("difference", 0))
    whole = [r for r in rows if len(r["seeds"]) == len(base["seeds"])]
    return base, rows, {said: [r for r in whole if verdict(r) == said] for said in ("helped", "hurt", "not settled")}


def recipes_again(numbers: dict, first: dict) -> str:
    """The same variants on a larger network that reads more, beside what they were worth in the first search."""
    base, rows, groups = verdicts(numbers)
    net, seeds = numbers["sizes"], len(base["seeds"])
    before = {r["variant"]: (r, said) for said, mine in verdicts(first)[2].items() for r in mine}
    text = [
        "\n### Does the same help a larger network that reads more?\n",
        f"{net['n_layer']} layers, {net['n_head']} heads and width {net['d_model']}; each run reads "
        f"{numbers['chars']:,} characters, {numbers['chars'] / first['chars']:.0f} times as many as above. The base is "
        f"the same but for windows of {net['seq_len']}, and reaches **≤ {base['nelbo']:.4f}** on "
        f"{numbers['windows']} held-out windows of that length. Names, differences and verdicts as above, over "
        f"{seeds} seeds.\n",
        "| changed | | here, nats | verdict here | above, nats | verdict above |",
        "|---|---|---:|---|---:|---|",
    ]
    for found, mine in groups.items():
        for r in mine:
            was, said = before[r["variant"]]
            text.append(f"{line(r, found)} {was['difference']:+.4f} ± {was['stderr']:.4f} | {said} |")
    whole = {r["variant"] for mine in groups.values() for r in mine}
    missing = [r["variant"] for r in rows if r["variant"] not in whole] + numbers["not_run"]
    text += [f"\nNot yet run with all seeds: {'; '.join(missing) if missing else 'nothing'}.\n"]
    return "\n".join([*text, "Numbers: `results/recipes_small.json`, where each run says which command made it."])


def base_of(numbers: dict) -> str:
    how = next(r["recipe"] for r in numbers["runs"] if r["variant"] == "base")
    return (
        f"learning rate {how['lr']:g} (AdamW for embedding and head), warm-up {how['warmup']:.0%}, weight decay "
        f"{how['weight_decay']:g}, {how['batch_size']} windows of {numbers['sizes']['seq_len']} a step, the bound in "
        "counts with stratified counts, no dropout, no average"
    )


def line(r: dict, said: str) -> str:
    return f"| {r['factor']} | {r['variant']} | {r['difference']:+.4f} ± {r['stderr']:.4f} | {said} |"


def ablations(numbers: dict) -> str:
    """What each option of the backbone is worth, in the order of the plan."""
    base, *rows = numbers["summary"]
    whole = [r for r in rows if len(r["seeds"]) == len(base["seeds"])]
    how, size = numbers["runs"][0]["training"], numbers["runs"][0]["parameters"]
    text = [
        "\n## What are the options of the backbone worth?\n",
        f"None is on in the base, a network of {size:,} weights that reads {numbers['chars']:,} characters of Tiny "
        f"Shakespeare (Muon at learning rate {how['lr']:g}, {how['batch_size']} windows a step): **≤ "
        f"{base['nelbo']:.4f}** nats per character on {numbers['windows']} held-out windows. Differences are taken "
        f"seed by seed; ± is the standard error over {len(base['seeds'])} seeds. {needed(len(base['seeds']))} What "
        "helps or does not in so short a training may differ in a long one.\n",
        "| option | | against the base, nats | verdict |",
        "|---|---|---:|---|",
        *(line(r, verdict(r)) for r in whole),
        named(whole),
        f"\nNumbers: `results/ablations.json`, made by `{numbers['made_by']['command']}`.",
    ]
    missing = [r["variant"] for r in rows if r not in whole] + numbers["not_run"]
    return "\n".join([*text, f"\nNot yet run with all seeds: {'; '.join(missing)}." if missing else ""])
