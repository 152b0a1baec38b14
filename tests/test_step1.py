"""Step 1: its loss and its loop are the core's, what it calls a floor is one, each bug shows."""

import math
from collections import Counter

import pytest
import torch

from microdlm import objectives, training
from microdlm.masking import mask_tokens
from microdlm.state import State, TrainConfig
from microdlm.transformer import Transformer

NAME, V, MASK = "step1_denoise_mlp", 5, 4


@pytest.fixture(scope="module")
def step1(step):
    return step(NAME)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(B: int, L: int, seed: int = 7) -> torch.Tensor:
    """Characters 0..3, the low ones more often."""
    return (torch.rand(B, L, generator=seeded(seed)) ** 2 * MASK).long()


def random_mlp(module, seed: int, kind: str = "MLP", std: float = 0.5):
    model = getattr(module, kind)(V)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std, generator=seeded(seed))
    return model


# Step and core


def test_the_loss_is_the_core_s(step1, network):
    x_0 = text(20, 16)
    x_t, is_masked = mask_tokens(x_0, torch.rand(20, generator=seeded(1)), MASK, seeded(2))
    net = network(vocab_size=V)
    ours, core = (m.masked_nll(net, x_0, x_t, is_masked, MASK) for m in (step1, objectives))
    torch.testing.assert_close(ours, core)
    assert (ours > 0).equal(is_masked)
    logits = torch.randn(3, V, generator=seeded(3))
    assert step1.without_mask(logits, MASK).equal(objectives.without_mask(logits, MASK))


def test_the_loop_is_the_core_s(step1, network, monkeypatch):
    """The same network, batches and masks, trained by both loops: the same losses, and the same weights at the end."""
    monkeypatch.setattr(step1, "B", 4), monkeypatch.setattr(step1, "L", 16)
    monkeypatch.setattr(training, "learning_rate", lambda step, cfg: cfg.lr * (1 - step / cfg.steps))
    how = TrainConfig(steps=12, batch_size=4, lr=step1.LR, weight_decay=0.0, grad_clip=1e9, precision="float32")

    def batch(B, L, rng):
        return torch.randint(0, MASK, (B, L), generator=rng)

    def loss(model, x_0, rng):
        x_t, is_masked = mask_tokens(x_0, 1 - torch.rand(len(x_0), generator=rng), MASK, rng)
        return objectives.masked_nll(model, x_0, x_t, is_masked, MASK).sum() / is_masked.sum()

    theirs, ours = (Transformer(network(vocab_size=V).cfg, seeded(4)) for _ in range(2))
    state = State(theirs, how)
    core = [training.update(state, how, loss, batch(4, 16, state.rng))[0] for _ in range(how.steps)]

    def loss_here(model, x_0, rng):
        return step1.masked_cross_entropy(model, x_0, MASK, rng)

    here = [*step1.train(ours, loss_here, batch, how.steps, seeded(how.seed), "cpu")]
    assert here == pytest.approx(core, rel=1e-4) and len({*here}) == how.steps
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


# The MLP knows one token, and what follows from that


def test_the_mlp_is_blind(step1):
    """An edit changes the logits where it is and nowhere else; equal tokens get equal logits; untrained, all zero."""
    model, x = random_mlp(step1, 0), text(1, 12)
    edited = x.clone()
    edited[0, 5] = (x[0, 5] + 1) % MASK
    changed = (model(x) != model(edited)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [5]
    blanks = model(torch.full((1, 12), MASK))[0]
    assert (blanks == blanks[0]).all()
    assert not step1.MLP(V)(x).any()


@pytest.mark.parametrize("seed", range(5))
def test_no_mlp_beats_the_frequencies_of_the_very_text(step1, seed):
    """Gibbs: one answer for all blanks costs at least the entropy of what is hidden, whatever the weights are."""
    x_0 = text(30, 40)
    share = torch.bincount(x_0.flatten()).double() / x_0.numel()
    entropy = -(share * share.log()).sum().item()
    nll = step1.held_out_nll(random_mlp(step1, seed), x_0, MASK, seeded(seed)).mean
    assert nll >= entropy
    oracle = lambda x_t: torch.cat([share.log(), torch.zeros(1)]).expand(*x_t.shape, V)  # noqa: E731
    assert step1.held_out_nll(oracle, x_0, MASK, seeded(seed)).mean == pytest.approx(entropy)


def test_context_is_what_beats_them(step1):
    """ABAB...: a neighbour tells all. The MLP stays at ln 2, the one that peeks goes below."""

    def batch(B, L, rng):
        return (torch.arange(L) + torch.randint(2, (B, 1), generator=rng)) % 2

    def loss(model, x_0, rng):
        return step1.masked_cross_entropy(model, x_0, 2, rng)

    last = {}
    for kind in (step1.MLP, step1.Neighbours):
        torch.manual_seed(0)
        last[kind] = [*step1.train(kind(3), loss, batch, 60, seeded(), "cpu")][-1]
    assert last[step1.MLP] == pytest.approx(math.log(2), abs=0.01)
    assert last[step1.Neighbours] < 0.5


def test_every_held_out_character_is_hidden_once(step1):
    """A denoiser that is infinitely surer of what it sees than of blanks: only blanks cost, and each costs ln 4."""
    seen = []

    def denoiser(x_t):
        seen.append(x_t == MASK)
        return torch.zeros(*x_t.shape, V)

    est = step1.held_out_nll(denoiser, text(9, 20), MASK, seeded())
    assert (sum(m.long() for m in seen) == 1).all() and 0.3 < seen[0].double().mean() < 0.7
    assert est.mean == pytest.approx(math.log(4)) and est.stderr == pytest.approx(0, abs=1e-7)


def test_the_counts(step1):
    train, held_out = text(1, 3000)[0], text(10, 30, seed=8)
    n = Counter(train.tolist())
    p = [(n[i] + 1) / 3004 for i in range(4)]
    counts = step1.count(train, held_out, V)
    assert counts.frequency.tolist() == pytest.approx([*p, 0.0])
    assert counts.start == math.log(4)
    assert counts.entropy == pytest.approx(-sum(q * math.log(q) for q in p))
    assert counts.floor == pytest.approx(-sum(math.log(p[i]) for i in held_out.flatten().tolist()) / 300)


# The bugs


@pytest.mark.parametrize(
    ("bug", "low", "high"), [(None, 1.38, 1.39), ("score_visible", 0.6, 0.8), ("forget_mask", 0, 1e-3)]
)
def test_what_is_scored(step1, bug, low, high):
    """A perfect copier that knows nothing of blanks: ln 4 a blank; half of it if copying counts; 0 if it may copy."""

    def copier(x_t):
        return torch.nn.functional.one_hot(x_t, V) * torch.where(x_t == MASK, 0.0, 50.0)[..., None]

    assert low <= step1.masked_cross_entropy(copier, text(400, 20), MASK, seeded(), bug).item() <= high


# The whole step


def test_it_runs_and_comes_near(step1, smoke):
    run = smoke(step1)
    found = run.numbers
    assert found["first"] == pytest.approx(math.log(55), abs=1e-4)
    assert found["entropy"] == pytest.approx(3.32, abs=0.005)
    assert -0.02 < found["gap"] < 0.1 and found["apart"] < 0.2
    assert run.path.stem == f"{NAME}-playlets-0-smoke"


@pytest.mark.parametrize("line", ["Señor $ [b] \\ ↵ says: \t hello.\n", "ab", "a"])
def test_it_runs_on_any_text(step1, smoke, tmp_path, line):
    """Also where there is nothing to learn: then start and floor are the same."""
    path = tmp_path / "mine.txt"
    path.write_text(line * (6000 // len(line)), encoding="utf-8")
    assert smoke(step1, data=str(path)).numbers["first"] == pytest.approx(math.log(len(set(line))), abs=1e-4)


def test_every_bug_shows(step1, smoke, cats, tmp_path):
    bugs = (None, *step1.BREAKS)
    runs = {bug: smoke(step1, tmp_path / str(bug), data=cats, broken=bug).numbers for bug in bugs}
    right = runs[None]
    assert runs["score_visible"]["last"] < right["entropy"] - 0.5
    assert runs["score_visible"]["gap"] == pytest.approx(right["gap"], abs=0.05)
    assert runs["forget_mask"]["last"] < 1 < runs["forget_mask"]["gap"] + 0.9
    assert runs["forget_mask"]["apart"] > right["apart"] + 0.1
    assert runs["neighbours"]["gap"] < right["gap"] - 0.05 and runs["neighbours"]["gap"] < 0
