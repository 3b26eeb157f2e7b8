"""What is a near-duplicate, and how is it found: the settings of MinHash deduplication.

A document is the set of its shingles (shingles.py), its signature has ``bands * rows`` slots (minhash.py), and
documents that agree in all rows of a band are candidates. Candidates are compared before anything is dropped, unless
`verify` says otherwise. Shingles here are of words or characters whatever the preset: Dolma 3 counted n-grams of a
tokenizer's tokens, and each project cleans text in its own way before it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from winnow.filters.minhash_split import MAX_SLOTS, cheapest, datasketch, implied_threshold


@dataclass(frozen=True, slots=True)
class Preset:
    """The published settings of a project."""

    bands: int
    rows: int
    threshold: float
    source: str


# preset -> bands, rows, threshold, where they are from
PRESETS = {
    "fineweb": Preset(14, 8, 0.75, "FineWeb, arXiv:2406.17557: 112 hashes, documents at least 75 % similar"),
    "dclm": Preset(93, 15, 0.8, "DCLM, arXiv:2406.11794: chosen to come near 450 x 20, Jaccard 0.8"),
    "dolma3": Preset(26, 11, 0.8, "Dolma 3: true Jaccard of at least 0.8 inside clusters"),
    "refinedweb": Preset(
        450, 20, 0.8, "RefinedWeb, arXiv:2306.01116, after Lee et al., arXiv:2107.06499: 0.8"
    ),
    "datatrove": Preset(
        14, 8, implied_threshold(14, 8), "datatrove 0.9.0, MinhashConfig; it compares nothing"
    ),
}
"""Preset -> its settings. All of them count 5-grams."""

USUAL_BANDS, LARGEST_FACTOR = 14, 8
DATATROVE_SEED = 1
"""datatrove 0.9.0's own default."""


class StopAbove(BaseModel):
    """When the step stops the run, with an error, rather than go on. None never does; all three are reported."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bucket: int | None = Field(default=None, ge=2)
    """Documents in one bucket: documents that agree in all rows of a band."""
    cluster: int | None = Field(default=None, ge=2)
    """Documents in one cluster: documents that a chain of shared buckets connects."""
    loss: float | None = Field(default=None, ge=0, le=1)
    """Share of a source's documents that this step drops."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings with every choice made: what the recipe does not say is filled in."""

    bands: int
    rows: int
    threshold: float
    """Jaccard similarity that a duplicate reaches, where it is verified."""
    verify: str
    cluster: str
    hash: str
    seed: int | None
    """None: the recipe's seed."""

    @property
    def slots(self) -> int:
        return self.bands * self.rows


class MinHash(BaseModel):
    """Which documents count as near-duplicates of which. Without any setting: FineWeb's preset.

    Bands and rows are said in one of four ways: `preset`; `bands` and `rows`; `threshold` and `min_recall`; `threshold`
    and ``split: datasketch``. What they come to is `resolved`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "minhash"

    preset: Literal["fineweb", "dclm", "dolma3", "refinedweb", "datatrove"] | None = None
    """A project's bands, rows and threshold (`PRESETS`); datatrove's also sets hash, seed, verify, cluster."""
    ngram: int = Field(5, ge=1, le=64)
    """Words, or characters, in a shingle. 5 words in every preset."""
    unit: Literal["words", "chars"] = "words"
    """What a shingle is made of: words, or the characters of the words joined by single spaces."""
    bands: int | None = Field(None, ge=1)
    """Bands of the signature; needs `rows`."""
    rows: int | None = Field(None, ge=1)
    """Slots in a band; needs `bands`."""
    threshold: float | None = Field(None, gt=0, le=1)
    """Jaccard similarity that a duplicate has to reach when it is verified. By default the preset's, otherwise the
    similarity that the split itself is steepest at, (1/bands)^(1/rows)."""
    min_recall: float | None = Field(None, gt=0, lt=1)
    """Share of the pairs at `threshold` that have to be found: bands and rows are the cheapest that do
    (minhash_split.cheapest)."""
    split: Literal["datasketch"] | None = None
    """Take the bands and rows that datasketch's MinHashLSH takes for `threshold` and `slots`."""
    slots: int | None = Field(None, ge=2, le=MAX_SLOTS)
    """Slots that ``split: datasketch`` may use; 128 by default, as datasketch's `num_perm`."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the hash functions; by default the recipe's, and datatrove's 1 with ``hash: datatrove``."""
    hash: Literal["winnow", "datatrove"] | None = None
    """How signatures are made: Winnow's own words and hash (minhash.py), or datatrove 0.9.0's, bit for bit, from
    spaCy's tokens (needs the extra `datatrove`, and is far slower)."""
    verify: Literal["exact", "estimate", "none"] | None = None
    """How a candidate is compared with the document it would be dropped for: by the exact Jaccard similarity of their
    shingle sets (default), by the share of slots in which their signatures agree, or not at all."""
    cluster: Literal["star", "component"] | None = None
    """What is dropped: a document near enough to one that stays (default), or all but one of every set of documents
    that shared buckets connect, however far apart they are, as datatrove does."""
    survivor_score: str | None = None
    """Signal that says which of several duplicates stays, after the order of their sources: the highest does. Without
    one, or where it is equal, the longest does."""
    anchors: int = Field(8, ge=1)
    """Documents that stay, of each bucket, that a candidate is compared with at most, in survivor order."""
    stop_above: StopAbove = StopAbove()
    """When to stop rather than go on."""

    @model_validator(mode="after")
    def _split_is_said_once(self) -> MinHash:
        if (self.bands is None) != (self.rows is None):
            given, missing = ("rows", "bands") if self.bands is None else ("bands", "rows")
            raise ValueError(f"{given} is given without {missing}: a split needs both")
        ways = [
            way
            for way, given in (
                ("preset", self.preset),
                ("bands and rows", self.bands),
                ("min_recall", self.min_recall),
                ("split", self.split),
            )
            if given is not None
        ]
        if len(ways) > 1:
            raise ValueError(
                f"{' and '.join(ways)} each say how many bands and rows there are: give one of them"
            )
        for setting in ("min_recall", "split"):
            if getattr(self, setting) is not None and self.threshold is None:
                raise ValueError(
                    f"{setting} needs a threshold: the similarity at which pairs are to be found"
                )
        if self.slots is not None and self.split is None:
            raise ValueError(
                "slots goes with `split: datasketch`; otherwise there are bands times rows of them"
            )
        resolved = self.resolved  # raises ValueError where no split does what is asked for
        if resolved.slots > MAX_SLOTS:
            raise ValueError(f"{resolved.bands} bands of {resolved.rows} rows are above {MAX_SLOTS} slots")
        return self

    @model_validator(mode="after")
    def _hash_fits(self) -> MinHash:
        if self.preset == "datatrove" and self.hash == "winnow":
            raise ValueError(
                "preset datatrove is made with datatrove's hash; for 14 x 8 with Winnow's: preset fineweb"
            )
        if self.resolved.hash == "datatrove" and self.unit != "words":
            raise ValueError(f"hash: datatrove knows words only, not unit: {self.unit}")
        return self

    @property
    def resolved(self) -> Resolved:
        """What these settings come to."""
        preset = PRESETS.get(self.preset or "")
        if self.bands is not None and self.rows is not None:
            bands, rows = self.bands, self.rows
        elif self.threshold is not None and self.min_recall is not None:
            bands, rows = cheapest(self.threshold, self.min_recall)
        elif self.threshold is not None and self.split is not None:
            bands, rows = datasketch(self.threshold, self.slots or 128)
        else:
            preset = preset or PRESETS["fineweb"]
            bands, rows = preset.bands, preset.rows
        threshold = self.threshold or (preset.threshold if preset else implied_threshold(bands, rows))
        as_datatrove = self.preset == "datatrove"
        hash_ = self.hash or ("datatrove" if as_datatrove else "winnow")
        return Resolved(
            bands=bands,
            rows=rows,
            threshold=threshold,
            verify=self.verify or ("none" if as_datatrove else "exact"),
            cluster=self.cluster or ("component" if as_datatrove else "star"),
            hash=hash_,
            seed=DATATROVE_SEED if self.seed is None and hash_ == "datatrove" else self.seed,
        )


def table_factor(bands: int) -> int:
    """How much larger the table of buckets is than for `USUAL_BANDS`: a document brings as many keys as bands."""
    factor = 1
    while factor < LARGEST_FACTOR and factor * USUAL_BANDS < bands:
        factor *= 2
    return factor


def memory_for(bands: int, held_bytes: int) -> int:
    """Bytes of one component's survivors (three quarters of `held_bytes` at most) and of its buckets.

    There is room for held_bytes / 256 keys, or up to eight times that with more than 14 bands: with 256 MiB and if no
    two documents shared a bucket, 75,000 documents at 14 bands, 90,000 at 93, 18,600 at 450.
    """
    return held_bytes * 3 // 4 + held_bytes * 28 // 128 * table_factor(bands)
