"""Step 2: its transformer is the core's, and what it says of switches, order and areas holds for any weights."""

import pytest
import torch

from microdlm import attention, transformer
from microdlm.errors import UserError
from microdlm.lesson import Config
from microdlm.likelihood import cross_entropy_at
from microdlm.transformer import TransformerConfig

SIZES = dict(vocab_size=7, seq_len=12, n_layer=2, n_head=2, d_model=16)


@pytest.fixture(scope="module")
def lesson(step, small_playlets):
    return small_playlets(step("step2_transformer"))


def pair(lesson, causal: bool):
    """The core's network with no weight zero, and the step's with the same weights under the same names."""
    cfg = TransformerConfig(**SIZES, causal=causal)
    core, mine, rng = transformer.Transformer(cfg), lesson.Transformer(cfg), torch.Generator().manual_seed(3)
    for p in core.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=rng)
    mine.load_state_dict(core.state_dict())
    return core.eval().requires_grad_(False), mine.eval().requires_grad_(False)


# Step = core


def test_the_rotation_is_the_cores(lesson, rng):
    positions, x = torch.arange(9), torch.randn(2, 3, 9, 8, generator=rng)
    angles = lesson.rotation_angles(positions, 8)
    torch.testing.assert_close(angles, attention.rotation_angles(positions, 8, 10_000.0))
    mine, core = (of.rotate(x, angles.cos(), angles.sin()) for of in (lesson, attention))
    torch.testing.assert_close(mine, core)


@pytest.mark.parametrize("causal", [False, True])
def test_the_transformer_is_the_cores(lesson, rng, causal):
    core, mine = pair(lesson, causal)
    x = torch.randint(7, (3, 12), generator=rng)
    torch.testing.assert_close(mine(x), core(x))
    torch.testing.assert_close(mine(x[:, :5]), core(x[:, :5]))


def test_it_starts_with_the_cores_weights(lesson):
    cfg = TransformerConfig(**SIZES)
    mine, core = (of.Transformer(cfg, torch.Generator().manual_seed(5)) for of in (lesson, transformer))
    theirs = dict(core.named_parameters())
    assert [name for name, _ in mine.named_parameters()] == [*theirs]
    assert all(torch.equal(p, theirs[name]) for name, p in mine.named_parameters())


def test_the_loss_is_that_of_diffusion(lesson, script):
    twin = script("diffusion")
    core, mine = pair(lesson, causal=False)
    x_0 = torch.randint(6, (4, 12), generator=torch.Generator().manual_seed(1))
    a, b = (f(net, x_0, torch.Generator().manual_seed(2)) for f, net in ((lesson.loss, mine), (twin.loss, core)))
    torch.testing.assert_close(a, b)


# Properties


def test_a_query_and_a_key_know_their_distance_only(lesson, rng):
    q, k = torch.randn(2, 1, 1, 1, 8, generator=rng).double()

    def product(i, j):
        angles = lesson.rotation_angles(torch.tensor([i, j]), 8).double()
        at = [lesson.rotate(x, a.cos()[None], a.sin()[None]) for x, a in zip((q, k), angles, strict=True)]
        return (at[0] * at[1]).sum()

    torch.testing.assert_close(product(3, 7), product(53, 57), rtol=0, atol=1e-4)
    assert (product(3, 7) - product(3, 8)).abs() > 1e-2


@pytest.mark.parametrize(("causal", "reached"), [(False, [128, 128, 128]), (True, [128, 64, 1])])
def test_causal_is_the_only_switch(lesson, causal, reached):
    _, net = pair(lesson, causal=not causal)  # reach turns the switch itself
    x = torch.randint(6, (1, 128), generator=torch.Generator().manual_seed(0))
    assert lesson.reach(net.double(), x, causal) == reached


def test_a_blank_page_gets_one_answer(lesson):
    for causal in (False, True):
        _, net = pair(lesson, causal)
        logits = net(torch.full((1, 12), 6))
        torch.testing.assert_close(logits, logits[:, :1].expand_as(logits))


def test_without_rotation_attention_sees_a_bag(lesson, rng):
    _, net = pair(lesson, causal=False)
    x, order = torch.randint(7, (1, 12), generator=rng), torch.randperm(12, generator=rng)
    assert (net(x[:, order]) - net(x)[:, order]).abs().max() > 1e-2
    net.turn = 0.0
    torch.testing.assert_close(net(x[:, order]), net(x)[:, order])


def test_bert_is_asked_at_one_ratio_only(lesson):
    seen = []

    class Spy(torch.nn.Module):
        cfg = TransformerConfig(**SIZES)

        def forward(self, x_t):
            seen.extend((x_t == 6).sum(1).tolist())
            return torch.zeros(*x_t.shape, 7)

    x_0, rng = torch.zeros(6, 12, dtype=torch.long), torch.Generator().manual_seed(0)
    for always in (2, None):
        lesson.loss(Spy(), x_0, rng, always)
    assert seen[:6] == [2] * 6
    assert seen[6:] == sorted(seen[6:]) and (seen[6], seen[-1]) == pytest.approx((1.5, 11.5), abs=0.5)


def test_the_area_under_the_exact_curve_is_minus_log_p(lesson, chain):
    """The number that the step predicts for playlets, on a chain where it takes a second."""
    x_0 = chain.sample(200, 10, torch.Generator().manual_seed(4))
    curve = lesson.curve(chain, x_0, chain.mask_id, range(1, 11), seed=0)
    areas = torch.stack([c.per_sequence for c in curve.values()]).mean(0)
    assert abs(lesson.sigmas(areas - chain.nll(x_0))) < 4
    assert abs(lesson.sigmas(areas - chain.nll(x_0) - 0.05)) > 4  # and it can tell


def test_every_denoiser_gets_the_same_questions(lesson, chain):
    x_0 = chain.sample(5, 10, torch.Generator().manual_seed(4))
    alone = lesson.curve(chain, x_0, chain.mask_id, [4], seed=7)[4]
    among = lesson.curve(chain, x_0, chain.mask_id, [1, 3, 4, 9], seed=7)[4]
    assert torch.equal(alone.per_sequence, among.per_sequence)
    rng = torch.Generator().manual_seed(7004)
    assert torch.equal(alone.per_sequence, cross_entropy_at(chain, x_0, 4, 4, 2, rng, 0).per_sequence)


# The run


EDIT, ORDER = "an edit moves all answers, if not causal", "mirrored, a text gets other answers"


def test_it_runs(lesson, smoke):
    holds = smoke(lesson).claims
    assert holds.pop("all hidden: context buys nothing") is None  # that takes training
    assert holds.pop("half as many hidden: a lower curve") is None
    assert all(holds.values()) and "nowhere below the exact denoiser" in holds


def test_it_runs_on_a_text_without_an_oracle(lesson, smoke, cats):
    holds = smoke(lesson, data=cats).claims
    assert holds[EDIT] and holds[ORDER] and "nowhere below the exact denoiser" not in holds


@pytest.mark.parametrize(("name", "what"), [("causal", EDIT), ("no_positions", ORDER)])
def test_a_break_breaks_what_it_should(lesson, smoke, name, what):
    assert smoke(lesson, broken=name).failed == [what]


def test_too_short_a_text_is_one_clear_line(lesson, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("The cat sat on the mat.\n" * 20)
    with pytest.raises(UserError, match="use more text"):
        lesson.main(Config(smoke=True, out=tmp_path, data=str(path)))
