"""The ablations: every variant is another training than the base, and the whole command runs and goes on."""

import json

import pytest
import torch

from microdlm.likelihood import exact_curve
from microdlm.transformer import TransformerConfig


@pytest.fixture(scope="module")
def ablations(command):
    return command("ablations")


def test_its_loss_is_the_bound(ablations, chain):
    """Against the exact curve, by the exact denoiser."""
    chain.cfg = TransformerConfig(chain.mask_id + 1, 5)
    rng, bound = torch.Generator().manual_seed(3), exact_curve(chain, 5).mean().item()
    values = torch.stack([ablations.in_counts(chain, chain.sample(64, 5, rng), rng) for _ in range(150)])
    assert values.mean().item() == pytest.approx(bound, abs=4 * values.std().item() / 150**0.5)


def test_every_variant_changes_something_and_goes_on_where_it_was(ablations, tmp_path):
    out = tmp_path / "ablations.json"
    ablations.main(ablations.Config(smoke=True, out=out))
    numbers = json.loads(out.read_text())
    runs, base = numbers["runs"], TransformerConfig(10, 64)
    assert {r["variant"] for r in runs} == set(ablations.VARIANTS) and numbers["not_run"] == []
    for seed in (0, 1):  # an option that is not passed on would give the base's number again, bit for bit
        values = [r["nelbo"] for r in runs if r["seed"] == seed]
        assert len(set(values)) == len(values) and all(0 < v < 5 for v in values)
    for r in runs:
        changed = {**r["network"], **r["training"]}
        assert all(changed[key] == value for key, value in ablations.VARIANTS[r["variant"]].items())
        assert r["network"]["time"] == base.time or r["variant"].startswith("t ")
    kept = [r for r in runs if (r["variant"], r["seed"]) != ("EMA 0.99", 1)]
    out.write_text(json.dumps(numbers | {"runs": kept}))
    ablations.main(ablations.Config(smoke=True, out=out))
    again = json.loads(out.read_text())["runs"]
    assert again[:-1] == kept and [again[-1]["nelbo"]] == [r["nelbo"] for r in runs if r not in kept]
