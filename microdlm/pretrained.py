"""A trained model in two lines.

    lm = microdlm.load("shakespeare-diffusion")     # or the folder of a run, or "owner/name" on the Hugging Face Hub
    print(lm.generate(n=1, prompt="ROMEO:")[0])

A folder holds config.json (architecture, vocabulary, how it was made) and model.safetensors. Both are data; loading
executes nothing.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from microdlm.canvas import canvas, slide
from microdlm.cli import check, one_of
from microdlm.drawing import ORDERS
from microdlm.errors import UserError
from microdlm.hub import find
from microdlm.likelihood import Estimate, estimate_nelbo, left_to_right_nll
from microdlm.pacing import PACES
from microdlm.revising import DOUBTS
from microdlm.runs import read_json, read_tensors
from microdlm.samplers import SAMPLERS
from microdlm.schedules import SCHEDULES
from microdlm.tokenizers import TextTokenizer, tokenizer_from_json
from microdlm.training import pick_device, wants_bfloat16
from microdlm.transformer import Transformer, TransformerConfig

LONGEST = 100_000  # tokens of a text; what does not fit the window is written window by window
NAMED = {"inside": SAMPLERS, "pace": PACES, "schedule": SCHEDULES, "again": DOUBTS, "order": ORDERS}


@dataclass
class LanguageModel:
    """A network, its vocabulary, and what to do with them: write, fill in, mend, score."""

    model: Callable  # a Transformer, or what wraps one and has its `cfg`, `causal` and `embedding`
    tokenizer: TextTokenizer
    config: dict = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """gpt, which sees what is to the left, or diffusion, which sees everything."""
        return "gpt" if self.model.causal else "diffusion"

    @property
    def mask_id(self) -> int:
        return self.tokenizer.mask_id

    def canvas(self, prompt: str = "\n", length: int | None = None, n: int = 1) -> Int[Tensor, "n L"]:
        """`prompt`, then MASKs up to `length` tokens (default: the window), n times. UserError: it does not fit."""
        length = self.model.cfg.seq_len if length is None else length
        ids = self.tokenizer.encode(prompt)
        if not 0 < length <= LONGEST:
            raise UserError(f"length {length} is not a length to write: give 1 to {LONGEST}")
        if len(ids) > length:
            raise UserError(
                f"the prompt has {len(ids)} tokens, the text only {length}: shorten one, lengthen the other"
            )
        if self.kind == "gpt" and not ids:
            raise UserError('a GPT needs something to continue: give a --prompt, "\\n" for instance')
        row = torch.tensor(ids + [self.mask_id] * (length - len(ids)))
        return row.repeat(n, 1).to(self.device)

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def write(
        self, x: Int[Tensor, "B L"], sampler: str | None = None, seed: int = 0, end_id: int | None = None, **how
    ) -> Iterator[Int[Tensor, "B L"]]:
        """Fill every MASK of x, yielding each state. `how`: num_steps, temperature, top_k, top_p and what the
        sampler takes. Default: confidence for a diffusion model; a GPT can only go left to right.
        With an end_id, going left to right stops once every text has it. x may be longer than the window."""
        return (state for _, state in self.write_windows(x, sampler, seed, end_id, **how))

    def write_windows(
        self, x: Int[Tensor, "B L"], sampler: str | None = None, seed: int = 0, end_id: int | None = None, **how
    ) -> Iterator[tuple[int, Int[Tensor, "B L"]]]:
        """As `write`, and where the window begins that the model looks through."""
        sampler = one_of(sampler or {"gpt": "left_to_right", "diffusion": "confidence"}[self.kind], SAMPLERS, "sampler")
        if self.kind == "gpt" and sampler != "left_to_right":
            raise UserError(f"a GPT cannot use the sampler {sampler!r}: it writes left_to_right")
        check(how)
        for option, known in NAMED.items():
            if isinstance(how.get(option), str):
                one_of(how[option], known, option)
        how |= {"end_id": end_id} if sampler == "left_to_right" and how.get("order") is None else {}
        fill = functools.partial(SAMPLERS[sampler], self.model, rng=torch.Generator().manual_seed(seed), **how)
        return slide(fill, x, self.mask_id, self.model.cfg.seq_len, how.get("num_steps"), end_id)

    def generate(
        self, n: int = 4, length: int | None = None, prompt: str = "\n", whole: bool = False, **how
    ) -> list[str]:
        """n texts that begin with `prompt`; `how` as for `write`. Where the model writes END its text is over: END and
        what follows are dropped, so a text may be shorter than `length`. whole=True keeps all."""
        start, end_id = self.canvas(prompt, length, n), None if whole else self.tokenizer.end_id
        *_, x = self.write(start, end_id=end_id, **how)
        over = ((x == end_id) & (start == self.mask_id)).cumsum(1) > 0 if end_id is not None else x < 0
        return [self.tokenizer.decode(row[~after]) for row, after in zip(x, over, strict=True)]

    def infill(self, text: str, n: int = 1, **how) -> list[str]:
        """Fill the blanks of `text`: each _ is one token, {7} is seven. A GPT fills them blind to what follows.

        >>> load("shakespeare-diffusion").infill("ROMEO: ____ love {9}.")  # doctest: +SKIP
        """
        *_, x = self.write(self.page(text, n), **how)
        return [self.tokenizer.decode(row) for row in x]

    def trajectory(self, text: str, **how) -> list[str]:
        """Every state on the way from `text` to what `infill` makes of it, as texts; MASK is shown as a dot."""
        x = self.page(text)
        return [self.tokenizer.decode(state[0]) for state in (x, *self.write(x, **how))]

    def refine(self, text: str, n: int = 1, prompt: str = "", **how) -> list[str]:
        """Go over a finished text: all but the `prompt` it begins with is masked and drawn anew, a share at a time.
        `how`: num_steps, share, again and what `draw` takes, see revising.refine. UserError: it is a GPT, or no fit."""
        head, tail = self.page(prompt, n), self.page(text.removeprefix(prompt), n)
        x = torch.cat([head, tail], dim=1)
        if not text.startswith(prompt) or x.size(1) > self.model.cfg.seq_len:
            raise UserError(f"refine takes {self.model.cfg.seq_len} tokens at most, which begin with the prompt")
        given = (torch.arange(x.size(1), device=x.device) < head.size(1)).expand_as(x)
        *_, x = self.write(x, "refine", given=given, **how)
        return [self.tokenizer.decode(row) for row in x]

    def page(self, text: str, n: int = 1) -> Int[Tensor, "n L"]:
        """`text` with its blanks as MASKs, n times. UserError: it is too long, or begins with a blank for a GPT."""
        x = canvas(text, self.tokenizer, LONGEST).repeat(n, 1).to(self.device)
        if self.kind == "gpt" and (x[:, :1] == self.mask_id).any():
            raise UserError("a GPT cannot fill a blank at the very beginning: put something before it")
        return x

    def score(self, text: str, samples: int = 128, seed: int = 0) -> Estimate:
        """-log p(text) in nats per token, the first token given: exact for a GPT, an upper bound for diffusion.

        Text longer than the window is cut into windows; what is left over at the end is not scored.
        """
        ids = torch.tensor(self.tokenizer.encode(text))
        if len(ids) < 2:
            raise UserError("the text is too short to score: it takes two tokens, the first is given")
        L = min(self.model.cfg.seq_len, len(ids))
        return self.score_windows(ids[: len(ids) // L * L].view(-1, L), samples, seed)

    def score_windows(self, x_0: Int[Tensor, "B L"], samples: int = 128, seed: int = 0) -> Estimate:
        """As `score`, for windows of ids. The same seed gives every model the same masks."""
        x_0 = x_0.to(self.device)
        if self.kind == "gpt":
            return Estimate.of(left_to_right_nll(self.model, x_0))
        rng = torch.Generator().manual_seed(seed)
        return estimate_nelbo(self.model, x_0, self.mask_id, samples, rng, given=1)


def load(name: str | Path, device: str = "cpu", precision: str = "float32", compile: bool = False) -> LanguageModel:
    """Load shipped weights by name, any folder with config.json and model.safetensors, or "owner/name" on the Hub.

    To write faster: precision "bfloat16", or "auto" for it where the hardware multiplies it fast, and `compile`
    (torch.compile: half a minute at the first texts). Score in float32, in which every likelihood here was measured.
    UserError, in one line: no such name or folder, a missing or truncated file, weights of another model.
    """
    folder = find(name)
    config, weights = read_json(folder / "config.json"), read_tensors(folder / "model.safetensors")
    try:
        cfg = TransformerConfig(**config["model"])
        tokenizer = tokenizer_from_json(config["tokenizer"])
        if cfg.vocab_size != len(tokenizer) + (not cfg.causal):
            raise ValueError(f"{len(tokenizer)} tokens, but a network for {cfg.vocab_size}")
        if cfg.n_layer > len(weights) or weights["embedding.weight"].shape != (cfg.vocab_size, cfg.d_model):
            raise ValueError("other sizes than the weights")  # and too large, perhaps, for this machine
        with torch.random.fork_rng(devices=[]):  # weights about to be replaced draw on nobody's chance
            model = Transformer(cfg)
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as e:
        raise UserError(f"{folder / 'config.json'} does not describe a model of this project ({e!r:.80})") from None
    fill(model, weights, folder)
    check({"precision": precision})
    device = pick_device(device)
    model.eval().to(device, torch.bfloat16 if wants_bfloat16(precision, device) else torch.float32)
    if compile:
        model.compile()
    return LanguageModel(model, tokenizer, config)


@torch.no_grad()
def fill(model: Transformer, weights: dict[str, Tensor], folder: Path) -> None:
    """Copy weights into a model of the same shape."""
    mine = dict(model.named_parameters())
    wrong = {name for name in mine.keys() | weights.keys() if name not in mine or name not in weights}
    wrong |= {name for name in mine.keys() & weights.keys() if mine[name].shape != weights[name].shape}
    if wrong:
        raise UserError(f"the weights in {folder} are of another model: {sorted(wrong)[0]} does not fit")
    for name, p in mine.items():
        p.copy_(weights[name])
        if not p.isfinite().all():
            raise UserError(f"the weights in {folder} are damaged: {name} holds numbers that are not finite")
