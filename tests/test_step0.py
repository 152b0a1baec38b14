"""Step 0: its schedules and its masks are the core's, its predictions are right on paper, each bug shows."""

import math

import pytest
import torch

from microdlm.masking import mask_tokens
from microdlm.schedules import SCHEDULES

NAME = "step0_masking"
# The mean of u(t) on paper: integrals of 1 - t, 1 - cos, 1 - sigmoid, ...
ON_PAPER = {
    "linear": 1 / 2,
    "cosine": 1 - 2 / math.pi,
    "loglinear": 0.999 / 2,
    "sqrt": 2 / 3,
    "clipped_cosine": 0.95 - 0.9 * 2 / math.pi,
    "sigmoid": 1 / 2,
    "maskgit_cosine": 2 / math.pi,
}


@pytest.fixture(scope="module")
def step0(step):
    return step(NAME)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Step and core


def test_the_schedules_are_the_core_s(step0):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert list(step0.ALPHA) == list(SCHEDULES)
    for name, alpha in step0.ALPHA.items():
        torch.testing.assert_close(alpha(t), SCHEDULES[name].alpha(t), rtol=0, atol=1e-12)


def test_mask_tokens_is_the_core_s(step0):
    x_0, alpha_t = torch.randint(0, 9, (50, 30), generator=seeded(1)), torch.rand(50, generator=seeded(2))
    for ours, core in zip(
        step0.mask_tokens(x_0, alpha_t, 9, seeded()), mask_tokens(x_0, alpha_t, 9, seeded()), strict=True
    ):
        assert torch.equal(ours, core) and ours.float().std() > 0


# Predictions


@pytest.mark.parametrize("name", ON_PAPER)
def test_predicted_shares_are_the_integrals(step0, name):
    assert step0.predicted_ratio(step0.ALPHA[name]) == pytest.approx(ON_PAPER[name], abs=1e-6)


def test_the_header_quotes_the_predictions(step0):
    shares = [f"{step0.predicted_ratio(alpha):.4f}"[1:] for alpha in step0.ALPHA.values()]
    quoted = [".500", ".363", ".4995", ".667", ".377", ".500", ".637"]
    assert [round(float(share), len(q) - 1) for share, q in zip(shares, quoted, strict=True)] == [*map(float, quoted)]
    assert " ".join(quoted[:5]) in step0.__doc__ and ".500 and .637" in step0.__doc__
    u = 1 - math.cos(math.pi / 4)
    assert f"{256 * u:.1f} ± {math.sqrt(256 * u * (1 - u)):.1f}" in step0.__doc__


@pytest.mark.parametrize("name", ON_PAPER)
def test_with_one_seed_masks_are_nested(step0, name):
    x_0 = torch.zeros(1, 500, dtype=torch.long)
    _, is_masked = step0.dissolve(step0.mask_tokens, step0.ALPHA[name], x_0, 1, [3] * len(step0.TIMES))
    assert (is_masked[1:] >= is_masked[:-1]).all() and is_masked.any() and not is_masked.all()


def test_with_new_seeds_as_many_come_back_as_independent_draws_say(step0):
    """A token hidden at one time and visible at the next: probability u_i alpha_{i+1}, ten times over."""
    L, alpha = 100_000, step0.ALPHA["cosine"](step0.TIMES.double())
    x_0 = torch.zeros(1, L, dtype=torch.long)
    _, is_masked = step0.dissolve(step0.mask_tokens, step0.ALPHA["cosine"], x_0, 1, [*range(11)])
    came_back = (is_masked[:-1] & ~is_masked[1:]).sum().item()
    expected = L * ((1 - alpha[:-1]) * alpha[1:]).sum().item()
    assert came_back == pytest.approx(expected, abs=5 * math.sqrt(expected))


# The whole step


def test_it_runs_and_its_claims_hold(step0, smoke):
    run = smoke(step0)
    found = run.numbers
    assert (found["came_back"], found["unclear"]) == (0, 0)
    assert {name: found[f"ratio_{name}"] for name in ON_PAPER} == pytest.approx(ON_PAPER, abs=0.08)
    assert run.path.stem == f"{NAME}-playlets-0-smoke"


def test_it_runs_on_any_text(step0, smoke, tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("Señor $ [b] \\ ↵ says: hello.\n" * 200, encoding="utf-8")
    assert smoke(step0, data=str(text)).numbers["count"] == pytest.approx(75, abs=4 * 7.3 / math.sqrt(500))


BROKEN = {
    "reseed": lambda n: n["came_back"] > 100,
    "one_number": lambda n: n["spread"] > 100 and abs(n["count"] - 75) < 25,
    "other_cosine": lambda n: n["ratio_cosine"] > 0.55 and n["count"] > 170,
    "mask_is_a_letter": lambda n: n["unclear"] > 100 and n["came_back"] == 0,
}


@pytest.mark.parametrize("bug", BROKEN)
def test_every_bug_shows(step0, smoke, cats, bug):
    assert set(BROKEN) == set(step0.BREAKS)
    assert BROKEN[bug](smoke(step0, data=cats, broken=bug).numbers)
