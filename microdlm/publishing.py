"""Put a model on the Hugging Face Hub: weights, configuration with vocabulary, and a card.

Every number on the card is read: from the model's own configuration, or from what microdlm.comparison --out measured.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save

from microdlm.errors import UserError
from microdlm.hub import FILES, NAME, client, find
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import Run, read_json

CARD = "README.md"
FOLDERS = re.compile(r"(^|=)(?:~|[A-Za-z]:)?[/\\].*[/\\](?=[^/\\])")  # of a path from the root or from home


def push(model: LanguageModel | str | Path, to: str, numbers: str | Path | None = None, private: bool = False) -> str:
    """Make `to`, "owner/name", hold `model`, a folder's or one in memory, in one commit; returns the commit's address.

    `numbers`: a file with held-out scores, written by microdlm.comparison --out. The weights go as they are, and the
    configuration without the folders of this machine.
    UserError, in one line: no such model, numbers of another one, a name or a network that will not do.
    """
    if not NAME.fullmatch(to):
        raise UserError(f"{to!r} is no name on the Hugging Face Hub: give owner/name")
    hub, content = client(), files(model, to, None if numbers is None else Path(numbers))
    try:
        hub.HfApi().create_repo(to, exist_ok=True, private=private)
        parts = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in content.items()]
        return hub.HfApi().create_commit(to, parts, commit_message="Put a model of microDLM here").commit_url
    except Exception as e:  # as in hub.fetch
        why = f"{type(e).__name__}: {' '.join(str(e).split()):.80}"
        raise UserError(f"the Hugging Face Hub does not take {to} ({why}): is this you (hf auth login)?") from None


def files(model: LanguageModel | str | Path, to: str, numbers: Path | None = None) -> dict[str, bytes]:
    """What is put there, by file name."""
    if isinstance(model, LanguageModel):
        lm, facts = model, {"kind": model.kind, "tokenizer": model.tokenizer.to_json(), "model": vars(model.model.cfg)}
        config, weights = lm.config | facts, save({n: p.detach().cpu() for n, p in lm.model.named_parameters()})
    else:
        folder = find(model)
        lm = load(folder)
        config, weights = with_summary(folder, lm.config), (folder / FILES[1]).read_bytes()
    scored = None if numbers is None else score_of(lm, config, numbers)
    try:
        if made := config.get("made_by"):
            config = config | {"made_by": made | {"command": without_folders(made["command"])}}
        page = "\n".join(card(lm, config, to, scored))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"what {model} says of its training cannot be put on a card ({e!r:.60})") from None
    data = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return {FILES[0]: data.encode(), FILES[1]: weights, CARD: page.encode()}


def without_folders(command: str) -> str:
    """A command line as strangers may read it: where a file lay on this machine is nobody's business, its name is."""
    words = shlex.split("" + command)  # of what is no text, a TypeError: of None, split would wait for input
    return shlex.join(FOLDERS.sub(r"\1", word) for word in words)


def with_summary(folder: Path, config: dict) -> dict:
    """A run keeps beside its configuration how training went; weights that ship have it inside."""
    if "summary" in config or not (folder / "done.json").exists():
        return config
    curve = [{k: r[k] for k in ("step", "val", "val_stderr")} for r in Run(folder).metrics() if r["val"] is not None]
    return config | {"summary": {"steps": read_json(folder / "done.json")["steps"], "validations": curve}}


def score_of(lm: LanguageModel, config: dict, path: Path) -> dict:
    """What `path` says of this model. UserError: it speaks of another, or is no such file."""
    numbers = read_json(path)
    try:
        mine = numbers["likelihood"][lm.kind]
        found = {"windows": numbers["windows"], "command": without_folders(numbers["made_by"]["command"]), **mine}
        same = (numbers["corpus"]["sha256"], mine["parameters"]) == (corpus(config), lm.model.num_parameters())
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} holds no scores: make it with python -m microdlm.comparison --out") from None
    if not same:
        raise UserError(f"{path} speaks of another model or another text: measure this one")
    return found


def corpus(config: dict) -> str | None:
    return config.get("corpus", {}).get("sha256")


def card(lm: LanguageModel, config: dict, to: str, scored: dict | None) -> Iterator[str]:
    """The lines of the model card."""
    net, made, text = lm.model.cfg, config.get("made_by"), config.get("corpus")
    kind = {"gpt": "A GPT", "diffusion": "A masked diffusion language model"}[lm.kind]
    yield from ("---", "library_name: microdlm", "pipeline_tag: text-generation", f"tags: [microdlm, {lm.kind}]", "---")
    yield from (f"# {to}", "", f"{kind} of {lm.model.num_parameters():,} parameters: {net.n_layer} layers,")
    yield f"{net.n_head} heads, width {net.d_model}, window {net.seq_len}, a vocabulary of {len(lm.tokenizer):,}."
    yield "microDLM reads it:"
    yield from ("", "```python", "import microdlm", "", f'lm = microdlm.load("{to}")', "print(lm.generate(n=1)[0])")
    yield from ("```", "")
    if made:
        yield f"* Made with `{made['command']}` at commit `{made['commit']}`, torch {made['torch']}."
    if text:
        yield f"* Text it learned from: {text['name']}, sha256 `{text['sha256']}`."
    yield from measured(lm.kind, config)
    if scored:
        score = nats(lm.kind, scored["nats_per_char"], scored["stderr"])
        yield f"* Held-out score: {score}, {scored['windows']} windows, first character given; `{scored['command']}`."
    yield "* config.json and model.safetensors are data: loading them executes nothing."
    yield ""


def measured(kind: str, config: dict) -> Iterator[str]:
    """What training itself measured on held-out text."""
    if curve := config.get("summary", {}).get("validations"):
        best, chars = min(curve, key=lambda v: v["val"]), config["corpus"]["chars_per_token"]
        score = nats(kind, best["val"] / chars, best["val_stderr"] / chars)
        yield f"* While it was trained: {score} after {best['step']:,} steps, the best of {len(curve)} validations."
    else:
        yield "* How well it predicts held-out text was not measured while it was trained."


def nats(kind: str, mean: float, stderr: float) -> str:
    bound, what = ("≤ ", "an upper bound") if kind == "diffusion" else ("", "exact")
    return f"{bound}{mean:.3f} ± {stderr:.3f} nats per character ({what})"
