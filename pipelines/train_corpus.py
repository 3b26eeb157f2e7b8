"""What does the trainer take from a run?

The blocks of `streams.yaml` as they are; the facts it needs of the tokenizer; and held-out rows with the bytes
that their tokens spell. Before a training begins, every shard that an index names must be there at its size: a
trainer's library ends an epoch early and without an error where one is missing (mosaicml-streaming 0.13).

Memory: the held-out rows, about `heldout_tokens` for each source.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from winnow.pipelines.document_ends import written_inside
from winnow.pipelines.finished import FinishedRun, open_run
from winnow.pipelines.records import canonical
from winnow.pipelines.tokens import load_vocabulary, spelling
from winnow.pipelines.train_settings import TrainError, TrainInputError
from winnow.shards import loss_mask, mds, storage

BLOCKS = {"train": "train_loader", "val": "eval_loader"}
SHOWN_PROBLEMS = 5
PADDED = ("pad", "best-fit")
"""Packings whose rows are filled up."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What ids mean to a trainer."""

    sha256: str
    """Of the vocabulary."""
    max_id: int
    model_vocab: int | None
    bos_id: int | None
    eos_id: int | None
    append: str
    """What stands around every document: eos, bos, both or none."""
    pad_id: int | None
    """What rows are filled up with; None where none are."""
    inside: str | None = None
    """A source of conversations that have the token inside which is to tell documents apart."""

    def documents(self, rows: np.ndarray) -> np.ndarray:
        """Which document of its row a token belongs to: int64[B, L], from 0. The EOS belongs to the one it ends.

        rows : uint[B, L], as in all methods with or without the bit of loss_mask.py.

        Raises TrainInputError where nothing marks a document's end.
        """
        rows = loss_mask.ids_of(rows)
        if self.append == "none":
            raise TrainInputError("append is none: nothing in the tokens tells where a document ends")
        if self.inside is not None:
            raise TrainInputError(
                f"a chat template of {self.inside} writes the {'BOS' if self.append == 'bos' else 'EOS'} within "
                "conversations, too: nothing in the tokens tells where a document ends"
            )
        if self.append == "bos":
            return np.cumsum(rows == self.bos_id, axis=1)
        ends = np.cumsum(rows == self.eos_id, axis=1)
        return np.pad(ends[:, :-1], ((0, 0), (1, 0)))

    def check(self, rows: np.ndarray) -> None:
        """Raises TrainError for an id that the tokenizer does not have."""
        if (largest := int(loss_mask.ids_of(rows).max())) > self.max_id:
            raise TrainError(
                f"token id {largest:,} came, the tokenizer's largest is {self.max_id:,}: a shard is damaged "
                "(winnow verify tells which)"
            )

    def predicted(self, rows: np.ndarray) -> np.ndarray:
        """bool[B, L - 1]: is the token after each of the first L - 1 predicted? All are but padding and prompts."""
        following = rows[:, 1:]
        trained = loss_mask.mask_of(following).astype(bool)
        return trained if self.pad_id is None else trained & (following != self.pad_id)

    def count(self, rows: np.ndarray) -> int:
        """Tokens of documents in some rows."""
        return rows.size if self.pad_id is None else int((loss_mask.ids_of(rows) != self.pad_id).sum())


@dataclass(frozen=True, slots=True)
class Heldout:
    """Rows of one source that are evaluated."""

    source: str
    rows: np.ndarray
    """uint16 or uint32 [n, L], with the bit of loss_mask.py where the shards have a mask."""
    text_bytes: int
    """Of text that the predicted tokens spell."""


class TrainingRun:
    """A finished run, seen by a trainer. Raises NotFinishedError, SchemaError as `open_run`."""

    def __init__(self, location: str):
        self.run: FinishedRun = open_run(location)
        self.location = self.run.location
        self.facts: dict[str, Any] = self.run.mixture
        self.name: str = self.facts["name"]

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer's part."""
        facts = self.facts["tokenizer"]
        vocabulary = load_vocabulary(self.run.tokenizer)
        padded = self.facts.get("pack") in PADDED
        append = self.run.recipe.tokenizer.append
        begins = append == "bos"
        marks = vocabulary.bos_id if begins else facts["eos_id"]
        return Tokens(
            vocabulary.sha256,
            facts["max_id"],
            facts.get("model_vocab"),
            vocabulary.bos_id,
            facts["eos_id"],
            append,
            facts["pad_id"] if padded else None,
            written_inside(self.run.recipe, vocabulary, marks, begins=begins),
        )

    @property
    def identity(self) -> str:
        """Changes when anything that a training reads does: a digest of the published files'."""
        return hashlib.sha256(canonical(self.run.manifest["published"])).hexdigest()

    @property
    def streams_yaml(self) -> str:
        return storage.join(self.location, "streams.yaml")

    @cached_property
    def _blocks(self) -> Mapping[str, Any]:
        import yaml
        from winnow.shards import plain_yaml

        try:
            blocks = plain_yaml.load(storage.read_bytes(self.streams_yaml))
        except yaml.YAMLError:
            blocks = None
        if not isinstance(blocks, dict):
            raise TrainInputError(f"{self.streams_yaml} is damaged: no YAML with the blocks of a loader")
        return blocks

    def dataset(self, split: str) -> Mapping[str, Any]:
        """The `dataset` of a split's block. Raises TrainInputError where `streams.yaml` has none."""
        block = self._blocks.get(BLOCKS[split])
        if not block:
            wanted = "held-out rows; give its sources heldout: {fraction: …}" if split == "val" else "rows"
            raise TrainInputError(f"{self.location} has no {wanted}")
        return block["dataset"]

    def places(self, split: str) -> dict[str, str]:
        """Where each stream's index and shards lie."""
        streams = self.dataset(split)["streams"]
        return {
            name: storage.join(stream.get("remote") or stream["local"], stream.get("split") or split)
            for name, stream in streams.items()
        }

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch of the mixture."""
        return int(self.dataset("train")["epoch_size"])

    @property
    def length(self) -> int:
        """Tokens a row of training."""
        return self.length_of("train")

    def length_of(self, split: str) -> int:
        """Tokens a row of a split."""
        return int(self.dataset(split)["max_seq_len"])

    @property
    def tokens_per_row(self) -> float:
        """Of documents, in the mean over an epoch: fewer than the length where rows are filled up."""
        return self.length * sum(share * _filled(source) for source, share in self._shares())

    def passes(self, tokens: int) -> dict[str, float]:
        """How often each source's rows are read by a training on so many tokens."""
        return {
            source["name"]: share * tokens / max(1.0, source["train"]["rows"] * self.length * _filled(source))
            for source, share in self._shares()
        }

    def _shares(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Sources that are drawn from, with their share."""
        for source in self.facts["sources"]:
            if source["proportion"] > 0 and source["train"]["rows"]:
                yield source, source["proportion"]

    def check_shards(self, split: str) -> None:
        """Raises TrainError when an index names a shard that is not there or has another size."""
        problems = [p for name, place in self.places(split).items() for p in shard_problems(place, name)]
        if problems:
            more = f" and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
            raise TrainError(
                f"{'; '.join(problems[:SHOWN_PROBLEMS])}{more} (winnow verify tells all; a run that was moved has to "
                "be published again: the same winnow run)"
            )

    def heldout(self, tokens: int) -> list[Heldout]:
        """About `tokens` tokens of every source's held-out rows, spread evenly over them.

        Raises TrainInputError where there are none, or where the tokenizer's pieces do not spell bytes;
        TrainError for shards that are not whole.
        """
        from winnow.shards.feed import open_dataset

        sizes, prefix = spelling(self.run.tokenizer)
        if sizes is None:
            raise TrainInputError(
                f"{self.name}: this tokenizer's pieces do not tell how many bytes they spell"
            )
        names = list(self.dataset("val")["streams"])
        self.check_shards("val")
        dataset = open_dataset(self.streams_yaml, "val", batch_size=1)
        found = []
        for name, first, n in zip(
            names, dataset.sample_offset_per_stream, dataset.samples_per_stream, strict=True
        ):
            picked = evenly(int(n), -(-tokens // self.length_of("val")))
            rows = np.stack([flagged_row(dataset[int(first) + i]) for i in picked])
            self.tokens.check(rows)
            found.append(Heldout(name, rows, spelled_bytes(rows, self.tokens, sizes, prefix)))
        return found


def need_streaming() -> types.ModuleType:
    """mosaicml-streaming, which brings torch. Raises TrainInputError naming the extra where it is missing."""
    from winnow.shards.feed import import_streaming

    try:
        return import_streaming()
    except ImportError as error:
        raise TrainInputError(str(error)) from error


def heldout_rows(source: TrainingRun, heldout: str | None, tokens: int) -> list[Heldout]:
    """The rows to evaluate. Raises TrainInputError where the tokenizer or the length of rows is another."""
    if heldout is None:
        has_rows = any(facts["val"]["rows"] for facts in source.facts["sources"])
        return source.heldout(tokens) if has_rows else []
    other = TrainingRun(heldout)
    check_same_tokens(source, other, "val")
    return other.heldout(tokens)


def check_same_tokens(a: TrainingRun, b: TrainingRun, split: str) -> None:
    """Raises TrainInputError where ids or rows of `a`'s training are not of the kind of `b`'s split."""
    if a.tokens.sha256 != b.tokens.sha256:
        names = " and ".join(f"{r.location} has {r.facts['tokenizer']['name']}" for r in (a, b))
        raise TrainInputError(f"the runs' tokenizers differ: {names} (by the vocabularies' sha256)")
    if a.tokens.append != b.tokens.append:
        raise TrainInputError(
            f"the runs' documents end differently: append is {a.tokens.append} in {a.location}, {b.tokens.append} in "
            f"{b.location}"
        )
    length = b.length_of(split)
    if a.length != length:
        raise TrainInputError(
            f"the runs' rows differ: {a.length:,} tokens in {a.location}, {length:,} in {b.location}; a model sees "
            "more context in the longer"
        )


def _filled(source: Mapping[str, Any]) -> float:
    """Share of a source's training rows that is documents' tokens."""
    train = source["train"]
    if not train.get("padding_tokens"):
        return 1.0
    # Documents' tokens are in the rows but for those left over.
    inside = train["tokens"] - train.get("remainder_tokens", 0)
    return inside / (inside + train["padding_tokens"])


def evenly(n: int, wanted: int) -> list[int]:
    """`wanted` of 0 … n - 1, or all: evenly spread, so that one long document is not all there is."""
    wanted = min(n, wanted)
    return [i * n // wanted for i in range(wanted)]


def spelled_bytes(rows: np.ndarray, tokens: Tokens, sizes: np.ndarray, prefix: int) -> int:
    """Bytes of text that the predicted tokens of some rows spell.

    Those are all but each row's first, prompts and padding. A control token spells none. The space that some
    tokenizers put before a text is none of the text's bytes: `prefix` is taken off behind a control token. Where
    documents have none around them, it stays.
    """
    predicted, rows = tokens.predicted(rows), loss_mask.ids_of(rows)
    before, after = rows[:, :-1], rows[:, 1:]
    total = int(sizes[after[predicted]].sum(dtype=np.int64))
    begins = (sizes[before] == 0) & (sizes[after] > 0) & predicted
    return total - prefix * int(begins.sum())


def flagged_row(sample: Mapping[str, Any]) -> np.ndarray:
    """uint16 or uint32 [L]: the tokens of a sample, with the bit of loss_mask.py where it has a mask."""
    tokens = np.array(sample["tokens"])
    mask = sample.get(loss_mask.COLUMN)
    return tokens if mask is None else loss_mask.flagged(tokens, mask)


def shard_problems(place: str, name: str) -> Iterator[str]:
    """What is wrong with the shards of a directory, as far as names and sizes tell."""
    try:
        entries = mds.read_index(storage.read_bytes(storage.join(place, mds.INDEX_NAME)))
    except (OSError, ValueError) as error:
        yield f"{name}: {place}/{mds.INDEX_NAME}: {getattr(error, 'strerror', None) or error}"
        return
    there = storage.list_files(place)
    for entry in entries:
        raw, stored = entry["raw_data"], entry["zip_data"] or entry["raw_data"]
        # The reader leaves a local stream's decompressed shards beside the stored ones, and then reads those.
        needed = [stored] if stored is raw or raw["basename"] not in there else [stored, raw]
        for file in needed:
            found = there.get(file["basename"])
            if found is None:
                yield f"{name}: shard {file['basename']} is missing in {place}"
            elif found != file["bytes"]:
                yield f"{name}: {place}/{file['basename']} has {found:,} bytes, its index says {file['bytes']:,}"
