"""What is said in results/README.md of faults, of bad input, and of the tests themselves."""

from sections import prose

FAULTS = {  # section of reliability.json -> what was done, and which of its counts says how often
    "kill -9 costs no bit": ("training killed by `kill -9`, then resumed", "killed"),
    "a full disk costs no bit": ("the disk full while training saves, then resumed", "filled up"),
    "a read-only folder is one line": ("a folder that cannot be written", "tried"),
    "one process trains in a folder": ("a second training in the folder of another", "refused while another trains"),
    "the clock may jump": ("the clock set forth and back while training", "runs"),
}
FUZZED = {"fuzzing": "blindly", "guided fuzzing": "guided by coverage"}


def promises(numbers: dict) -> str:
    """What was broken on purpose, and what came of it."""
    found = numbers["sections"]
    text = [
        "\n## What breaks it?\n",
        prose(
            """
            Faults at random moments: well is a run whose last weights are the same, bit for bit, as those of a run that
            was left alone, or, where nothing can go on, one line and exit code 2. Bad input: well is a result, or one
            line and exit code 2; a traceback, a hang or a lost file is a fault.
            """
        ),
        "| what was done | times | well |",
        "|---|---:|---|",
    ]
    for name, (what, times) in FAULTS.items():
        text.append(f"| {what} | {found[name][times]} | {'all' if found[name]['kept'] else 'not all'} |")
    for name, how in FUZZED.items():
        n, targets, faults = found[name]["inputs"], len(found[name]["targets"]), len(found[name]["faults"])
        text.append(f"| bad input, {how}, to {targets} targets | {n:,} | {f'all but {faults}' if faults else 'all'} |")
    return "\n".join([*text, "\nNumbers: `results/reliability.json`; each section there names its command."])


def suite(numbers: dict) -> str:
    """How often the whole suite was green in a row."""
    row, last = numbers["in_a_row"], numbers["runs"][-1]
    said = ", ".join(part for part in last["said"].split(" in ")[0].split(", ") if "warning" not in part)
    shuffled = sum("random" in r["order"] for r in numbers["runs"][-row:]) if row else 0
    return (
        f"\nThe whole suite, its files side by side, was green {row} times in a row, {shuffled} of them in a "
        f"random order, when it was last run again and again: {said}, {last['seconds'] / 60:.0f} "
        f"minutes. All {len(numbers['runs'])} runs, the red ones with what was red, are in `results/suite.json`."
    )
