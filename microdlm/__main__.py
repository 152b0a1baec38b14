"""Write, fill in, mend and score with a trained model; race it; take it elsewhere.

    microdlm generate --prompt "ROMEO:"
    microdlm infill "ROMEO: ____ love {9}."      each _ is a blank, {9} is nine
    microdlm refine "ROMEO: what light through yonder window"
    microdlm score "To be, or not to be."
    microdlm race
    microdlm export shakespeare-gpt gpt.onnx
    microdlm push runs/mine owner/name

A model is a name that ships, a folder, or owner/name on the Hugging Face Hub.
"""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from microdlm import cli
from microdlm.errors import UserError

MODEL = "shakespeare-diffusion"


def word(called: str):
    """An argument without a name, shown as `called`."""
    return tyro.conf.Positional, tyro.conf.arg(metavar=called)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What all that write are asked for."""

    model: str = MODEL  # a name that ships, a folder, or owner/name on the Hugging Face Hub
    n: int = 1  # how many texts
    num_steps: int | None = None  # steps to write a window in; default: the sampler's (a GPT takes one for each token)
    temperature: float = 0.8  # 1: as learned; lower: safer; 0: always the most probable
    top_k: int | None = None  # draw from the k most probable tokens only
    top_p: float | None = None  # draw from the smallest set that holds this much probability
    seed: int = 0  # of everything random

    def how(self, *more: str) -> dict:
        """The options that were given, as `LanguageModel` takes them."""
        names = ("n", "num_steps", "temperature", "top_k", "top_p", "seed", *more)
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        cli.check(given | {"texts": self.n})
        return given


@dataclass(frozen=True, kw_only=True)
class Generate(Writing):
    """Write texts from their beginning."""

    prompt: str = r"\n"  # what each text begins with; \n is a line break
    length: int | None = None  # tokens of text, prompt included; default: the whole window
    sampler: str | None = None  # how it writes; default: confidence (a GPT can only go left_to_right)

    def __call__(self) -> None:
        show(load(self.model).generate(prompt=with_breaks(self.prompt), **self.how("length", "sampler")))


@dataclass(frozen=True, kw_only=True)
class Infill(Writing):
    """Fill the blanks of a text."""

    text: Annotated[str, *word("TEXT")]  # each _ is one blank, {9} is nine; \n is a line break
    sampler: str | None = None  # how it writes; default: confidence (a GPT can only go left_to_right)

    def __call__(self) -> None:
        show(load(self.model).infill(with_breaks(self.text), **self.how("sampler")))


@dataclass(frozen=True, kw_only=True)
class Refine(Writing):
    """Go over a finished text: a share is hidden and written anew, again and again."""

    text: Annotated[str, *word("TEXT")]  # a finished text; \n is a line break
    prompt: str = ""  # the beginning of the text, to be left as it is
    share: float = 0.1  # how much is hidden at a time
    again: Literal["random", "confidence"] = "random"  # which tokens: any, or those the model is least sure of

    def __call__(self) -> None:
        how = self.how("share", "again") | {"prompt": with_breaks(self.prompt)}
        show(load(self.model).refine(with_breaks(self.text), **how))


@dataclass(frozen=True)
class Score:
    """How probable a text is: nats per token, its first token given."""

    text: Annotated[str, *word("[TEXT]")] = ""  # \n is a line break
    file: Path | None = None  # in place of a text: a file of it
    model: str = MODEL  # a name that ships, a folder, or owner/name on the Hugging Face Hub
    samples: int = 128  # masks a window, for a diffusion model's bound
    seed: int = 0  # of the masks

    def __call__(self) -> None:
        cli.check(vars(self))
        if bool(self.text) == bool(self.file):
            raise UserError("score takes a text or a --file")
        lm = load(self.model)
        found = lm.score(read(self.file) if self.file else with_breaks(self.text), self.samples, self.seed)
        sign, what = ("", "exact") if lm.kind == "gpt" else ("≤ ", "an upper bound")
        print(f"{sign}{found.mean:.4f} ± {found.stderr:.4f} nats, {sign}{found.bits:.4f} bits per token ({what})")


@dataclass(frozen=True)
class Race:
    """Watch a diffusion model and a GPT write. visualize.py --help has more to watch."""

    prompt: str = "ROMEO:"  # what both begin with; \n is a line break
    length: int = 240  # tokens of text, the prompt included
    steps: int = 32  # diffusion: steps to write a window in
    seed: int = 0  # of everything random
    plain: bool = False  # words in place of pictures: for a screen reader

    def __call__(self) -> None:
        from microdlm.runs import ROOT

        cli.check(vars(self))
        if not (ROOT / "visualize.py").is_file():
            raise UserError("the race is run by visualize.py, which only a clone of the project has: run it there")
        visualize = runpy.run_path(str(ROOT / "visualize.py"))
        visualize["main"](visualize["Config"](**vars(self) | {"steps": (self.steps,)}))


@dataclass(frozen=True)
class Export:
    """Write a model as an ONNX file in float32: ids in, logits out."""

    model: Annotated[str, *word("MODEL")]  # a name that ships, a folder, or owner/name on the Hugging Face Hub
    out: Annotated[Path, *word("FILE")]  # the file to write

    def __call__(self) -> None:
        lm = load(self.model)
        if self.out.exists() or not self.out.parent.is_dir():
            raise UserError(f"{self.out} cannot be written: name a new file in a folder that is there")
        try:
            import onnxscript  # noqa: F401

            from microdlm.exporting import export
        except ImportError as e:
            raise UserError(f"export needs {e.name}: pip install 'microdlm[web]'") from None
        export(lm, self.out)
        print(f"wrote {self.out}, {self.out.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


@dataclass(frozen=True)
class Push:
    """Put a model on the Hugging Face Hub, with a card of what was measured."""

    model: Annotated[str, *word("MODEL")]  # a name that ships, or a folder
    to: Annotated[str, *word("OWNER/NAME")]  # owner/name
    numbers: Path | None = None  # held-out scores for the card, by python -m microdlm.comparison --out
    private: bool = False  # only for you to see

    def __call__(self) -> None:
        from microdlm.publishing import push

        print(push(self.model, self.to, self.numbers, self.private))


@dataclass(frozen=True)
class Config:
    command: Annotated[Generate | Infill | Refine | Score | Race | Export | Push, tyro.conf.arg(name="")]


def load(model: str):
    from microdlm import pretrained  # torch takes a second; --help should not

    return pretrained.load(model)


def show(texts: list[str]) -> None:
    print("\n---\n".join(texts))


def with_breaks(text: str) -> str:
    return text.replace(r"\n", "\n")


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read as a text ({type(e).__name__}): give a file in UTF-8") from None


def main() -> None:
    sys.argv[0] = "microdlm"  # as it is called, even by python -m microdlm
    cli.run(lambda cfg: cfg.command(), Config, __doc__)


if __name__ == "__main__":
    main()
