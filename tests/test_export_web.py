"""What a browser will run is what PyTorch computes; and where it is not, the export says so."""

import functools
import gzip
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from microdlm.errors import UserError
from microdlm.likelihood import estimate_nelbo
from microdlm.pretrained import LanguageModel
from microdlm.runs import write_json, write_tensors
from microdlm.samplers import left_to_right
from microdlm.tokenizers import BPETokenizer, CharTokenizer
from microdlm.transformer import Transformer, TransformerConfig

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="the export needs the extra `web`: pip install -e '.[web]'")

from microdlm import export_web, exporting  # noqa: E402

LETTERS = CharTokenizer("\n abcdef")
TEXT = "a bad cab\nfed a deaf cad\nbe a bee\n" * 40


def tiny(kind: str, seed: int = 7) -> LanguageModel:
    """Far from uniform, without training."""
    sizes = dict(seq_len=24, n_layer=2, n_head=2, d_model=32, causal=kind == "gpt")
    model, rng = Transformer(TransformerConfig(len(LETTERS) + (kind == "diffusion"), **sizes)), torch.Generator()
    rng.manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=rng)
    return LanguageModel(model.eval(), LETTERS)


def save(lm: LanguageModel, folder: Path) -> str:
    folder.mkdir()
    write_json(folder / "config.json", {"model": asdict(lm.model.cfg), "tokenizer": lm.tokenizer.to_json()})
    write_tensors(folder / "model.safetensors", dict(lm.model.named_parameters()))
    return str(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """exported(kind) -> a model and its float32 export, which is made once."""

    @functools.cache
    def make(kind: str):
        lm, path = tiny(kind), tmp_path_factory.mktemp(kind) / "full.onnx"
        exporting.export(lm, path)
        return lm, exporting.Session(path, lm.model)

    return make


def random_ids(B: int, L: int) -> torch.Tensor:
    return torch.randint(len(LETTERS), (B, L), generator=torch.Generator().manual_seed(L))


@pytest.mark.parametrize("B, L", [(1, 1), (1, 24), (3, 7)])
@pytest.mark.parametrize("kind", ["diffusion", "gpt"])
@torch.no_grad()
def test_any_batch_and_any_length_gives_the_same_logits(exported, kind, B, L):
    lm, session = exported(kind)
    x = random_ids(B, L)
    assert torch.allclose(session(x), lm.model(x), atol=1e-4)


@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 1, 1, 17], [23, 1]])
@torch.no_grad()
def test_a_gpt_that_reads_piece_by_piece_reads_the_same(exported, pieces):
    lm, session = exported("gpt")
    x, past, rows = random_ids(2, 24), exporting.no_past(lm.model, 2).numpy(), []
    for piece in x.split(pieces, dim=1):
        logits, past = session.run(["logits", "present"], {"x": piece.numpy().astype(np.int32), "past": past})
        rows.append(torch.from_numpy(logits))
    assert torch.allclose(torch.cat(rows, 1), lm.model(x), atol=1e-4)
    assert past.shape == (2, 2, 2, 2, 24, 16)


def test_a_session_is_a_denoiser(exported):
    """Samplers and likelihoods take it as they take a network, and get the same."""
    lm, session = exported("diffusion")
    blank = torch.full((1, 24), lm.mask_id)
    written = [[*left_to_right(f, blank, lm.mask_id, temperature=0)][-1] for f in (lm.model, session)]
    assert torch.equal(*written)
    g = [torch.Generator().manual_seed(0) for _ in range(2)]
    bounds = [
        estimate_nelbo(f, random_ids(4, 24), lm.mask_id, 4, r) for f, r in zip((lm.model, session), g, strict=True)
    ]
    assert bounds[0].mean == pytest.approx(bounds[1].mean, abs=1e-5)


@pytest.fixture
def options(tmp_path) -> dict:
    (tmp_path / "text.txt").write_text(TEXT)
    return {
        "data": str(tmp_path / "text.txt"),
        "folder": tmp_path / "models",
        "windows": 3,
        "out": tmp_path / "out.json",
    }


def test_what_the_page_gets_and_what_is_kept(tmp_path, options, monkeypatch):
    monkeypatch.setattr(export_web, "AGREES", 0.0)  # networks without training disagree: that is the next test's
    monkeypatch.setattr(export_web, "APART", 9.0)
    names = tuple(save(tiny(kind), tmp_path / kind) for kind in ("diffusion", "gpt"))
    export_web.main(export_web.Config(names, **options))
    page, kept = (json.loads(p.read_text()) for p in (options["folder"] / "models.json", options["out"]))
    assert set(page) == set(kept["models"]) == {"diffusion", "gpt"}
    for kind, about in page.items():
        packed = (options["folder"] / about["file"]).read_bytes()
        assert len(packed) == about["bytes"] and len(gzip.decompress(packed)) == about["unpacked"]
        assert (about["alphabet"], about["window"]) == (LETTERS.alphabet, 24)
        found = kept["models"][kind]["tried"][about["version"]]
        gap = found["nats_per_char"] - found["pytorch"]["nats_per_char"]
        assert found["difference"]["nats"] == pytest.approx(gap) and 0.5 < found["argmax_agrees"] <= 1
    assert kept["seed"] == 0 and "commit" in kept["made_by"]


def test_an_export_of_other_weights_is_found_and_ends_with_exit_code_1(tmp_path, options, monkeypatch):
    real = export_web.export
    monkeypatch.setattr(export_web, "export", lambda lm, path: real(tiny("diffusion", seed=8), path))
    name = save(tiny("diffusion"), tmp_path / "a model")
    with pytest.raises(SystemExit) as stopped:
        export_web.main(export_web.Config((name,), **options))
    assert stopped.value.code == 1
    tried = json.loads(options["out"].read_text())["models"]["diffusion"]["tried"]
    assert list(tried) == list(exporting.VERSIONS) and all(found["argmax_agrees"] < 0.8 for found in tried.values())


def test_the_name_of_a_file_follows_its_content(tmp_path):
    lm = tiny("diffusion")
    files = []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "small").write_bytes(content)
        files.append(export_web.publish(lm, tmp_path / "small", "a", tmp_path)["file"])
    assert files[0] == files[2] != files[1]


def test_tokens_that_are_no_characters_are_refused(tmp_path):
    (tmp_path / "small").write_bytes(b"x")
    lm = LanguageModel(tiny("diffusion").model, BPETokenizer.train("a b c " * 9, 260))
    with pytest.raises(UserError, match="characters only"):
        export_web.publish(lm, tmp_path / "small", "a", tmp_path)
