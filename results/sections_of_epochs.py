"""What is said of reading a text again and again: results/README.md, and shorter in README.md."""

import math
import statistics
from collections.abc import Iterable

from scipy.stats import t as student
from sections import prose

KINDS = ("diffusion", "gpt")


def epochs(numbers: dict) -> str:
    """Both twins against how often the text was read."""
    text = [
        "\n## How often can a text be read?\n",
        prose(
            f"""
            The first {numbers["characters"]:,} characters of Tiny Shakespeare, the networks of `{numbers["size"]}`,
            Muon. A run is planned for a number of epochs: that is when its learning rate comes down to zero. For each
            plan each twin chooses among its regularisers, and its best moment too, by {numbers["choose"]} held-out
            windows of {numbers["length"]} characters; the value comes from the {numbers["count"]} others.
            {looks(numbers["runs"])} GPT: exact. Diffusion: upper bounds.
            """
        ),
        "| epochs planned | model | nats per character | best after | chosen | runs |",
        "|---:|---|---:|---:|---|---:|",
    ]
    for r in sorted(numbers["summary"], key=lambda r: (r["epochs"], r["kind"])):
        value = f"{'≤ ' * (r['kind'] == 'diffusion')}{r['nats_per_char']:.3f} ± {r['stderr']:.3f}"
        moment = f"{r['best_epoch']:.0f} epochs"
        text.append(f"| {r['epochs']} | {r['kind']} | {value} | {moment} | {r['regulariser']} | {r['runs']} |")
    text += [
        "\n± is one standard error over seeds, or over windows where one seed has run. All are scored on the same "
        "windows: how another text would come out, the differences below say.\n",
        f"{crossing(numbers)} {unchecked(numbers['runs'])}{rates(numbers['runs'])}{untried(numbers['summary'])}",
    ]
    return "\n".join([*text, "\n![Nats per character of both models against epochs](figures/epochs.png)"])


def both(rows: list[dict]) -> dict[int, tuple[dict, dict]]:
    """Number of epochs -> the rows of diffusion and GPT, where both have run with three seeds."""
    of = {(r["kind"], r["epochs"]): r for r in rows if r["runs"] >= 3}
    return {n: tuple(of[k, n] for k in KINDS) for n in sorted({n for _, n in of}) if all((k, n) in of for k in KINDS)}


def windows(row: dict, runs: list[dict]) -> list[float]:
    """Nats on each window that counts, the mean over the seeds of this row."""
    what = ("kind", "epochs", "regulariser")
    mine = [r["windows"] for r in runs if "windows" in r and all(r[name] == row[name] for name in what)]
    return [statistics.mean(values) for values in zip(*mine, strict=True)]


def apart(ours: dict, other: dict, runs: list[dict]) -> tuple[float, float, bool]:
    """Ours less the other in nats; its standard error, from seeds and, window by window, from the text; and whether
    95 % are sure of its sign, by Welch's t-test with the text as a third sample."""
    pairs = zip(windows(ours, runs), windows(other, runs), strict=True)
    d = [a - b for a, b in pairs]
    parts = [(r["stderr"] ** 2, r["runs"] - 1) for r in (ours, other)]
    parts.append((statistics.variance(d) / len(d), len(d) - 1))
    gap, error = ours["nats_per_char"] - other["nats_per_char"], math.sqrt(sum(v for v, _ in parts))
    freedom = error**4 / sum(v**2 / n for v, n in parts)
    return gap, error, bool(abs(gap) > student.ppf(0.975, freedom) * error)


def crossing(numbers: dict) -> str:
    """Where, if anywhere, the diffusion model comes to stand below the GPT, and how sure that is."""
    rows, runs = numbers["summary"], numbers["runs"]
    gaps = [(n, *apart(*pair, runs)) for n, pair in both(rows).items()]
    if not gaps:
        return "Do they cross? No number of epochs has run with three seeds of both."
    clear = {n: gap > 0 for n, gap, _, sure in gaps if sure}
    below = next((n for n, above in clear.items() if not above), None)
    before = [n for n, above in clear.items() if above and (below is None or n < below)]
    said = ", ".join(f"{gap:+.3f} ± {error:.3f} nats at {n}" for n, gap, error, _ in gaps)
    last = gaps[-1][0]
    if below:
        verdict = f"the bound is clearly below the GPT's value at {below} epochs"
        verdict += f", and clearly above it at {before[-1]}" if before else ", the fewest of which we are sure"
    elif before and last not in clear:
        verdict = f"the bound is clearly above it up to {before[-1]}; at {last} the two cannot be told apart"
    else:
        verdict = f"no crossing is seen in up to {last} epochs; the likelihood itself may be better than its bound"
    ours, other = at_best(rows)
    gap, error, sure = apart(ours, other, runs)
    stand = [f"{r['nats_per_char']:.3f} with {r['epochs']}" for r in (ours, other)]
    found = f"{gap:+.3f} ± {error:.3f}, {'clearly apart' if sure else 'which is not clear'}"
    return (
        f"Do they cross? The diffusion model's bound less the GPT's value is {said} epochs planned: {verdict}. Each "
        f"may plan as it likes: at their best they stand ≤ {stand[0]} epochs against {stand[1]}, {found}. ± here is "
        "over seeds and, window by window, over the text; clear is what 95 % of Welch's t-test are sure of."
    )


def at_best(rows: list[dict]) -> list[dict]:
    """The row of each twin with the fewest nats."""
    return [min((pair[i] for pair in both(rows).values()), key=lambda r: r["nats_per_char"]) for i in range(2)]


def scarce(numbers: dict) -> str:
    """The same for the README: where the twins stand, and what reading on costs."""
    text = ["| epochs planned | diffusion | GPT |", "|---:|---:|---:|"]
    for n, pair in both(numbers["summary"]).items():
        ours, other = (f"{r['nats_per_char']:.3f} ± {r['stderr']:.3f}" for r in pair)
        text.append(f"| {n} | ≤ {ours} | {other} |")
    return "\n".join(
        [
            *text,
            f"\nThe networks of `{numbers['size']}`, {numbers['characters']:,} characters of Tiny Shakespeare; "
            "nats per character of held-out text. Regulariser and moment were chosen by other held-out text. "
            "± is one standard error over three seeds, on the same windows for all. "
            f"{unchecked(numbers['runs'])}{untried(numbers['summary'])} Numbers: `results/epochs.json`, where each run "
            "says which command made it.",
        ]
    )


def plain(runs: list[dict]) -> dict[tuple[str, int], dict]:
    """Twin and number of epochs -> the run that nothing regularises and nothing ends early."""
    return {(r["kind"], r["epochs"]): r for r in runs if (r["regulariser"], r["seed"]) == ("none", 0)}


def looks(runs: list[dict]) -> str:
    """How often a whole run is looked at: most as the one that nothing regularises, some more often."""

    def planned(r: dict) -> int:
        return round(len(r["curve"]) * r["steps"] / r["curve"][-1][0])

    usual = {of: planned(r) for of, r in plain(runs).items()}
    said = [f"{n} times ({plans(of for of in usual if usual[of] == n)})" for n in sorted(set(usual.values()))]
    other = {}
    for r in (r for r in runs if r["seed"] == 0 and ", rate " not in r["regulariser"]):
        of, n = (r["kind"], r["epochs"]), planned(r)
        if n != usual.get(of, n):
            other.setdefault((n, r["regulariser"]), []).append(of)
    more = "".join(f", but {n} times with {name} ({plans(of)})" for (n, name), of in other.items())
    return (
        f"While it chooses, a run is looked at {' or '.join(said)}{more}; between two looks a better moment may pass."
    )


def plans(of: Iterable[tuple[str, int]]) -> str:
    """Twins and their numbers of epochs, in words."""
    pairs = sorted(of)
    by = {kind: [str(n) for k, n in pairs if k == kind] for kind in KINDS}
    return "; ".join(f"{kind}: {', '.join(epochs)} epochs" for kind, epochs in by.items() if epochs)


def untried(rows: list[dict]) -> str:
    """Where a twin has not had all its regularisers to choose from."""
    lacks = [
        f"{', '.join(f'`{name}`' for name in r['untried'])} ({r['kind']}, {r['epochs']} epochs)"
        for r in rows
        if r["untried"]
    ]
    return f" Not tried yet: {'; '.join(lacks)}." if lacks else ""


def unchecked(runs: list[dict]) -> str:
    """What reading on costs whom nothing holds back."""
    whole = plain(runs)
    most = max(set.intersection(*({n for kind, n in whole if kind == k} for k in KINDS)))
    ours, other = (statistics.mean(whole[kind, most]["curve"][-1][1:]) for kind in KINDS)
    return (
        f"With no regulariser and no early stop, {most} epochs end at ≤ {ours:.3f} for diffusion and at {other:.3f} "
        "for the GPT (seed 0, the windows that choose)."
    )


def rates(runs: list[dict]) -> str:
    """What another learning rate would have been worth, where it was asked."""
    of, said = {(r["kind"], r["epochs"], r["regulariser"], r["seed"]): r for r in runs if "windows" in r}, {}
    for (kind, n, name, seed), r in sorted(of.items()):
        usual, _, rate = name.partition(", rate ")
        if rate and (beside := of.get((kind, n, usual, seed))):
            said.setdefault((rate, kind, n, usual), []).append(r["nats_per_char"] - beside["nats_per_char"])
    told = [f"{rate} {mean_of(d)} ({kind}, {n} epochs, {usual})" for (rate, kind, n, usual), d in said.items()]
    return f" Another learning rate, seed by seed, in nats: {'; '.join(told)}." if told else ""


def mean_of(differences: list[float]) -> str:
    """With its standard error over seeds, where there are several."""
    n = len(differences)
    error = f" ± {statistics.stdev(differences) / math.sqrt(n):.3f}" if n > 1 else ", one seed"
    return f"{statistics.mean(differences):+.3f}{error}"
