"""What is each document's MinHash signature?

A stage per source: it depends on the text and on how signatures are made, and on nothing else (not on the other sources
of the group, not on what exact dedup dropped, not on bands and rows), so that a source that is added is the only one
that is signed, and a later run can be compared with this one without its text.

Per split, flat files of all documents that the filters, and a step that cut text before, have left: `signed-*.bin`, a
row of SIGNED each, and `signatures-*.bin`, their slots. A document without a signature (datatrove's hash gives none to
a document that is shorter than a shingle) is in neither.

Memory: an Arrow batch of text, its copies, and `PORTION_BYTES` of signatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.minhash_settings import MinHash
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name, offsets
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, step_of, texts_of
from winnow.shards import arrays, exchange, storage

VERSION = 1
PORTION_BYTES = 16 << 20
"""Of signatures that are held at a time."""
SIGNED = np.dtype([("row", "<u4"), ("length", "<u4")])
"""A document's row in its split, and the bytes of its text as it was signed."""


@dataclass(frozen=True, slots=True)
class Signing:
    """How signatures are made, and cut into bands."""

    settings: MinHash
    seed: int

    @classmethod
    def of(cls, settings: MinHash, seed: int) -> Signing:
        """By the settings' own seed, or else by the recipe's."""
        own = settings.resolved.seed
        return cls(settings, seed if own is None else own)

    @property
    def identity(self) -> dict[str, Any]:
        """What signatures depend on, beside the text."""
        s = self.settings
        return {
            "ngram": s.ngram,
            "unit": s.unit,
            "hash": s.resolved.hash,
            "slots": s.resolved.slots,
            "seed": self.seed,
        }

    @property
    def dtype(self) -> np.dtype:
        """Of a slot."""
        return np.dtype("<u8" if self.settings.resolved.hash == "datatrove" else "<u4")

    @property
    def document_bytes(self) -> int:
        """Of a signature."""
        return self.settings.resolved.slots * self.dtype.itemsize

    @property
    def portion(self) -> int:
        """Signatures that are held at a time."""
        return max(1, PORTION_BYTES // self.document_bytes)

    def sign(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        """dtype[n, slots], and bool[n]: which of them are signatures."""
        if self.settings.resolved.hash == "datatrove":
            from winnow.filters import datatrove_minhash

            s = self.settings
            return datatrove_minhash.signatures(texts, ngram=s.ngram, slots=s.resolved.slots, seed=self.seed)
        from winnow.filters import minhash

        return minhash.signatures(texts, self.settings, self.seed), np.ones(len(texts), bool)

    def band_keys(self, signatures: np.ndarray) -> np.ndarray:
        """uint64[n, bands]: what documents are compared by that agree in a band."""
        resolved = self.settings.resolved
        if resolved.hash == "datatrove":
            from winnow.filters import datatrove_minhash

            return datatrove_minhash.band_keys(signatures, resolved.bands, resolved.rows)
        from winnow.filters import minhash

        return minhash.band_keys(signatures, resolved.bands, resolved.rows)


def as_signed(standing: Standing) -> Standing:
    """The split as its signatures see it: behind the filters and the steps that cut text, whoever else was dropped."""
    return replace(standing, steps=tuple(s for s in standing.steps if step_of(s) == "lines"))


def signing_stage(source: str, splits: Sequence[Standing], signing: Signing) -> Stage:
    """The stage of a source's signatures."""
    first = as_signed(splits[0])
    upstream = [place.rstrip("/").rsplit("/", 1)[-1] for place in (first.filters, *first.steps)]
    return Stage(f"signatures.{source}", VERSION, signing.identity, tuple(upstream))


def sign(source: str, splits: Sequence[Standing], signing: Signing) -> Work[Done]:
    """Sign the documents of a source, a task for each of its splits."""
    tasks = [Task(i, sign_task, SignSpec(as_signed(s), signing)) for i, s in enumerate(splits)]
    return (yield Request(signing_stage(source, splits, signing), tasks))


@dataclass(frozen=True, slots=True)
class SignSpec:
    standing: Standing
    signing: Signing


def sign_task(spec: SignSpec, outputs: Outputs) -> dict[str, Any]:
    """Sign the documents of one split."""
    split, signing = spec.standing.split, spec.signing
    n_signed = 0
    with (
        outputs.file(name("signed", split, "bin")) as rows_path,
        outputs.file(name("signatures", split, "bin")) as signatures_path,
        open(rows_path, "wb") as rows_file,
        open(signatures_path, "wb") as signatures_file,
    ):
        for batch in texts_of(spec.standing):
            lengths = np.diff(offsets(batch.texts))
            for first in range(0, len(batch.texts), signing.portion):
                texts = batch.texts.slice(first, signing.portion)
                signatures, has_one = signing.sign(texts)
                rows = np.empty(len(texts), SIGNED)
                rows["row"] = batch.where[first : first + len(texts)]
                rows["length"] = lengths[first : first + len(texts)]
                arrays.write(rows_file, rows[has_one])
                arrays.write(signatures_file, signatures if has_one.all() else signatures[has_one])
                n_signed += int(has_one.sum())
    return {"documents": n_signed}


@dataclass(frozen=True, slots=True)
class Signed:
    """The signatures of a split."""

    location: str
    """Of their stage."""
    split: int
    signing: Signing

    def rows(self) -> np.ndarray:
        """SIGNED[n]: all documents that have a signature, by row."""
        place = storage.join(self.location, name("signed", self.split, "bin"))
        return np.frombuffer(storage.read_bytes(place), SIGNED)

    def read(self, first: int, stop: int) -> np.ndarray:
        """dtype[stop - first, slots]: the signatures of some consecutive ones of them."""
        place = storage.join(self.location, name("signatures", self.split, "bin"))
        slots = self.signing.settings.resolved.slots
        out = np.empty((stop - first, slots), self.signing.dtype)
        exchange.read_array(place, first * self.signing.document_bytes, out.reshape(-1))
        return out

    def pick(self, wanted: np.ndarray) -> np.ndarray:
        """dtype[n, slots]: the signatures of those at places `wanted`, int64[n] ascending.

        Memory: the result and a portion.
        """
        out = np.empty((len(wanted), self.signing.settings.resolved.slots), self.signing.dtype)
        portions = wanted // self.signing.portion
        edges = np.flatnonzero(np.diff(portions, prepend=-1))
        for a, b in zip(edges, [*edges[1:], len(wanted)], strict=True):
            mine = wanted[a:b]
            out[a:b] = self.read(int(mine[0]), int(mine[-1]) + 1)[mine - mine[0]]
        return out


def portions(signed: Signed, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(places, band keys uint64[m, bands]) of the documents at places `wanted`, a portion at a time."""
    for first in range(0, len(wanted), signed.signing.portion):
        mine = wanted[first : first + signed.signing.portion]
        yield mine, signed.signing.band_keys(signed.pick(mine))
