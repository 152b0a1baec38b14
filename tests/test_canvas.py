"""A text with blanks becomes the page a sampler starts from, and decodes to what it was."""

import pytest
import torch

from microdlm.canvas import canvas
from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.objectives import masked_nll
from microdlm.playlets import Playlets
from microdlm.pretrained import load
from microdlm.tokenizers import BPETokenizer, CharTokenizer

LETTERS = CharTokenizer("ROME: love.\n")
BPE = BPETokenizer.train("ROMEO: I love thee. " * 20, 270)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("ROMEO: ____ love {5}.", "ROMEO: ···· love ·····."),
        ("____", "····"),
        ("{4}", "····"),
        ("_{2}_", "····"),
        ("love", "love"),
        ("love{0}", "love"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("tokenizer", [LETTERS, BPE], ids=["char", "bpe"])
def test_there_and_back(tokenizer, text, shown):
    x = canvas(text, tokenizer)
    assert x.shape[0] == 1 and x.dtype == torch.long
    assert tokenizer.decode(x[0]) == shown and (x == tokenizer.mask_id).sum() == shown.count("·")


def test_the_longest_is_kept_to_and_nothing_larger_is_built():
    assert canvas("love{4}", LETTERS, most=8).shape == (1, 8)
    for text in ("love{5}", "love{999999999999}", "_" * 9, "lovelovel"):
        with pytest.raises(UserError, match="more than 8 tokens"):
            canvas(text, LETTERS, most=8)
    with pytest.raises(UserError, match="vocabulary"):
        canvas("Z_", LETTERS)


def test_what_follows_helps():
    """-log p(middle | both sides) < -log p(middle | left), by the chain rule with the exact denoiser of playlets on
    text it never saw (seed 77). On average it must, by the mutual information; here by more than 4 standard errors."""
    play, B, L, a, b = Playlets(), 24, 40, 14, 26
    letters = CharTokenizer(play.alphabet)
    page = torch.tensor(letters.encode(play.text(B * L, seed=77))).view(B, L)
    left = play.denoiser().nll(page[:, :b], given=a) * (b - a)
    both = torch.zeros(B, dtype=torch.float64)
    start = torch.cat([canvas(f"{letters.decode(x[:a])}{{{b - a}}}{letters.decode(x[b:])}", letters) for x in page])
    assert torch.equal(start != letters.mask_id, (start == page)) and (start == letters.mask_id).sum() == B * (b - a)
    for i in range(a, b):
        both -= play.denoiser()(start)[:, i].gather(1, page[:, i : i + 1])[:, 0]
        start[:, i] = page[:, i]
    gain = left - both
    assert gain.mean() > 4 * gain.std() / B**0.5 > 0


def test_what_follows_helps_a_network_too(shakespeare, B=48, L=64, a=24, b=36):
    """The same with the shipped network on held-out Shakespeare, where it need not hold: a network is no posterior."""
    lm = load("shakespeare-diffusion")
    x_0, place = load_corpus(shakespeare, lm.tokenizer).windows(L, B), torch.arange(L)

    def nll(hidden_right: bool):
        total = torch.zeros(B)
        for i in range(a, b):
            x_t = x_0.masked_fill((place >= i) & ((place < b) | hidden_right), lm.mask_id)
            total += masked_nll(lm.model, x_0, x_t, (place == i).expand(B, L), lm.mask_id).sum(1)
        return total

    with torch.no_grad():
        gain = nll(hidden_right=True) - nll(hidden_right=False)
    assert gain.mean() > 4 * gain.std() / B**0.5 > 0
