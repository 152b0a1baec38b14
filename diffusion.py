"""A language model from one page, twice: diffusion.py fills in blanks, gpt.py predicts the next token.

Same network, data, optimizer and budget. `diff gpt.py diffusion.py` shows all that differs, in five tagged places:

    DIFF 1  vocabulary    diffusion needs one id more: MASK, "not written yet"
    DIFF 2  attention     a blank is filled from both sides; the next token only from the left
    DIFF 3  objective     hide k tokens, k ~ U{1..L}, and name them; or name each token's successor
    DIFF 4  loss scope    the hidden tokens; or all tokens. Scored on held-out text: a bound; or an exact value
    DIFF 5  generation    everywhere at once, surest first; or left to right, with a cache

Train on the built-in language, two minutes and nothing to download, then write:

    python diffusion.py --train --generate

Train on Tiny Shakespeare, half an hour on a laptop; or write at once, with the weights that are shipped:

    python diffusion.py --train --data shakespeare --preset small
    python diffusion.py --generate --prompt "ROMEO:"

Tell stories by the token, and end them; asked something inside a story, it answers:

    python diffusion.py --train --generate --film --preset tinystories-quick
    python diffusion.py --generate --preset tinystories-quick --prompt 'Tom asked, "Can I climb it?"'

A run that was stopped, by Ctrl-C or the power, goes on bit for bit: the same command and --resume.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from microdlm import cli, masking, objectives, stories, terminal, training
from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import Run
from microdlm.state import OPTIMIZERS, State, TrainConfig, describe
from microdlm.transformer import BLOCKS, POSITIONS, Transformer, TransformerConfig

NAME = Path(__file__).stem

PRESETS = {  # name: (L, sizes of the network, training)
    "nano": (
        128,
        dict(n_layer=3, n_head=2, d_model=96),
        TrainConfig(steps=4000, batch_size=8, lr=6e-3, optimizer="muon"),
    ),
    "small": (
        256,
        dict(n_layer=4, n_head=4, d_model=128),
        TrainConfig(steps=8000, batch_size=16, lr=6e-3, optimizer="muon"),
    ),
    "full": (256, dict(n_layer=6, n_head=6, d_model=384), TrainConfig(steps=10_000, batch_size=64, lr=1e-3)),
    **stories.PRESETS,
}
KNOWN = {"optimizer": OPTIMIZERS, "positions": POSITIONS, "time": BLOCKS}  # options that are names


@dataclass(frozen=True)
class Config:
    train: bool = False  # train a model into --out
    generate: bool = False  # write with the model in --out (without --train and --out: the shipped one)
    data: str | None = None  # playlets (built in), shakespeare, tinystories, or a text file; default: the preset's
    preset: str = "nano"  # nano: two minutes on two cores; small: half an hour; full: wants a GPU; tinystories-...
    tokenizer: str | None = None  # char, bpe (learnt from the data) or gpt2, if not the preset's
    vocab_size: int | None = None  # of bpe, if not the preset's
    out: Path | None = None  # the run's folder; default runs/NAME-DATA-PRESET
    resume: bool = False  # go on with the run in --out, bit for bit
    film: bool = False  # after training, a GIF of it writing: writing.gif, in the run's folder
    steps: int | None = None  # training steps, if not the preset's
    lr: float | None = None  # peak learning rate, if not the preset's
    dropout: float = 0.0  # share of activations dropped in training
    ema: float | None = None  # decay of a moving average of the weights, which is then what is kept; 0: none
    optimizer: str | None = None  # adamw, or muon for the matrices inside the blocks, if not the preset's
    positions: str | None = None  # rope (turned by their distance) or learned (a vector each), if not the preset's
    time: str | None = None  # what a diffusion model is told of t: none, add or adaln, if not the preset's
    compile: bool = False  # torch.compile: a minute to start, then faster
    precision: str = "auto"  # auto, float32, or bfloat16 for the matrix products
    device: str = "auto"  # auto (a GPU of CUDA if there is one), cpu, cuda
    seed: int = 0  # of everything random
    prompt: str | None = None  # what the text begins with; \n is a line break; default: the preset's
    length: int | None = None  # tokens of text, prompt included; default: the whole window
    num_steps: int = 64  # diffusion: steps to write in (a GPT takes one for each token)
    temperature: float = 0.8  # 1: as learned; lower: safer; 0: always the most probable
    top_k: int | None = None  # draw from the k most probable tokens only
    top_p: float | None = None  # draw from the smallest set that holds this much probability


def vocabulary(tokenizer) -> int:
    # DIFF 1: the characters, and MASK after them
    return len(tokenizer) + 1


def network(tokenizer, cfg: Config) -> TransformerConfig:
    L, sizes, _ = PRESETS[cfg.preset]
    sizes = dict(sizes, dropout=cfg.dropout) | given(cfg, "positions", "time")
    # DIFF 2: every position sees every other
    return TransformerConfig(vocabulary(tokenizer), L, **sizes, causal=False)


def question(x_0, mask_id, rng):
    """What the model is shown, and where it has to answer: x_t (B, L) and asked (B, L)."""
    # DIFF 3: k tokens hidden, k spread evenly over the batch; the answer is what they were
    k = masking.to_count(masking.stratified(len(x_0), rng=rng), x_0.size(1))
    return masking.mask_count(x_0, k.to(x_0.device), mask_id, rng)


def loss(model, x_0, rng):
    """Nats per token of a batch x_0 (B, L): what training makes small."""
    x_t, asked = question(x_0, model.cfg.vocab_size - 1, rng)
    # DIFF 4: only hidden tokens count. With k uniform, their mean is a bound on -log p(x_0): no weight needed
    nll = objectives.masked_nll(model, x_0, x_t, asked, model.cfg.vocab_size - 1)
    return objectives.count_nelbo(nll, asked).mean()


def write(lm, x, cfg: Config):
    """Fill the MASKs of x (B, L); yields every state."""
    how = dict(temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p, seed=cfg.seed)
    how["end_id"] = lm.tokenizer.end_id
    # DIFF 5: guess all blanks at once, keep the surest guesses, repeat; every blank in num_steps passes
    return lm.write(x, "confidence", num_steps=cfg.num_steps, **how)


def given(cfg: Config, *names: str) -> dict:
    """Those of these options that were given."""
    return {name: value for name in names if (value := getattr(cfg, name)) is not None}


def recipe(cfg: Config) -> TrainConfig:
    """The preset's training with the options that were given."""
    names = ("steps", "lr", "ema", "optimizer", "precision", "compile", "seed")
    return replace(PRESETS[cfg.preset][2], **given(cfg, *names))


def text(cfg: Config) -> dict:
    """The preset's text with the options that were given."""
    plain = dict(data="playlets", tokenizer="char", vocab_size=1024, prompt=r"\n")
    return plain | stories.TEXTS.get(cfg.preset, {}) | given(cfg, *plain)


def page(lm: LanguageModel, cfg: Config):
    """The prompt, and MASKs after it: (1, L)."""
    return lm.canvas(text(cfg)["prompt"].replace(r"\n", "\n"), cfg.length)


def train(cfg: Config, folder: Path) -> None:
    """Train into `folder`, which then holds the weights that were best on held-out text."""
    how, L, device, read = recipe(cfg), PRESETS[cfg.preset][0], training.pick_device(cfg.device), text(cfg)
    corpus = load_corpus(read["data"], read["tokenizer"], L, vocab_size=read["vocab_size"])
    net = network(corpus.tokenizer, cfg)
    model = Transformer(net, torch.Generator().manual_seed(cfg.seed))
    if cfg.generate:  # a prompt that will not do is refused now, not after the training
        lm = LanguageModel(model, corpus.tokenizer)
        write(lm, page(lm, cfg), cfg)
    run = Run.open(folder, describe(NAME, net, how, corpus), cfg.resume)
    state = State(model, how, device)
    state.restore(run)
    held_out = corpus.windows(L, n=64)

    def validate(model):
        return LanguageModel(model, corpus.tokenizer).score_windows(held_out, samples=8)

    records = training.train(state, how, loss, corpus.batch, validate, run)
    for record in terminal.training_screen(records, NAME, how.steps, corpus):
        if cfg.generate and record.val is not None:
            lm = LanguageModel(state.weights, corpus.tokenizer)
            terminal.glimpse(write(lm, x := page(lm, cfg), cfg), x, lm.tokenizer)
    run.finish({"steps": state.step, "best": state.best, "parameters": model.num_parameters()})
    terminal.film(folder, read["prompt"], cfg.film)


def generate(cfg: Config, folder: Path | str) -> None:
    """Write a text with the model in `folder`, and show it appear."""
    lm = load(folder, training.pick_device(cfg.device), cfg.precision, cfg.compile)
    if lm.kind != NAME:
        raise UserError(f"{folder} holds a {lm.kind} model: use {lm.kind}.py")
    x = page(lm, cfg)
    terminal.writing_screen(write(lm, x, cfg), x, lm.tokenizer, f"{NAME}.py writes")


def main(cfg: Config) -> None:
    cli.one_of(cfg.preset, PRESETS, "preset")
    for name, value in given(cfg, *KNOWN).items():
        cli.one_of(value, KNOWN[name], name)
    if not (cfg.train or cfg.generate):
        raise UserError("nothing to do: add --train, --generate or both (--help says more)")
    read = Path(text(cfg)["data"]).stem
    folder = cfg.out or Path("runs") / f"{NAME}-{read}-{cfg.preset.removeprefix(f'{read}-')}"
    if cfg.train:
        train(cfg, folder)
    if cfg.generate:
        tells = cfg.preset in stories.TEXTS
        shipped = f"{'tinystories' if tells else 'shakespeare'}-{NAME}"
        generate(cfg, folder if cfg.train or cfg.out or (tells and folder.is_dir()) else shipped)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
