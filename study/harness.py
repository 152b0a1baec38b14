"""Our models as models of EleutherAI's lm-evaluation-harness: pip install -c constraints.txt -e '.[harness]'

    import lm_eval, microdlm
    from study.harness import Harness

    lm_eval.simple_evaluate(model=Harness(microdlm.load("shakespeare-diffusion")), tasks=["lambada_openai"])

What the harness calls a log-likelihood is exact for a GPT. For a diffusion model it is *minus the bound in counts* of
the continuation, the context visible: never above the true value on average, and noisy, since masks are drawn. The same
seed gives the same masks to answers of the same length, so that the noise of a choice between them is small.
"""

from collections.abc import Iterator

import torch
from rich.progress import track

from microdlm.likelihood import estimate_nelbo
from microdlm.objectives import next_token_nll
from microdlm.pretrained import LanguageModel
from microdlm.terminal import console

try:
    from lm_eval.api.model import LM
except ImportError:  # what is below needs nothing of it; only the harness asks whose child a model is
    LM = object


class Harness(LM):
    """A `LanguageModel` that answers what the harness asks. Totals in nats, below zero."""

    def __init__(self, lm: LanguageModel, samples: int = 128, seed: int = 0, **how):
        """`samples`: masks for each continuation. `how`: a sampler and its options, for generate_until."""
        super().__init__()
        self.lm, self.samples, self.seed, self.how = lm, samples, seed, how

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """For each (context, continuation): log p(continuation | context), and whether writing it from left to right
        at temperature 0 gives just that."""
        return [self.judge(*r.args) for r in track(requests, "scoring", console=console, transient=True)]

    def loglikelihood_rolling(self, requests) -> list[float]:
        """For each (text,): log p(text). Every token is scored once, with half a window before it if there is."""
        texts = [self.ids("", *r.args) for r in requests]
        return [self.log_p(*ids) for ids in track(texts, "scoring", console=console, transient=True)]

    def generate_until(self, requests) -> list[str]:
        """For each (context, options): what is written after it, up to the first of options["until"]."""
        return [self.write(*r.args) for r in track(requests, "writing", console=console, transient=True)]

    def ids(self, context: str, continuation: str) -> tuple[list[int], int]:
        """The ids of both together, and how many of them are context. Spaces between belong to the continuation, as
        tokenizers like it. Of an empty context a GPT is given the end of the text before, or a line break."""
        tok, spaces = self.lm.tokenizer, len(context) - len(context.rstrip(" "))
        context, continuation = context[: len(context) - spaces], context[len(context) - spaces :] + continuation
        given = len(tok.encode(context))
        ids = tok.encode(context + continuation)
        if not given and self.lm.kind == "gpt":
            ids, given = ([tok.end_id] if tok.has_end else tok.encode("\n")) + ids, 1
        return ids, given

    def judge(self, context: str, continuation: str) -> tuple[float, bool]:
        ids, given = self.ids(context, continuation)
        return self.log_p(ids, given), self.is_greedy(ids, given)

    def log_p(self, ids: list[int], given: int) -> float:
        return -sum(self.nats(*view) for view in views(ids, given, self.lm.model.cfg.seq_len))

    @torch.no_grad()
    def nats(self, ids: list[int], given: int) -> float:
        """-log p(ids[given:] | ids[:given]): exact, or the bound."""
        x_0, n = torch.tensor([ids], device=self.lm.device), len(ids) - given
        if self.lm.kind == "gpt":  # the row before a token predicts it
            return n * next_token_nll(self.lm.model(x_0)[:, given - 1 :], x_0[:, given - 1 :]).item()
        rng = torch.Generator().manual_seed(self.seed)
        return n * estimate_nelbo(self.lm.model, x_0, self.lm.mask_id, self.samples, rng, given).mean

    def is_greedy(self, ids: list[int], given: int) -> bool:
        x_0 = torch.tensor([ids], device=self.lm.device)
        x = x_0.clone()
        x[:, given:] = self.lm.mask_id
        *_, x = self.lm.write(x, "left_to_right", temperature=0)
        return torch.equal(x, x_0)

    def write(self, context: str, options: dict) -> str:
        ids, given = self.ids(context, "")
        new, sampled = int(options.get("max_gen_toks", 256)), options.get("do_sample", True)
        x = torch.tensor([ids + [self.lm.mask_id] * new], device=self.lm.device)
        how = {"temperature": float(options.get("temperature", 0.0)) if sampled else 0.0} | self.how
        *_, x = self.lm.write(x, seed=self.seed, end_id=self.lm.tokenizer.end_id, **how)
        text = self.lm.tokenizer.decode(x[0, len(ids) :])
        stops = options.get("until") or []
        ends = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop in text]
        return text[: min(ends, default=len(text))]


def views(ids: list[int], given: int, L: int) -> Iterator[tuple[list[int], int]]:
    """Windows of at most L tokens, and how many of each are given: every token after the first `given` is scored once.

    >>> [(view, known) for view, known in views([0, 1, 2, 3, 4, 5, 6], 1, 4)]
    [([0, 1, 2, 3], 1), ([2, 3, 4, 5], 2), ([3, 4, 5, 6], 3)]
    """
    done = given
    while done < len(ids):
        end = min(len(ids), max(L, done + L // 2))
        start = max(0, end - L)
        yield ids[start:end], done - start
        done = end
