"""The twins differ in five tagged places and nowhere else, and each place does what its tag says."""

import ast
import difflib
import itertools
import re
import sys
from dataclasses import asdict, fields, replace
from types import ModuleType

import pytest
import torch
from PIL import Image

from microdlm import cli, terminal
from microdlm.errors import UserError
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import ROOT
from microdlm.state import TrainConfig
from microdlm.tokenizers import END, BPETokenizer, CharTokenizer
from microdlm.transformer import Transformer, TransformerConfig

TWINS = ("gpt", "diffusion")


@pytest.fixture(scope="module")
def twins(script) -> dict[str, ModuleType]:
    return {name: script(name) for name in TWINS}


def source(name: str) -> list[str]:
    return (ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines()


def hunks() -> list[tuple[str, list[str], list[str]]]:
    gpt, diffusion = source("gpt"), source("diffusion")
    ops = difflib.SequenceMatcher(None, gpt, diffusion, autojunk=False).get_opcodes()
    return [(op, gpt[a:b], diffusion[c:d]) for op, a, b, c, d in ops if op != "equal"]


# The page


def test_the_twins_differ_in_five_tagged_hunks_and_nowhere_else():
    assert [op for op, *_ in hunks()] == ["replace"] * 5
    for n, (_, *sides) in enumerate(hunks(), 1):
        for lines in sides:
            assert re.findall(r"# DIFF (\d+): .", "\n".join(lines)) == [str(n)]
            assert lines[0].lstrip().startswith(f"# DIFF {n}: ")  # first why, then how
            assert len(lines) <= 4  # a difference that is not small is not one difference


def test_each_change_is_one_function_of_the_same_name_and_signature():
    found = []
    for name in TWINS:
        text = "\n".join(source(name))
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        tagged = {f.name: ast.get_source_segment(text, f) for f in functions}
        found.append([(f.name, ast.dump(f.args)) for f in functions if "# DIFF" in tagged[f.name]])
    assert found[0] == found[1]
    assert [name for name, _ in found[0]] == ["vocabulary", "network", "question", "loss", "write"]


def test_the_table_at_the_top_names_the_five(twins):
    for module in twins.values():
        assert re.findall(r"^    DIFF (\d)  (\S.*?)  ", module.__doc__, re.M) == [
            ("1", "vocabulary"),
            ("2", "attention"),
            ("3", "objective"),
            ("4", "loss scope"),
            ("5", "generation"),
        ]


# The five changes


def test_the_networks_differ_in_mask_and_the_switch_alone(twins):
    letters = CharTokenizer("abcde")
    for preset in twins["gpt"].PRESETS:
        gpt, diffusion = (asdict(t.network(letters, t.Config(preset=preset, time="none"))) for t in twins.values())
        differ = {key: (gpt[key], diffusion[key]) for key in gpt if gpt[key] != diffusion[key]}
        assert differ == {"vocab_size": (5, 6), "causal": (True, False)}


def test_presets_and_recipes_are_the_same(twins):
    for preset, (L, sizes, how) in twins["diffusion"].PRESETS.items():
        assert twins["gpt"].PRESETS[preset] == (L, sizes, how)
        given = dict(preset=preset, steps=7, lr=0.5, seed=3, precision="float32")
        recipes = [t.recipe(t.Config(**given)) for t in twins.values()]
        assert recipes[0] == recipes[1] == replace(how, steps=7, lr=0.5, seed=3, precision="float32")
        other = dict(optimizer="adamw", ema=0.5)
        assert all(t.recipe(t.Config(**given, **other)) == replace(recipes[0], **other) for t in twins.values())
        texts = [t.text(t.Config(preset=preset, prompt="To")) for t in twins.values()]
        assert texts[0] == texts[1] and texts[0]["prompt"] == "To" and texts[0].keys() == PLAIN.keys()


PLAIN = {"data": "playlets", "tokenizer": "char", "vocab_size": 1024, "prompt": r"\n"}


def test_a_preset_says_what_is_read_unless_it_is_said(twins):
    for t in twins.values():
        assert all(t.text(t.Config(preset=preset)) == PLAIN for preset in ("nano", "small", "full"))
        stories = t.text(t.Config(preset="tinystories-quick", data="my.txt", vocab_size=300))
        assert stories == {"data": "my.txt", "tokenizer": "bpe", "vocab_size": 300, "prompt": "Once upon a time"}


def test_the_gpt_refuses_the_preset_that_tells_t_and_takes_it_without(twins):
    letters, of = CharTokenizer("abc"), dict(preset="tinystories-142m")
    assert twins["diffusion"].network(letters, twins["diffusion"].Config(**of)).time == "adaln"
    with pytest.raises(UserError, match="a GPT masks nothing"):
        twins["gpt"].network(letters, twins["gpt"].Config(**of))
    assert twins["gpt"].network(letters, twins["gpt"].Config(**of, time="none")).positions == "learned"


def test_full_is_the_network_of_ten_million_six_hundred_thousand_parameters(twins):
    L, sizes, how = twins["diffusion"].PRESETS["full"]
    assert (L, how.batch_size) == (256, 64)
    assert Transformer(TransformerConfig(66, L, **sizes)).num_parameters() == 10_667_520
    tiny_shakespeare = CharTokenizer("".join(map(chr, range(33, 98))))  # 65 characters, and MASK
    net = twins["diffusion"].network(tiny_shakespeare, twins["diffusion"].Config(preset="full"))
    assert Transformer(net).num_parameters() == 10_667_520


def model(causal: bool, V: int = 4, L: int = 3) -> Transformer:
    """A network that nobody trained and that is far from uniform."""
    net, g = Transformer(TransformerConfig(V, L, n_layer=1, n_head=2, d_model=8, causal=causal)), torch.Generator()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.7, generator=g.manual_seed(p.numel()))
    return net.eval()


def log_p(net, x, mask_id=None):
    """(B, L, V), and no mass on MASK."""
    logits = net(x).double()
    if mask_id is not None:
        logits[..., mask_id] = -torch.inf
    return logits - logits.exp().sum(-1, keepdim=True).log()


def test_the_diffusion_question_hides_k_tokens_k_evenly_spread(twins):
    x_0, rng = torch.arange(80).view(8, 10) % 7, torch.Generator().manual_seed(0)
    counts = torch.zeros(10)
    for _ in range(500):
        x_t, asked = twins["diffusion"].question(x_0, 7, rng)
        assert torch.equal(x_t, torch.where(asked, 7, x_0))
        assert (asked.sum(1).sort().values == asked.sum(1)).all()  # one level in each eighth
        counts += torch.bincount(asked.sum(1) - 1, minlength=10)
    assert counts.sum() == 4000 and (counts - 400).abs().max() < 4 * (400 * 0.9) ** 0.5


def test_the_diffusion_loss_is_the_mean_over_what_is_hidden(twins):
    net, x_0 = model(causal=False), torch.tensor([[0, 1, 2], [2, 2, 1], [1, 0, 0], [0, 0, 0]])
    value = twins["diffusion"].loss(net, x_0, torch.Generator().manual_seed(3))
    x_t, asked = twins["diffusion"].question(x_0, 3, torch.Generator().manual_seed(3))
    nll = -log_p(net, x_t, 3).gather(-1, x_0[..., None]).squeeze(-1)
    by_hand = sum(nll[b, asked[b]].mean() for b in range(4)) / 4
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_diffusion_loss_is_on_average_the_bound_itself(twins):
    """Against every subset, weighted by hand: k uniform, then the subset, then the mean over its k tokens."""
    net, x_0 = model(causal=False), torch.tensor([[0, 1, 2]])
    exact = 0.0
    for k in (1, 2, 3):
        subsets = list(itertools.combinations(range(3), k))
        for where in subsets:
            x_t = x_0.clone()
            x_t[0, list(where)] = 3
            ce = -log_p(net, x_t, 3)[0, list(where), x_0[0, list(where)]].mean()
            exact += ce.item() / len(subsets) / 3
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        draws = torch.stack([twins["diffusion"].loss(net, x_0.expand(64, -1), rng) for _ in range(100)])
    assert abs(draws.mean().item() - exact) < 4 * draws.std().item() / 10
    assert draws.std().item() / 10 < 0.02 * exact  # fine enough to see a wrong normaliser


def test_the_gpt_loss_is_the_chain_rule(twins):
    net, x_0 = model(causal=True), torch.tensor([[0, 1, 2], [3, 3, 1]])
    value = twins["gpt"].loss(net, x_0, torch.Generator())
    by_hand = [-log_p(net, row[None, :i])[0, -1, row[i]].item() for row in x_0 for i in (1, 2)]
    assert value.item() == pytest.approx(sum(by_hand) / 4, rel=1e-5)
    x_t, asked = twins["gpt"].question(x_0, 3, torch.Generator())
    assert torch.equal(x_t, x_0) and asked.all()


def test_each_writes_its_way(twins):
    """Diffusion in as many states as it is told, GPT in one for each token; nobody touches the prompt."""
    letters = CharTokenizer("abc")
    for name, t in twins.items():
        lm = LanguageModel(model(causal=name == "gpt", V=3 + (name == "diffusion"), L=12), letters)
        x = lm.canvas("ab", 12)
        states = list(t.write(lm, x, t.Config(num_steps=4, seed=1)))
        assert len(states) == {"gpt": 10, "diffusion": 4}[name]
        assert all(state[0, :2].tolist() == [0, 1] for state in states) and (states[-1] < 3).all()
        again = list(t.write(lm, x, t.Config(num_steps=4, seed=1)))
        assert all(torch.equal(a, b) for a, b in zip(states, again, strict=True))
        hot = [list(t.write(lm, x, t.Config(seed=seed, temperature=9.0)))[-1].tolist() for seed in range(4)]
        assert len({str(text) for text in hot}) > 1  # seed and temperature arrive


# A text that ends

STORY = "Tom had a red ball. He was happy."


def test_a_learner_of_one_story_tells_it_and_stops(twins, tmp_path, monkeypatch, capsys):
    """The whole way by the token: read documents, learn where they end, show what is written on the way, and obey the
    end: the prompt stays, the story follows, and nothing after it."""
    (tmp_path / "tale.txt").write_text(f"\n{END}\n".join([STORY] * 300))
    monkeypatch.chdir(tmp_path)
    how = TrainConfig(steps=150, batch_size=16, lr=1e-2, evals=1, checkpoints=1)
    for name, t in twins.items():
        monkeypatch.setitem(t.PRESETS, "nano", (20, dict(n_layer=2, n_head=2, d_model=48), how))
        of = dict(data="tale.txt", tokenizer="bpe", vocab_size=290, prompt="Tom had", num_steps=24, temperature=0.0)
        t.main(t.Config(train=True, generate=True, film=name == "gpt", **of))
        folder = tmp_path / "runs" / f"{name}-tale-nano"
        out = capsys.readouterr().out
        assert out.count(f"\n{STORY}\n") >= 1
        if name == "gpt":
            with Image.open(folder / "writing.gif") as gif:
                assert gif.n_frames > 5
        else:
            assert f"visualize.py one --model runs/{name}-tale-nano" in out and not (folder / "writing.gif").exists()
        assert out.rstrip().endswith(STORY)
        lm = load(folder)
        assert lm.tokenizer.has_end and lm.generate(n=2, prompt="Tom had", temperature=0.0) == [STORY] * 2


def test_what_is_shown_of_a_text_ends_where_it_says(capsys):
    tok = BPETokenizer(())
    a, b, end, mask = *tok.encode("ab"), tok.end_id, tok.mask_id
    assert terminal.until_end([a, mask, mask, mask], [a, b, end, b], tok) == [a, b]
    assert terminal.until_end([a, end, mask, mask], [a, end, b, end], tok) == [a, end, b]  # the given one ends nothing
    assert terminal.until_end([a, mask], [a, b], tok) == [a, b]
    letters = CharTokenizer("ab\n")
    terminal.glimpse([torch.tensor([[0, 2, 1]])], torch.tensor([[0, 3, 3]]), letters)
    assert capsys.readouterr().out == "a↵b\n"


# The help


@pytest.mark.parametrize("name", TWINS)
def test_help_reads_like_documentation(twins, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as done:
        cli.run(twins[name].main, twins[name].Config, twins[name].__doc__)
    out, err = capsys.readouterr()
    assert done.value.code in (0, None) and not err
    flat = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    text = "\n".join(source(name))
    for field in fields(twins[name].Config):
        comment = re.search(rf"^    {field.name}: [^#\n]*?  # (.{{8,}})$", text, re.M)
        assert comment, f"{field.name} has no help"
        assert comment[1] in flat and f"--{field.name.replace('_', '-')}" in flat
    shown = [line.strip() for line in out.splitlines()]
    for line in re.findall(r"^    (python .*|DIFF .*)$", twins[name].__doc__, re.M):
        assert line in shown, f"{line!r} does not stand on a line of its own"
