"""alpha(t), its weight and its inverse are three views of one curve; each is computed from another one here."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import beta

from microdlm.schedules import SCHEDULES, complete

NAMES = ["linear", "cosine", "loglinear", "sqrt", "clipped_cosine", "sigmoid", "maskgit_cosine"]
JOINTS = (1 / 8, 7 / 8)  # of complete(): an eighth of the time for each missing end
SMALL, GRID = torch.logspace(-6, 0, 1000), torch.linspace(1e-3, 1, 5000, dtype=torch.float64)

every_schedule = pytest.mark.parametrize("s", [SCHEDULES[name] for name in NAMES], ids=NAMES)


def weight_by_autograd(s, t):
    t = t.clone().requires_grad_()
    alpha = s.alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    return (-slope / (1 - alpha)).detach()


def test_the_contract_names_seven_schedules():
    assert sorted(SCHEDULES) == sorted(NAMES)
    assert all(SCHEDULES[name].name == name for name in NAMES)


@every_schedule
def test_weight_is_minus_alpha_slope_over_masked_share(s):
    torch.testing.assert_close(s.weight(GRID), weight_by_autograd(s, GRID), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name, power", [("linear", 1), ("cosine", 2), ("loglinear", 1), ("sqrt", 0.5)])
def test_where_u_starts_as_a_power_of_t_the_weight_starts_as_power_over_t(name, power):
    """Below t = 1e-3 autograd loses its digits (1 - alpha cancels); the limit of u'/u for u ~ t^p does not."""
    t = torch.logspace(-9, -4, 50, dtype=torch.float64)
    torch.testing.assert_close(SCHEDULES[name].weight(t) * t, torch.full_like(t, power), rtol=1e-7, atol=0)


@every_schedule
def test_float32_loses_nothing_down_to_one_in_a_million(s):
    """Finite and right: float32 weights agree with float64 ones from t = 1e-6 to 1, both included."""
    weight = s.weight(SMALL)
    assert weight.dtype == torch.float32 and (weight >= 0).all()
    torch.testing.assert_close(weight.double(), s.weight(SMALL.double()), rtol=1e-5, atol=1e-6)


@every_schedule
def test_alpha_falls_and_stays_a_probability(s):
    alpha = s.alpha(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    assert (alpha.diff() < 0).all() and alpha.min() > -1e-12 and alpha.max() < 1 + 1e-12


@every_schedule
def test_time_inverts_alpha(s):
    """t -> u -> t loses half the digits where u is flat; u -> t -> u may lose none."""
    t = torch.linspace(0, 1, 5001, dtype=torch.float64)
    u = 1 - s.alpha(t)
    torch.testing.assert_close(s.time(u), t, rtol=0, atol=1e-7)
    torch.testing.assert_close(1 - s.alpha(s.time(u)), u, rtol=0, atol=1e-14)


@every_schedule
def test_a_share_out_of_reach_gives_the_nearer_end(s):
    low, high = s.ends
    assert s.time(torch.tensor([0.0, low / 2])).tolist() == pytest.approx([0, s.time(torch.tensor(low / 2)).item()])
    assert s.time(torch.tensor([0.0])).item() == 0
    assert s.time(torch.tensor([1.0])).item() == pytest.approx(1, abs=2e-3)  # loglinear gets to .999 at t = 1


ENDS = {"loglinear": (0, 0.999), "clipped_cosine": (0.05, 0.95), "sigmoid": (0.0066929, 0.9933071)}


@every_schedule
def test_where_the_schedule_starts_and_stops(s):
    assert s.ends == pytest.approx(ENDS.get(s.name, (0, 1)), abs=1e-7)


MEANS = {
    "linear": 0.5,
    "cosine": 1 - 2 / math.pi,  # .363
    "loglinear": 0.4995,
    "sqrt": 2 / 3,
    "clipped_cosine": 0.95 - 0.9 * 2 / math.pi,  # .377
    "sigmoid": 0.5,
    "maskgit_cosine": 2 / math.pi,  # .637
}


@every_schedule
def test_mean_mask_ratio(s):
    u = 1 - s.alpha(torch.linspace(0, 1, 100_001, dtype=torch.float64))
    assert torch.trapezoid(u, dx=1e-5).item() == pytest.approx(MEANS[s.name], abs=1e-6)


# ---- complete: the missing ends ----


@every_schedule
def test_complete_walks_from_clean_to_all_mask_without_a_jump(s):
    whole = complete(s)
    assert whole.ends == pytest.approx((0, 1), abs=1e-12)
    alpha = whole.alpha(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    assert (alpha.diff() < 0).all()
    for joint in JOINTS:
        before, after = whole.alpha(torch.tensor([joint - 1e-10, joint + 1e-10], dtype=torch.float64))
        assert abs(before - after) < 1e-8


@every_schedule
def test_complete_has_the_weight_of_its_own_alpha(s):
    whole = complete(s)
    t = GRID[((GRID[:, None] - torch.tensor(JOINTS)).abs() > 1e-3).all(1)]  # a joint has two slopes
    torch.testing.assert_close(whole.weight(t), weight_by_autograd(whole, t), rtol=1e-8, atol=1e-12)


@every_schedule
def test_complete_can_be_inverted(s):
    """A whole schedule is a schedule: it has a time."""
    whole, t = complete(s), torch.linspace(0, 1, 5001, dtype=torch.float64)
    torch.testing.assert_close(whole.time(1 - whole.alpha(t)), t, rtol=0, atol=1e-7)


@every_schedule
def test_a_schedule_that_lacks_nothing_is_left_alone(s):
    assert (complete(s) is s) == (s.name not in ENDS)


@every_schedule
@pytest.mark.parametrize("k", [1, 2, 5])
def test_every_whole_schedule_gives_a_mask_of_k_tokens_the_same_total_weight(s, k, L=5):
    """integral of w u^k (1-u)^(L-k) dt = Beta(k, L-k+1): the schedule cancels, which is why the NELBO has none."""
    whole = complete(s)

    def integrand(t):
        t = torch.tensor(t, dtype=torch.float64)
        u = 1 - whole.alpha(t)
        return (whole.weight(t) * u**k * (1 - u) ** (L - k)).item()

    parts = [quad(integrand, a, b, epsabs=1e-9)[0] for a, b in zip((0, *JOINTS), (*JOINTS, 1), strict=True)]
    assert sum(parts) == pytest.approx(beta(k, L - k + 1), rel=1e-7)
