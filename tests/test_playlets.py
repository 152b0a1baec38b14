"""The built-in language: what it says is grammatical, and every number it reports about itself is true."""

import math
import re
import time

import pytest
import torch

from microdlm.errors import UserError
from microdlm.playlets import SCENE, Path, Playlets, read_lexicon

LEXICON = Path(__file__).parent.parent / "data" / "playlets.txt"
MINI = "hero: Ada Bo\nfox/foxes: owl/owls elf/elves ox/oxen\nact:\n  1 {HERO}: {A} {fox}.\\n\n"


@pytest.fixture(scope="module")
def text(play):
    return play.text(1_500_000, seed=1)


def ids(play, text):
    return torch.tensor([play.alphabet.index(c) for c in text])


# ---- the numbers ----


def test_entropy_rate_is_what_a_long_text_costs(play, text):
    """nll of 1.5 million characters, within 4 standard errors of the rate that the formula gives. (Fixed
    seed; a right formula fails at 6 seeds in 100,000.) The error comes from stretches of 10,000."""
    stretches = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    nll = torch.tensor([play.nll(stretch, given=500) for stretch in stretches], dtype=torch.float64)
    error = nll.std() / len(nll) ** 0.5
    assert error < 0.002 and abs(nll.mean() - play.entropy_rate()) < 4 * error
    assert 0.48 < play.entropy_rate() < 0.75  # hard enough to be interesting, easy enough for a small net


def test_stationary_shares_stay_as_they_are(play):
    denoiser = play.denoiser()
    moved = torch.zeros_like(denoiser.initial)
    moved.index_add_(0, denoiser.target, denoiser.initial[denoiser.source] * denoiser.prob)
    assert (moved - denoiser.initial).abs().sum() < 1e-12
    assert denoiser.stationary().equal(denoiser.initial) and (denoiser.initial > 0).all()


def test_character_shares_are_those_of_the_text(play, text):
    """The long-run share of each character, counted in whole scenes: no length bias in text()."""
    scenes = [s for s in re.findall(r"Enter.*?\n\n", text, re.DOTALL) if s.endswith("\n\n")]
    share = torch.zeros(len(play.alphabet), dtype=torch.float64)
    share.index_add_(0, play.denoiser().symbol, play.denoiser().initial)
    counts = torch.stack([torch.bincount(ids(play, s), minlength=len(share)) for s in scenes[:1500]]).double()
    lengths = counts.sum(1, keepdim=True)
    spread = (counts - lengths * share).std(0) / lengths.mean() / len(counts) ** 0.5  # of a ratio of means
    assert ((counts.sum(0) / lengths.sum() - share).abs() < 5 * spread).all()  # false alarm: 1 in 30,000
    mean_length = 1 / play.denoiser().initial[0]  # state 0 comes once a scene
    assert abs(lengths.mean() - mean_length) < 5 * lengths.std() / len(counts) ** 0.5


def test_nll_agrees_with_the_oracle(play, text):
    """Two programs for one number: a walk through the states, and the forward pass over all of them."""
    window = text[70_000:70_128]
    x_0 = ids(play, window)[None]
    assert play.nll(window) == pytest.approx(play.denoiser().nll(x_0).item(), rel=1e-11)
    assert play.nll(window, given=40) == pytest.approx(play.denoiser().nll(x_0, given=40).item(), rel=1e-11)
    assert play.nll(window.replace("the", "teh", 1)) == math.inf


def test_chain_rule_on_a_real_window(play, text):
    """Revealed in random order, the surprises of the exact denoiser add up to the exact nll."""
    window = text[5_000:5_032]
    x_0, L = ids(play, window), len(window)
    order = torch.randperm(L, generator=torch.Generator().manual_seed(0))
    x_t = x_0.repeat(L, 1)
    for n in range(L):
        x_t[n, order[n:]] = play.mask_id  # row n: all but the first n of the order are masked
    log_p = play.denoiser()(x_t)[torch.arange(L), order, x_0[order]]
    assert -log_p.sum().item() / L == pytest.approx(play.nll(window), rel=1e-10)


def test_the_next_character_tells_the_next_state(play):
    """Unifilar: else the entropy rate would have no formula."""
    for out in play.arrows:
        assert sum(p for _, p in out.values()) == pytest.approx(1, abs=1e-12)
        assert all(play.emits[t] == c for c, (t, _) in out.items())
    assert 5_000 < len(play.arrows) < 30_000
    assert list(play.alphabet) == sorted(set(play.alphabet)) and 40 <= play.mask_id <= 55


# ---- the language ----


def test_every_line_is_accepted(play, text):
    assert all(play.accepts(line) for line in set(text[:400_000].split("\n")[:-1]))


def test_the_hero_recurs(text):
    """Who enters speaks every other line, is the only hero addressed, and leaves."""
    heroes = [*read_lexicon(LEXICON)["hero"]]
    for scene in text.split("\n\n")[:-1]:
        first, *lines, last = scene.split("\n")
        hero = first.removeprefix("Enter ")[:-1]
        assert first == f"Enter {hero}." and last == f"Exit {hero}."
        assert all(line.startswith(f"{hero.upper()}: ") == (k % 2 == 0) for k, line in enumerate(lines))
        assert not any(re.search(rf"\b{other}\b", scene) for other in heroes if other != hero)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("FOX: The owl sings.", "FOX: The owl sing."),
        ("FOX: Two owls sing near the river.", "FOX: Two owls sings near the river."),
        ("FOX: Two old owls sing.", "FOX: Two old owl sing."),
        ("FOX: An old owl finds a key.", "FOX: A old owl finds a key."),
        ("FOX: A fox finds an apple.", "FOX: A fox finds a apple."),
        ("FOX: A fox finds two keys.", "FOX: A fox finds two key."),
        ("MIRA: Where does the owl sleep?", "MIRA: Where does the owl sleeps?"),
        ("MIRA: Where do the owls sleep?", "MIRA: Where does the owls sleep?"),
        ("MIRA: My key is gone.", "MIRA: My keys is gone."),
        ("FOX: Good night, Mira.", "FOX: Good night, Moira."),
        ("FOX: The owl sings.", "FOX: the owl sings."),
        ("FOX: The owl sings.", "FOX: The zebra sings."),
        ("Enter Mira.", "Enter Mira"),
        ("", " "),
    ],
)
def test_grammar(play, right, wrong):
    assert play.accepts(right) and not play.accepts(wrong)


def test_edits_of_one_letter_are_seen(play, text):
    """Swap two neighbouring letters inside a word. Few words turn into other words that way."""
    lines = [line for line in text[:100_000].split("\n")[:-1] if len(line) > 20][:500]
    swapped = []
    for k, line in enumerate(lines):
        i = 8 + k % (len(line) - 10)
        if line[i] != line[i + 1]:
            swapped.append(line[:i] + line[i + 1] + line[i] + line[i + 2 :])
    assert sum(map(play.accepts, swapped)) <= 0.01 * len(swapped)


def test_a_question_is_answered(text):
    """The answer's kind is remembered across the line break: Where? gets a place."""
    answers = re.findall(r"Where do.*\n[A-Z]+: (\w+)", text)
    assert len(answers) > 1000 and set(answers) <= {"In", *"Near Behind By Beyond Beside Past".split()}


def test_every_word_of_the_lexicon_is_used(text):
    said = set(re.findall(r"\w+", text.lower()))
    for name, fillings in read_lexicon(LEXICON).items():
        for filling in fillings:
            words = re.sub(r"\{\w+\}|[^\w\s]", " ", filling).lower().split()
            assert said.issuperset(words), f"{name}: {filling} is never said"


# ---- text ----


def test_same_seed_same_text_and_prefixes(play, text):
    assert play.text(1_000, seed=1) == text[:1_000] and play.text(200_000, seed=1) == text[:200_000]
    assert play.text(1_000, seed=2) != text[:1_000]
    assert [len(play.text(n)) for n in (0, 1, 12_345)] == [0, 1, 12_345]


def test_text_touches_no_global_generator(play):
    before = torch.get_rng_state()
    play.text(1_000)
    assert before.equal(torch.get_rng_state())


def test_many_scenes_are_written_as_each_walker_walks(play):
    """What is written at once, against lists and one walker at a time, who asks for the same moves."""
    rng, states, scenes = torch.Generator().manual_seed(3), dict.fromkeys(range(40), 0), [""] * 40
    while states:
        moved = play.denoiser().step(torch.tensor([*states.values()]), rng).tolist()
        for walker, state in zip([*states], moved, strict=True):
            scenes[walker] += play.emits[state]
            states[walker] = state
        states = {walker: state for walker, state in states.items() if state != 0}
    assert play._scenes(40, torch.Generator().manual_seed(3)) == "".join(scenes)


def test_text_is_written_fast(play):
    """All scenes at once: a character costs about a hundredth of what it costs in a scene written alone. Asked is a
    thirtieth, in seconds of the processor, so that no slow or busy machine fails."""

    def cost(scenes: int) -> float:
        start, rng = time.process_time(), torch.Generator().manual_seed(0)
        length = len(play._scenes(scenes, rng))
        return (time.process_time() - start) / length

    assert min(cost(4096), cost(4096)) < min(cost(1) for _ in range(20)) / 30


# ---- the file ----


def test_a_lexicon_of_ones_own(tmp_path):
    """Four lines are a language: its only freedom is the hero, the noun, and a or an follows from it."""
    (tmp_path / "mini.txt").write_text(MINI)
    mini = Playlets(tmp_path / "mini.txt")
    assert mini.accepts("ADA: An owl.") and not mini.accepts("ADA: A owl.")
    choices = [[1 / 10, 1 / 11], [1 / 10, 1 / 11, 1 / 12]]
    entropy = sum(-w / sum(ws) * math.log(w / sum(ws)) for ws in choices for w in ws)
    scenes = [
        (SCENE.format(h), f"{h.upper()}: An {n}.\n", a * b)
        for h, a in (("Ada", 1 / 10), ("Bo", 1 / 11))
        for n, b in (("owl", 1 / 10), ("elf", 1 / 11), ("ox", 1 / 12))
    ]
    total = sum(w for *_, w in scenes)
    length = sum(w / total * (len(scene) - len("{act}") + len(line)) for scene, line, w in scenes)
    assert mini.entropy_rate() == pytest.approx(entropy / length, rel=1e-12)


def test_histories_merge_only_if_the_same_is_left_to_say(tmp_path):
    """After A and after B the same letters may come, but not at the same odds: two states."""
    odds = "one:\n  50 x\n  50 y\ntwo:\n  52 x\n  48 y\n"
    (tmp_path / "odds.txt").write_text("hero: Bo\nact:\n  1 A{one}\\n\n  1 B{two}\\n\n" + odds)
    language = Playlets(tmp_path / "odds.txt")
    for text, p in (("Bo.\nAx", 0.50), ("Bo.\nBx", 0.52), ("Bo.\nBy", 0.48)):
        assert language.nll(text, given=len(text) - 1) == pytest.approx(-math.log(p), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("fox/foxes:", "fox/foxes"), "line 2: expected"),
        (("elf/elves", "elf"), "line 2: expected"),
        (("  1 {HERO}", "  one {HERO}"), "line 4: expected"),
        (("  1 {HERO}", "  0 {HERO}"), "line 4: expected"),
        (("{A} {fox}", "{A} [{fox}"), "line 4: expected"),
        (("{A} {fox}", "{A} {wolf}"), "nothing fills the slot 'wolf'"),
        (("hero: Ada Bo", "hero:"), "nothing fills the slot 'hero'"),
        (("{A} {fox}", "{act} {fox}"), "calls itself"),
        (("{fox}.", "{fox} {act}"), "calls itself"),
    ],
)
def test_a_malformed_lexicon_is_reported_in_one_line(tmp_path, change, message):
    path = tmp_path / "broken.txt"
    path.write_text(MINI.replace(*change))
    with pytest.raises(UserError, match=re.escape(message)) as error:
        Playlets(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_lexicon_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no lexicon at"):
        Playlets(tmp_path / "nowhere.txt")
