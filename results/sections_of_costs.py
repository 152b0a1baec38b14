"""What is said of time and memory: a training step, growing (results/README.md), a first hour (docs/first_hour.md)."""

from sections import prose

TRUSTED = 0.15  # a fit that is farther off somewhere says nothing of where its terms are equal


def speed(numbers: dict) -> str:
    """Our training step beside the textbook's, and beside what the machine could do."""
    text = [
        "\n## How fast is a training step?\n",
        prose(
            f"""
            A whole step: batch, masks, loss, gradients, clipping, AdamW. The textbook is torch's own encoder with
            LayerNorm, learned positions and logits everywhere, in the same shapes, in turns in the same process.
            The share is of what large matrix products reach here in that precision; counted is only what the task
            needs. The speed is the median of {numbers["turns"]} turns; the ratio is the median of what it is within
            each turn (in brackets the lowest and highest), so where turns differ the two need not agree.
            """
        ),
        "| model | precision | way | characters/s | share of the peak | times the textbook |",
        "|---|---|---|---:|---:|---:|",
    ]
    for r in numbers["rows"]:
        cells = f"{r['chars_per_second']:,.0f} | {r['share_of_peak']:.0%} | {r['ratio']:.2f}"
        spread = f"({r['lowest']:.2f} to {r['highest']:.2f})"
        text.append(f"| {r['kind']}, {r['size']} | {r['precision']} | {r['way']} | {cells} {spread} |")
    ours = {}
    for r in numbers["rows"]:
        if r["way"].startswith("ours"):
            ours.setdefault(f"{r['precision']}{r['way'].removeprefix('ours')}", []).append(r)
    found = "; ".join(f"{how} {spans(of)}" for how, of in ours.items())
    text += [f"\nOurs against the textbook as it is, over models and sizes: {found}."]
    both = "; ".join(f"{precision} × {low:.2f} to {high:.2f}" for precision, (low, high) in compiled(numbers).items())
    text += [f"\nBoth compiled, by their median speeds (single turns of this were not kept): {both}."] if both else []
    made = numbers["made_by"]
    return "\n".join(
        [*text, f"\nCPU threads: {made['threads']}, of an {made['device']}. Numbers: `results/training_speed.json`."]
    )


def spans(rows: list[dict]) -> str:
    """The medians from the lowest to the highest, and the same of single turns."""
    medians, lows, highs = ([r[k] for r in rows] for k in ("ratio", "lowest", "highest"))
    return f"× {min(medians):.2f} to {max(medians):.2f} (single turns {min(lows):.2f} to {max(highs):.2f})"


def compiled(numbers: dict) -> dict[str, tuple[float, float]]:
    """Precision -> our median speed over the textbook's where both are compiled, the lowest and the highest."""
    speed = {(r["precision"], r["kind"], r["size"], r["way"]): r["chars_per_second"] for r in numbers["rows"]}
    ratios = {}
    for (precision, *case, way), ours in speed.items():
        if way == "ours, compiled":
            ratios.setdefault(precision, []).append(ours / speed[precision, *case, "textbook, compiled"])
    return {precision: (min(of), max(of)) for precision, of in ratios.items()}


def growth(numbers: dict) -> str:
    """Where the quadratic part of each cost takes over."""
    text = [
        "\n## What does growing cost?\n",
        prose(
            f"""
            {numbers["layers"]} layers, heads of {numbers["head"]}, one thread, float32; 4 texts of 256 characters
            at width 128, and from there along one axis at a time: length L, width D, texts at once B. Time and
            memory are fitted as c + a·x + b·x², none below zero, in relative error; the table shows which of the
            three are not. Where a·x and b·x² are equal the quadratic takes over, which is withheld where the fit is
            somewhere off by more than {TRUSTED:.0%}: it then says little of its terms. Counting the operations of the
            layers puts the point at L = 6 D for diffusion and, since half of the attention is not needed, at 12 D for a
            GPT. Writing: 32 passes for diffusion, one token after the other with a cache for the GPT. Memory is what
            the process rose by.
            """
        ),
        "| what | model | along | terms | equal at | by operations | fit's largest error | at the largest x |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    over = []
    for f in numbers["fits"]:
        mine = [r for r in numbers["rows"] if all(r[k] == f[k] for k in ("task", "kind", "axis"))]
        largest = max(mine, key=lambda r: r[f["axis"]])
        of, unit = (
            ("time", f"{largest['seconds']:.2f} s")
            if f["of"] == "seconds"
            else ("memory", f"{largest['mib']:,.0f} MiB")
        )
        most = largest[f["axis"]]
        equal = crossover(f, most)
        by = f"{f['expected']:,.0f}" if f["expected"] and of == "time" and f["task"] == "training" else ""
        kept = " + ".join(name for name, key in (("c", "c"), ("a·x", "a"), ("b·x²", "b")) if f[key] > 0)
        cells = f"{f['task']}, {of} | {f['kind']} | {f['axis']} | {kept} | {equal} | {by} | {f['largest_error']:.0%}"
        text.append(f"| {cells} | {unit} at {f['axis']} = {most:,} |")
        if equal[0].isdigit():
            over.append(f"{f['task']}, {f['kind']}, {of} from {f['axis']} = {equal}")
    told = "; ".join(over) or "nothing"
    text += [f"\nWhere the fit holds, the quadratic takes over within what was measured in: {told}."]
    text += ["\n![Seconds of a training step and of writing against length, both models](figures/growth.png)"]
    return "\n".join([*text, f"\nNumbers: `results/growth.json`, made by `{numbers['made_by']['command']}`."])


def crossover(fit: dict, most: int) -> str:
    """Where the quadratic takes over, up to the largest x that was measured, if the fit is good enough to tell."""
    if not fit["equal_at"]:
        return "–"
    if fit["largest_error"] > TRUSTED:
        return "withheld"
    return f"{fit['equal_at']:,.0f}" if fit["equal_at"] < most else f"above {most:,}"


def first_hour(numbers: dict) -> str:
    """Each command, what it took, and since the start; below, what the steps claimed."""
    since = 0.0
    rows, said = ["| command | seconds | since the start |", "|---|---:|---:|"], ["```"]
    for row in numbers["rows"]:
        since += row["seconds"]
        rows.append(f"| `{row['command']}` | {row['seconds']:,.0f} | {int(since // 60)}:{int(since % 60):02} |")
        said += [f"$ {row['command']}", *(claim.rstrip() for claim in row["claims"])]
    failed = [row["command"] for row in numbers["rows"] if row["code"]]
    made = numbers["made_by"]
    rows += [
        "",
        f"Exit code 0 {'in all' if not failed else 'in all but ' + ', '.join(failed)}. {numbers['processors']} cores, "
        f"{made['device']}, Python {made['python']}; the load average before was {numbers['load_before']:.1f}. "
        f"Numbers: `results/first_hour.json`, made by `{made['command']}`, {made['date'][:10]}.",
        "",
    ]
    return "\n".join([*rows, *said, "```"])
