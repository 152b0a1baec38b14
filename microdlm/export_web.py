"""Turn the twins into what the page runs: ONNX files in eight bits, checked against PyTorch on held-out text.

python -m microdlm.export_web        writes web/models/; exit code 1 if the two differ too much
"""

import gzip
import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from rich import box
from rich.table import Table
from torch import Tensor

from microdlm import cli
from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.exporting import VERSIONS, Session, export
from microdlm.likelihood import Estimate, estimate_nelbo, left_to_right_nll, masks_by_count
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import ROOT, atomic, provenance, write_json
from microdlm.terminal import console
from microdlm.tokenizers import CharTokenizer

AGREES, APART = 0.985, 0.005  # the least share of equal first guesses; the most nats per character between the scores


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...] = ("shakespeare-diffusion", "shakespeare-gpt")  # what the page runs
    data: str = ""  # held-out text for the checks; default: what the models were trained on
    windows: int = 32  # how many held-out windows
    samples: int = 8  # masks a window, the same for both versions
    seed: int = 0  # of the masks
    folder: Path = ROOT / "web" / "models"  # where the page looks for them
    out: Path | None = None  # write the numbers here too, as JSON


@torch.no_grad()
def compare(lm: LanguageModel, session: Session, x_0: Int[Tensor, "B L"], cfg: Config) -> dict:
    """The same held-out text under both: how often their first guess is the same, and how far apart they score it."""
    x, where = x_0, torch.ones_like(x_0, dtype=torch.bool)
    if lm.kind == "diffusion":
        x, where, _ = masks_by_count(x_0, lm.mask_id, 1, torch.Generator().manual_seed(cfg.seed), given=1)
    first, second = (torch.cat([f(row)[..., : lm.mask_id] for row in x.split(8)])[where] for f in (lm.model, session))
    ours, theirs = (score(lm, version, x_0, cfg) for version in (lm.model, session))
    apart = Estimate.of(theirs.per_sequence - ours.per_sequence)
    return {
        "argmax_agrees": (first.argmax(-1) == second.argmax(-1)).double().mean().item(),
        "guesses": int(where.sum()),
        "largest_logit_error": (second - first).abs().max().item(),
        "nats_per_char": theirs.mean,
        "stderr": theirs.stderr,
        "pytorch": {"nats_per_char": ours.mean, "stderr": ours.stderr},
        "difference": {"nats": apart.mean, "stderr": apart.stderr},
    }


def score(lm: LanguageModel, version, x_0: Int[Tensor, "B L"], cfg: Config) -> Estimate:
    if lm.kind == "gpt":
        return Estimate.of(left_to_right_nll(version, x_0))
    rng = torch.Generator().manual_seed(cfg.seed)
    return estimate_nelbo(version, x_0, lm.mask_id, cfg.samples, rng, given=1)


def publish(lm: LanguageModel, small: Path, name: str, folder: Path) -> dict:
    """Compress `small` into `folder` under a name that changes when it does; what the page must know of it."""
    if not isinstance(lm.tokenizer, CharTokenizer):
        raise UserError(f"{name} reads tokens that are not characters: the page shows characters only")
    raw = small.read_bytes()
    packed = gzip.compress(raw, compresslevel=9, mtime=0)
    file = f"{name}-{hashlib.sha256(raw).hexdigest()[:12]}.onnx.gz"
    with atomic(folder / file) as beside:
        beside.write_bytes(packed)
    cfg = lm.model.cfg
    shape = {"layers": cfg.n_layer, "heads": cfg.n_head, "head_size": cfg.d_model // cfg.n_head}
    known = {"alphabet": lm.tokenizer.alphabet, "window": cfg.seq_len, "parameters": lm.model.num_parameters()}
    return {"name": name, "file": file, "bytes": len(packed), "unpacked": len(raw), **known, **shape}


def passes(found: dict) -> bool:
    return found["argmax_agrees"] >= AGREES and abs(found["difference"]["nats"]) <= APART


def build(name: str, cfg: Config) -> tuple[str, dict, dict]:
    """One model: its kind, what the page must know, what the checks found of each version that was tried."""
    lm = load(name)
    corpus = load_corpus(cfg.data or lm.config["corpus"]["name"], lm.tokenizer)
    x_0, tried = corpus.windows(lm.model.cfg.seq_len, cfg.windows), {}
    with tempfile.TemporaryDirectory() as made:
        full, small = Path(made) / "full.onnx", Path(made) / "small.onnx"
        export(lm, full)
        for version, shrink in VERSIONS.items():
            shrink(full, small)
            tried[version] = compare(lm, Session(small, lm.model), x_0, cfg)
            if passes(tried[version]):
                break
        page = publish(lm, small, Path(name).name, cfg.folder) | {"version": version}
    return (
        lm.kind,
        page,
        {k: page[k] for k in ("name", "parameters", "version", "bytes", "unpacked")} | {"tried": tried},
    )


def table(models: dict[str, dict]) -> Table:
    t = Table("", "version", "MB to fetch", "first guess equal", "nats/char", "apart", box=box.SIMPLE_HEAD)
    for m in models.values():
        for version, found in m["tried"].items():
            score = f"{found['nats_per_char']:.4f} ± {found['stderr']:.4f}"
            apart = f"{found['difference']['nats']:+.4f} ± {found['difference']['stderr']:.4f}"
            size = f"{m['bytes'] / 1e6:.2f}" if version == m["version"] else ""
            t.add_row(m["name"], version, size, f"{found['argmax_agrees']:.2%}", score, apart)
    return t


def main(cfg: Config) -> None:
    cfg.folder.mkdir(parents=True, exist_ok=True)
    for old in cfg.folder.glob("*.onnx.gz"):
        old.unlink()
    with console.status("exporting and checking, a minute a model"):
        built = [build(name, cfg) for name in cfg.models]
    write_json(cfg.folder / "models.json", {kind: page for kind, page, _ in built})
    models = {kind: found for kind, _, found in built}
    if cfg.out is not None:
        write_json(cfg.out, {"models": models, "windows": cfg.windows, "seed": cfg.seed, "made_by": provenance()})
    console.print(table(models))
    if not all(passes(m["tried"][m["version"]]) for m in models.values()):
        console.print(f"too far apart: the page wants {AGREES:.1%} equal guesses and {APART} nats per character")
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
