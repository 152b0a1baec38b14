"""The cards of the weights of Tiny Shakespeare, from their configurations and the numbers of the twins. Written by
`python results/tables.py`."""

LABEL = {"gpt": "GPT", "diffusion": "diffusion"}
THE_FIRST = {"5f10a5fdaa2c2565a948516394bad8df5305bc61"}  # commits at which results/budgets.py did not spread them


def number(e: dict, kind: str) -> str:
    return f"{'≤ ' if kind == 'diffusion' else ''}{e['nats_per_char']:.3f} ± {e['stderr']:.3f}"


def looked_at(made: dict) -> str:
    """The windows of the validations."""
    return (
        "the first 64 held-out windows" if made["commit"] in THE_FIRST else "64 windows spread over the held-out text"
    )


def origin(name: str, config: dict) -> tuple[list[str], list[str]]:
    """What the card of any weights begins and ends with, from their own configuration."""
    summary, made, net, how = config["summary"], config["made_by"], config["model"], config["training"]
    curve = ", ".join(f"{v['val']:.3f} ({v['step']:,})" for v in summary["validations"])
    first = [
        f"# {name}",
        "",
        f"A character-level {LABEL[config['kind']]} language model, trained on Tiny Shakespeare for the lessons of "
        f"this repository: {net['n_layer']} layers, {net['n_head']} heads, width {net['d_model']}, "
        f"window {net['seq_len']}, {summary['parameters']:,} parameters, stored in bfloat16.",
        "",
        f"* Made with `{made['command']}` at commit `{made['commit']}`, torch {made['torch']}, "
        f"{made['threads']} CPU threads, seed {how['seed']}.",
        f"* Data: Tiny Shakespeare, sha256 `{config['corpus']['sha256']}`; the last tenth held out.",
        f"* Training: {summary['steps']:,} steps of {how['batch_size']} windows; the weights are those of the best of "
        f"{how['evals']} validations, on {looked_at(made)}.",
    ]
    last = [
        f"* Validations, nats per character after so many steps: {curve}.",
        "* Licence: MIT, as the code. The text it learned from is in the public domain.",
        "* It writes what looks like Shakespeare and means nothing. It is for learning, not for use.",
        "",
    ]
    return first, last


def card(kind: str, config: dict, numbers: dict) -> str:
    """The card of one of the twins."""
    first, last = origin(f"shakespeare-{kind}", config)
    exactness = "an upper bound" if kind == "diffusion" else "exact"
    score = (
        f"* Held-out score: {number(numbers['likelihood'][kind], kind)} nats per character ({exactness}), "
        f"{numbers['windows']} windows, those 64 among them, first character given."
    )
    lines = [*first, score, *last]
    for w in (w for w in numbers["writing"] if w["kind"] == kind):
        how = f"the first text of seed {numbers['seed']}, {w['way']}, temperature 1, {w['passes']} passes"
        lines += [f"## Sample, not chosen: {how}", "", "```", w["sample"].strip("\n"), "```", ""]
    return "\n".join(lines)


def judge(config: dict) -> str:
    """The card of the model that reads what the others wrote (results/sampling_frontier.py)."""
    first, last = origin("shakespeare-judge", config)
    use = "* It judges texts that others wrote: a second opinion from another seed and another training, no twin."
    return "\n".join([*first, use, *last])
