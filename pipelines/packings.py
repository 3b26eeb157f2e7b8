"""In which ways are a recipe's streams cut into samples?

One *packing* with samples of `sequence.length` and one more for every length of `sequence.also`; or, with a curriculum,
one for each of its phases. One tokenization and one order of documents serve them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winnow.pipelines.recipe import Recipe, Sequence_
    from winnow.tokenize.encoder import Vocabulary

ROUNDING = Fraction(1, 10**6)
"""What the shares of a curriculum may miss 1 by: three thirds are written with so many digits."""


@dataclass(frozen=True, slots=True)
class Packing:
    """One way to cut the streams of a run into samples."""

    name: str
    """`2048`, `phase-1`: part of names of stages and files."""
    length: int
    """Tokens a sample."""
    begin: Fraction = Fraction(0)
    end: Fraction = Fraction(1)
    """Of every source's training stream; a held-out stream belongs to every packing as a whole."""

    @property
    def share(self) -> float:
        """Of the training tokens."""
        return float(self.end - self.begin)

    def part(self, split: str, n_tokens: int) -> tuple[int, int]:
        """Tokens [begin, end) of a stream of `n_tokens` tokens; the parts of all phases are the stream."""
        if split != "train":
            return 0, n_tokens
        return int(self.begin * n_tokens), int(self.end * n_tokens)


def packings(sequence: Sequence_) -> list[Packing]:
    """The packings of a recipe whose `sequence` has no `contradictions`; the main one first."""
    if not sequence.curriculum:
        return [Packing(str(length), length) for length in (sequence.length, *sequence.also)]
    # From a share's digits, not its bits: 0.1 and 0.2 are 0.3 of the tokens.
    edges = [Fraction(0)]
    for phase in sequence.curriculum[:-1]:
        edges.append(min(edges[-1] + Fraction(repr(phase.share)), Fraction(1)))
    edges.append(Fraction(1))
    return [
        Packing(f"phase-{i}", phase.length, begin, end)
        for i, (phase, (begin, end)) in enumerate(
            zip(sequence.curriculum, pairwise(edges), strict=True), start=1
        )
    ]


def contradictions(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path, message) of what no single field of `sequence` shows."""
    sequence = recipe.sequence
    if sequence.curriculum:
        if total := _off(sequence.curriculum):
            yield ("sequence", "curriculum"), f"the shares of the phases sum to {total:g}, not to 1"
        if sequence.also:
            yield ("sequence", "also"), "with a curriculum, its phases alone say what lengths there are"
        return
    for i, length in enumerate(sequence.also):
        if length in (sequence.length, *sequence.also[:i]):
            yield ("sequence", "also", i), f"length {length:,} is there twice"


def _off(phases: Any) -> float | None:
    """What the shares sum to, where that is not 1."""
    total = sum((Fraction(repr(p.share)) for p in phases), Fraction(0))
    return None if abs(total - 1) <= ROUNDING else float(total)


def check_vocabulary(recipe: Recipe, vocabulary: Vocabulary) -> None:
    """Raises RecipeError (located) unless the tokenizer has the padding that the packing needs, and fits the model."""
    wanted, settings = vocabulary.max_id + 1, recipe.tokenizer
    if settings.model_vocab is not None and settings.model_vocab < wanted:
        raise recipe.located(
            ("tokenizer", "model_vocab"),
            f"a model of {settings.model_vocab:,} embeddings has none for the tokenizer's largest id, "
            f"{vocabulary.max_id:,}: it takes {wanted:,}",
        )
    if recipe.sequence.pack == "concat":
        return
    place, pad = ("tokenizer", "pad_token"), vocabulary.pad_id
    if pad is None:
        message = (
            f"pack: {recipe.sequence.pack} fills samples up, and {settings.name} has no padding token; name "
            "one of its special tokens that no document holds"
        )
        raise recipe.located(place, message)
    # Trainers leave padding out of the loss, and would leave these out with it.
    for role, id_, used in (
        ("ends", vocabulary.eos_id, True),
        ("begins", vocabulary.bos_id, settings.append in ("bos", "both")),
    ):
        if used and pad == id_:
            raise recipe.located(
                place,
                f"the padding token is the one that {role} documents: name another of its special tokens",
            )
    chats = {name: s.read.chat for name, s in recipe.sources.items() if s.read.chat is not None}
    if not chats:
        return
    from winnow.tokenize.chat_templates import control_tokens

    for name, chat in chats.items():
        for token in control_tokens(chat):
            if vocabulary.controls.get(token) == pad:
                message = f"the padding token {token!r} is a control token of the chat {name!r}: name another"
                raise recipe.located(place, message)
