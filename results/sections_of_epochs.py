"""What is said of reading a text again and again: results/README.md, and shorter in README.md."""

import math

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
            Muon, one learning rate for each twin whatever the number of epochs. For each of these each twin
            chooses among its regularisers by half of the held-out windows, and its best moment too; the value
            comes from the other half. {looks(numbers["runs"])} GPT: exact. Diffusion: upper bounds.
            """
        ),
        "| epochs | model | nats per character | chosen | runs |",
        "|---:|---|---:|---|---:|",
    ]
    for r in sorted(numbers["summary"], key=lambda r: (r["epochs"], r["kind"])):
        value = f"{'≤ ' * (r['kind'] == 'diffusion')}{r['nats_per_char']:.3f} ± {r['stderr']:.3f}"
        text.append(f"| {r['epochs']} | {r['kind']} | {value} | {r['regulariser']} | {r['runs']} |")
    text += [
        "\n± is one standard error over seeds, or over windows where one seed has run. All are scored on the same "
        "windows, whose choice the first of these does not cover.\n",
        f"{crossing(numbers['summary'])} {unchecked(numbers['runs'])}{untried(numbers['summary'])}",
    ]
    return "\n".join([*text, "\n![Nats per character of both models against epochs](figures/epochs.png)"])


def both(rows: list[dict]) -> dict[int, tuple[dict, dict]]:
    """Number of epochs -> the rows of diffusion and GPT, where both have run with three seeds."""
    of = {(r["kind"], r["epochs"]): r for r in rows if r["runs"] >= 3}
    return {n: tuple(of[k, n] for k in KINDS) for n in sorted({n for _, n in of}) if all((k, n) in of for k in KINDS)}


def apart(ours: dict, other: dict) -> tuple[float, float, bool]:
    """Ours less the other in nats, its standard error, and whether 95 % are sure of its sign: Welch's t-test, for one
    twin may scatter far more than the other."""
    gap, error = ours["nats_per_char"] - other["nats_per_char"], math.hypot(ours["stderr"], other["stderr"])
    freedom = error**4 / sum(r["stderr"] ** 4 / (r["runs"] - 1) for r in (ours, other))
    return gap, error, bool(abs(gap) > student.ppf(0.975, freedom) * error)


def crossing(rows: list[dict]) -> str:
    """Where, if anywhere, the diffusion model comes to stand below the GPT, and how sure that is."""
    pairs = both(rows)
    gaps = [(n, *apart(*pair)) for n, pair in pairs.items()]
    if not gaps:
        return "Do they cross? No number of epochs has run with three seeds of both."
    clear = {n: gap > 0 for n, gap, _, sure in gaps if sure}
    below = next((n for n, above in clear.items() if not above), None)
    before = [n for n, above in clear.items() if above and (below is None or n < below)]
    said = ", ".join(f"{gap:+.3f} ± {error:.3f} nats after {n}" for n, gap, error, _ in gaps)
    last = gaps[-1][0]
    if below:
        verdict = f"the bound is clearly below the GPT's value after {below} epochs"
        verdict += f", and clearly above it after {before[-1]}" if before else ", the fewest of which we are sure"
    elif before and last not in clear:
        verdict = f"the bound is clearly above it up to {before[-1]}; after {last} the two cannot be told apart"
    else:
        verdict = f"no crossing is seen in up to {last} epochs; the likelihood itself may be better than its bound"
    ours, other = at_best(rows)
    gap, error, sure = apart(ours, other)
    stand = [f"{r['nats_per_char']:.3f} ± {r['stderr']:.3f} after {r['epochs']}" for r in (ours, other)]
    return (
        f"Do they cross? The diffusion model's bound less the GPT's value is {said} epochs: {verdict} (Welch's t-test, "
        f"95 %). Nobody has to read a text as often as he may: at their best they stand ≤ {stand[0]} epochs against "
        f"{stand[1]}, {gap:+.3f} ± {error:.3f}, {'clearly apart' if sure else 'which is not clear'} by the same test."
    )


def at_best(rows: list[dict]) -> list[dict]:
    """The row of each twin with the fewest nats."""
    return [min((pair[i] for pair in both(rows).values()), key=lambda r: r["nats_per_char"]) for i in range(2)]


def scarce(numbers: dict) -> str:
    """The same for the README: where the twins stand, and what reading on costs."""
    text = ["| epochs | diffusion | GPT |", "|---:|---:|---:|"]
    for n, pair in both(numbers["summary"]).items():
        ours, other = (f"{r['nats_per_char']:.3f} ± {r['stderr']:.3f}" for r in pair)
        text.append(f"| {n} | ≤ {ours} | {other} |")
    return "\n".join(
        [
            *text,
            f"\nThe networks of `{numbers['size']}`, {numbers['characters']:,} characters of Tiny Shakespeare; "
            "nats per character of held-out text. Regulariser and moment were chosen by other held-out text. "
            "± is one standard error over three seeds, on the same windows for all, whose choice it does not cover. "
            f"{unchecked(numbers['runs'])}{untried(numbers['summary'])} Numbers: `results/epochs.json`, where each run "
            "says which command made it.",
        ]
    )


def looks(runs: list[dict]) -> str:
    """How often a whole run is looked at: those without a regulariser never end early."""
    plain = {(r["kind"], r["epochs"]): len(r["curve"]) for r in runs if (r["regulariser"], r["seed"]) == ("none", 0)}
    said = []
    for times in sorted(set(plain.values())):
        of = {k: [str(n) for kind, n in sorted(plain) if kind == k and plain[k, n] == times] for k in KINDS}
        where = [f"{kind}: {', '.join(epochs)} epochs" for kind, epochs in of.items() if epochs]
        said.append(f"{times} times ({'; '.join(where)})")
    return f"A whole run is looked at {' or '.join(said)}; between two looks a better moment may pass."


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
    plain = [r for r in runs if r["regulariser"] == "none" and r["seed"] == 0]
    most = max(set.intersection(*({r["epochs"] for r in plain if r["kind"] == kind} for kind in KINDS)))
    ours, other = (next(r["curve"][-1][2] for r in plain if (r["kind"], r["epochs"]) == (k, most)) for k in KINDS)
    return (
        f"With no regulariser and no early stop, {most} epochs end at ≤ {ours:.3f} for diffusion and at {other:.3f} "
        "for the GPT (seed 0)."
    )
