"""Extra: byte-pair encoding, from scratch

Question.  A model of characters spends its window on letters. Where do larger pieces come from?
Answer.    From counting. Join the two neighbours that stand together most often, call that a new piece, count again.

Written out here      train, encode, decode                       (compare BPETokenizer in microdlm/tokenizers.py)
Taken from earlier    nothing: it stands beside the ladder
Not the lesson        the rule that cuts text into words (GPT-2's), the corpus, the library to compare with, the figure

Run        python steps/extra_bpe.py                       seconds; nothing is trained by gradients
           python steps/extra_bpe.py --data shakespeare    or the path of any text file
Expect     the very merges of the library `tokenizers`, in its order, and its very ids on held-out text. How long the
           training text gets is known before it is encoded: each merge takes away as many tokens as it was counted.
Look at    the first merges, and how fast the later ones get rarer: each new piece buys less than the one before.
Break it   --break ties      of equally frequent pairs the last one is joined, not the first
           --break greedy    text is cut into the longest known pieces, whatever was learnt first: it looks right
           And by hand: count a pair that stands once. Where does training stop now?
Still missing   a reason to choose the number of pieces: nats per character can be compared, nats per token cannot.
"""

from collections import Counter, defaultdict
from functools import partial
from itertools import pairwise

import regex
from rich.table import Table

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson
from microdlm.tokenizers import END, GPT2_WORDS

SIZE, SMOKE = 1024, 300  # ids, END included; in a smoke run
WORDS = regex.compile(GPT2_WORDS)
# The bytes get their ids as GPT-2 gave them: the printable ones first. It decides between equally frequent pairs.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = bytes([*PRINTABLE, *(b for b in range(256) if b not in PRINTABLE)])
ID = {byte: i for i, byte in enumerate(BYTES)}
BREAKS = {
    "ties": "The merges part from the library's at the first tie. It is another vocabulary, and hardly a worse one.",
    "greedy": "The merges are the same and the ids are not: the model is fed pieces it has seldom or never seen there.",
}


def train(text: str, size: int, tie=min) -> tuple[list[bytes], dict[tuple[int, int], int], list]:
    """The pieces by id, the merges (left, right) -> joined in the order learnt, and how often each pair was counted.

    Of equally frequent pairs the one with the smallest ids is joined, as in `tokenizers`; a pair that stands only once
    is never joined. A merge touches only the words that hold the pair, so only these are counted again.
    """
    pieces, merges, counts = [bytes([b]) for b in BYTES], {}, []
    many = Counter(word for document in text.split(END) for word in WORDS.findall(document))
    spelt = {word: [ID[b] for b in word.encode()] for word in many}
    pairs, where = Counter(), defaultdict(set)

    def count(word: str, sign: int) -> None:
        for pair in pairwise(spelt[word]):
            pairs[pair] += sign * many[word]
            where[pair].add(word)

    for word in many:
        count(word, +1)
    while len(pieces) < size and (most := max(pairs.values(), default=0)) > 1:
        best = tie(pair for pair, n in pairs.items() if n == most)
        new = piece_of(pieces, best)
        merges[best] = new
        counts.append(most)
        for word in where.pop(best):
            count(word, -1)
            spelt[word] = joined(spelt[word], best, new)
            count(word, +1)
        del pairs[best]
    return pieces, merges, counts


def piece_of(pieces: list[bytes], pair: tuple[int, int]) -> int:
    """The id of what a pair spells: a new one, unless another pair spells the same."""
    spelling = pieces[pair[0]] + pieces[pair[1]]
    if spelling not in pieces:
        pieces.append(spelling)
    return pieces.index(spelling)


def joined(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """ids with every such pair replaced, from left to right: of three equal ones the first two are joined."""
    out = []
    for i in ids:
        if out and (out[-1], i) == pair:
            out[-1] = new
        else:
            out.append(i)
    return out


def encode(text: str, merges: dict[tuple[int, int], int]) -> list[int]:
    """The ids of a text: in each word the merge that was learnt first goes first, until none is left."""
    rank, words = {pair: n for n, pair in enumerate(merges)}, WORDS.findall(text)

    def spell(word: str) -> list[int]:
        ids = [ID[b] for b in word.encode()]
        while found := {pair for pair in pairwise(ids) if pair in rank}:
            first = min(found, key=rank.get)
            ids = joined(ids, first, merges[first])
        return ids

    known = {word: spell(word) for word in set(words)}  # a word is spelt once
    return [i for word in words for i in known[word]]


def longest_match(text: str, pieces: list[bytes]) -> list[int]:
    """For the break of that name: the longest piece that fits, and on. It needs no merges; that is what is wrong."""
    id_of, most, ids = {piece: i for i, piece in enumerate(pieces)}, max(map(len, pieces)), []
    for word in (word.encode() for word in WORDS.findall(text)):
        at = 0
        while at < len(word):
            size = next(n for n in range(most, 0, -1) if word[at : at + n] in id_of and at + n <= len(word))
            ids.append(id_of[word[at : at + size]])
            at += size
    return ids


def decode(ids: list[int], pieces: list[bytes]) -> str:
    return b"".join(pieces[i] for i in ids).decode()


def by_document(code, text: str, end_id: int) -> list[int]:
    """END, between documents, is no text and has an id of its own."""
    return [i for document in text.split(END) for i in (*code(document), end_id)][:-1]


def names(merges, pieces: list[bytes]) -> list[str]:
    """Merges as the library writes them down: a letter for each byte, a blank between left and right."""
    letters = sorted([chr(b) for b in PRINTABLE] + [chr(256 + n) for n in range(256 - len(PRINTABLE))])
    spell = {i: "".join(letters[ID[b]] for b in piece) for i, piece in enumerate(pieces)}
    return [f"{spell[left]} {spell[right]}" for left, right in merges]


def judge(lesson: Lesson, corpus, pieces, merges, counts, text: str) -> None:
    """Against the library, which has learnt from the same text."""
    library, end_id = corpus.tokenizer, corpus.tokenizer.end_id
    mine, theirs = names(merges, pieces), [*library.merges]
    same = next((n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    lesson.claim("the merges are the library's", mine == theirs, f"{same} of {len(theirs)}", "ties")
    held_out, by_merges = library.decode(corpus.val), partial(encode, merges=merges)
    code = partial(longest_match, pieces=pieces) if lesson.broken == "greedy" else by_merges
    ids, theirs = by_document(code, held_out, end_id), corpus.val.tolist()
    same = sum(a == b for a, b in zip(ids, theirs, strict=False))
    lesson.claim("held-out text: its very ids", ids == theirs, f"{same:,} of {len(theirs):,}", "ties greedy")
    back = END.join(decode(encode(part, merges), pieces) for part in held_out.split(END))
    lesson.claim("what was encoded comes back", back == held_out, f"{len(back):,} characters")
    tokens, least = len(by_document(by_merges, text, end_id)), shortest(text, counts)
    twice = sum(left == right for left, right in merges)  # 'aaa' counts for two pairs and is joined once
    holds = tokens == least if not twice else tokens >= least
    lesson.claim("the training text is as long as counted", holds, f"{tokens:,} tokens")
    lesson.number("merges", float(len(merges)), "merges learnt")
    lesson.number("chars", len(held_out) / len(ids), "characters per token, held-out text")


def shortest(text: str, counts: list[int]) -> int:
    """Tokens of the training text: its bytes, less what each merge was counted, and an END between documents."""
    documents = text.split(END)
    return sum(len(document.encode()) for document in documents) - sum(counts) + len(documents) - 1


def main(cfg: Config) -> None:
    lesson, size = Lesson("extra_bpe", cfg, BREAKS), SMOKE if cfg.smoke else SIZE
    corpus = load_corpus(cfg.data, "bpe", n_chars=60_000 if cfg.smoke else 1_000_000, vocab_size=size)
    text = corpus.tokenizer.decode(corpus.train)
    pieces, merges, counts = train(text, size - 1, max if lesson.broken == "ties" else min)
    lesson.predict("the training text, encoded", f"{shortest(text, counts):,} tokens, of {len(text.encode()):,} bytes")
    table = Table.grid(padding=(0, 2))
    for n in sorted({*range(8), len(merges) - 1}):
        new = [*merges.values()][n]
        table.add_row(f"  {n + 1}", repr(pieces[new].decode(errors="replace")), f"[dim]{counts[n]:,} times")
    lesson.say("\nThe first merges, and the last", table)
    judge(lesson, corpus, pieces, merges, counts, text)
    with figure(lesson.path(".png")) as (_, ax):
        ax.loglog(range(1, len(counts) + 1), counts, color=COLOURS["exact"])
        ax.set(xlabel="merge", ylabel="tokens it takes away", title="Each piece buys less than the one before")
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
