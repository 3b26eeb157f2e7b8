"""How does a trainer read the shards?

Makes the blocks that llm-foundry takes from YAML, and opens the same blocks with mosaicml-streaming
alone (the `train` extra). A block names *streams*, one directory of shards each. Either there is a
stream per source, with the share of an epoch's rows that it gives: the trainer mixes while it reads.
Or there is one mixed stream, read in the order it was written. `streams.yaml` holds

    train_loader, eval_loader    the main packing's; the second where rows are held out
    lengths                      the same two for each further length, by that
    curriculum                   duration and schedule, as llm-foundry's callback takes them

What the blocks avoid, and how, is told in docs/trainer.md; each was found by running the library.

No worker imports mosaicml-streaming (6 CPU seconds, with torch and transformers); nothing here does
before `import_streaming` is called.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winnow.shards import storage

CANONICAL_NODES = 128
"""MPT's setting. It fixes the order of rows whatever the number of nodes, as long as one of the two
divides the other."""
MOST_PICKS = 1 << 20
"""Choices the reader makes, one by one in Python, of which rows of a stream are in an epoch: about a second's."""
REMOTE_SCHEMES = ("s3", "gs", "oci", "sftp", "dbfs")
"""What mosaicml-streaming 0.13 downloads from and fsspec writes to. Azure's have other names in both."""

_TRAINER_ONLY = ("max_seq_len", "eos_token_id")  # llm-foundry's own; StreamingDataset does not know them
_LOADERS = {"train": "train_loader", "val": "eval_loader"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSpec:
    """One stream of a published corpus."""

    name: str
    """A label; unique in a block."""
    location: str
    """Path or URL of the directory that holds the split's directory. A path is made absolute: a
    trainer starts elsewhere."""
    split: str = "train"
    """The sub-directory with `index.json`."""
    samples: int
    """Rows in the split."""
    proportion: float
    """Share of an epoch's rows, relative to the other streams. Not used for held-out rows."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"stream {self.name!r} has no samples; a trainer refuses it")
        if not (math.isfinite(self.proportion) and self.proportion > 0):
            # At 0, the reader may still hand it a row left over by rounding.
            raise ValueError(f"stream {self.name!r} has proportion {self.proportion}; leave it out")
        scheme = self.location.partition("://")[0]
        if not storage.is_local(self.location) and scheme not in REMOTE_SCHEMES:
            known = ", ".join(REMOTE_SCHEMES)
            raise ValueError(f"stream {self.name!r}: a trainer cannot read {scheme}://, only {known}")


def import_streaming() -> types.ModuleType:
    """The module `streaming`, importable without torchvision. The only place that imports it.

    Its `__init__` also imports `streaming.vision` and `streaming.multimodal`, which need a
    torchvision built for the very torch that is installed; text needs neither. Both are entered as
    empty modules first, and stay empty for this process unless they were imported before. Raises
    ImportError naming the extra to install.
    """
    if sys.modules.get("streaming"):
        return sys.modules["streaming"]
    stubs = {name: types.ModuleType(name) for name in ("streaming.vision", "streaming.multimodal")}
    sys.modules.update(stubs)
    try:
        import streaming
    except ImportError as error:
        for name in stubs:
            del sys.modules[name]
        raise ImportError(f'mosaicml-streaming is needed ({error}): pip install "winnow[train]"') from error
    return streaming


def train_loader(
    streams: Sequence[StreamSpec],
    epoch_size: int,
    seq_len: int,
    seed: int,
    eos_id: int | None = None,
    *,
    rows_per_shard: int = 1 << 14,
    validate_hash: str | None = "xxh64",
    cache: str = "/tmp/winnow-cache",
) -> dict[str, Any]:
    """The `train_loader` block: shuffled rows, mixed by proportion.

    Parameters
    ----------
    epoch_size : rows of one epoch over all streams; a stream with fewer rows than its share repeats.
    seq_len : tokens a row.
    seed : of the order of rows.
    eos_id : adds `eos_token_id`, from which llm-foundry makes `sequence_id` for MPT; it must be the
        tokenizer's.
    rows_per_shard : how many rows of a partly used stream are taken from a remote shard at a time; whole
        shards spare downloads. Local streams are sampled row by row, large ones by a few rows.
    validate_hash : one of the hashes that the shards were written with; checked on download.
    cache : directory on the trainer's nodes for shards of remote streams.

    Returns plain dicts, lists, strings and numbers, ready for YAML. Raises ValueError for no stream,
    two of one name or place, and `epoch_size` or `seq_len` below 1.
    """
    if epoch_size < 1:
        raise ValueError(f"epoch_size must be at least 1 row, not {epoch_size}")
    mapping = _stream_mapping(streams, cache)
    for stream in streams:
        mapping[stream.name]["proportion"] = float(stream.proportion)
    remote = any("remote" in stream for stream in mapping.values())
    largest = max(stream.samples for stream in streams)
    # An epoch that the canonical nodes do not divide repeats up to one row for each of them: less
    # than 0.1 % from 1024 rows a node on, too much for a small corpus, which gets one node.
    nodes = CANONICAL_NODES if epoch_size >= CANONICAL_NODES << 10 else 1
    dataset = {
        "streams": mapping,
        "epoch_size": epoch_size,
        "shuffle": True,
        "shuffle_algo": "py1e",
        "shuffle_seed": seed,
        "num_canonical_nodes": nodes,
        # "stratified" rounds a batch's composition and cuts the epoch to fit.
        "batching_method": "random",
        "sampling_granularity": rows_per_shard if remote else -(-largest // MOST_PICKS),
        **_reading(seq_len, validate_hash, eos_id),
    }
    return _loader(dataset, drop_last=True)


def mixed_loader(
    stream: StreamSpec,
    seq_len: int,
    eos_id: int | None = None,
    *,
    validate_hash: str | None = "xxh64",
    cache: str = "/tmp/winnow-cache",
) -> dict[str, Any]:
    """The `train_loader` block of a mixed stream: every row once, in the order they were written.

    Global batch i of B rows is rows i·B to (i+1)·B, on any number of nodes, devices and workers. Parameters as
    `train_loader`; the stream's proportion is not used.
    """
    dataset = {
        "streams": _stream_mapping([stream], cache),
        "epoch_size": stream.samples,
        "shuffle": False,
        # With more, or by default on more nodes, a batch is put together from as many places of the epoch.
        "num_canonical_nodes": 1,
        "batching_method": "random",
        "sampling_granularity": 1,
        **_reading(seq_len, validate_hash, eos_id),
    }
    return _loader(dataset, drop_last=True)


def curriculum(phases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What llm-foundry's callback `curriculum_learning` takes, from the `train_loader` block of each phase.

    Since version 0.13 of llm-foundry the callback has the first phase's `duration`, that phase being the run's own
    `train_loader`, and for each further one `duration` and `dataset`, whose keys replace the loader's. A phase lasts
    the tokens of one epoch of its block. `max_duration` must be the sum, and be given in tokens too.

    Raises ValueError for fewer than two phases.
    """
    if len(phases) < 2:
        raise ValueError(f"a curriculum has two phases or more, not {len(phases)}")
    datasets = [block["dataset"] for block in phases]
    durations = [f"{d['epoch_size'] * d['max_seq_len']}tok" for d in datasets]
    schedule = [
        {"duration": duration, "dataset": dataset}
        for duration, dataset in zip(durations[1:], datasets[1:], strict=True)
    ]
    return {"duration": durations[0], "schedule": schedule}


def rows_drawn(streams: Sequence[StreamSpec], epoch_size: int, seed: int) -> dict[str, int]:
    """How many rows of each stream the reader draws in an epoch of `train_loader`, by name.

    The arithmetic of StreamingDataset 0.13 (`Stream.apply_weights`): shares are floored, and streams drawn by the
    seed give one row more until the epoch is full. Not counted: up to a row for each canonical node that the epoch's
    rows cannot be divided by, and for each device, given twice to make them divide.
    """
    import numpy as np

    shares = np.array([stream.proportion for stream in streams], np.float64)
    shares /= shares.sum()
    rows = (epoch_size * shares).astype(np.int64)
    missing = epoch_size - int(rows.sum())
    rows[np.random.default_rng(seed).choice(len(rows), missing, False)] += 1
    return dict(zip([stream.name for stream in streams], rows.tolist(), strict=True))


def eval_loader(
    streams: Sequence[StreamSpec],
    seq_len: int,
    eos_id: int | None = None,
    *,
    validate_hash: str | None = "xxh64",
    cache: str = "/tmp/winnow-cache",
) -> dict[str, Any]:
    """The `eval_loader` block: every row of every stream once, in order. Parameters as `train_loader`."""
    dataset = {
        "streams": _stream_mapping(streams, cache),
        "shuffle": False,
        **_reading(seq_len, validate_hash, eos_id),
    }
    return _loader(dataset, drop_last=False)


def open_dataset(
    streams_yaml: str | os.PathLike[str],
    split: str = "train",
    *,
    packing: str | int | None = None,
    batch_size: int = 8,
    **overrides: Any,
):
    """A StreamingDataset over a published corpus, with exactly its block's settings.

    Parameters
    ----------
    streams_yaml : path or URL of `streams.yaml`.
    split : "train" or "val".
    packing : a further length, or "phase-1", "phase-2", ... of a curriculum (`train` only); default: the main one.
    batch_size : rows a device, the same as the loader's.
    overrides : arguments of StreamingDataset that replace the block's.

    Its samples are {"tokens": uint16 or uint32 [seq_len], read-only}; cast a copy to int64 for torch. With the column
    `loss_mask` there is that, too: uint8 [seq_len], 1 for a token to train on.
    Raises ValueError for a split, packing or file that is not one, and for a block that allows pickles,
    ImportError without the `train` extra, and what StreamingDataset raises, TypeError for an unknown setting among it.
    """
    dataset = _dataset(os.fspath(streams_yaml), split, packing)
    if dataset.get("allow_unsafe_types"):
        raise ValueError(
            f"{streams_yaml} allows shards that run code when they are read (pickles); Winnow publishes none"
        )
    streaming = import_streaming()
    streams = [streaming.Stream(**stream) for stream in dataset["streams"].values()]
    left_out = ("streams", *_TRAINER_ONLY)
    arguments = {key: value for key, value in dataset.items() if key not in left_out}
    return streaming.StreamingDataset(streams=streams, batch_size=batch_size, **(arguments | overrides))


def lines_for_reading(streams_yaml: str | os.PathLike[str], *, masked: bool = False) -> str:
    """Python that streams a published corpus with mosaicml-streaming alone, Winnow not installed.

    masked : whether the shards have a loss mask, which then comes beside the tokens.
    """
    location = storage.absolute(os.fspath(streams_yaml))
    collate, labels = _TOKENS, ""
    if masked:  # what torch's losses and Hugging Face's models leave out is -100
        collate, labels = _TOKENS_AND_MASK, "; labels: tokens.masked_fill(loss_mask == 0, -100)"
    return _LINES.format(location=location, trainer_only=_TRAINER_ONLY, collate=collate, labels=labels)


def _stream_mapping(streams: Sequence[StreamSpec], cache: str) -> dict[str, dict[str, Any]]:
    if not streams:
        raise ValueError("a block needs at least one stream")
    mapping: dict[str, dict[str, Any]] = {}
    for stream in streams:
        if stream.name in mapping:
            raise ValueError(f"two streams are named {stream.name!r}")
        place = _place(stream, cache)
        if place in mapping.values():
            raise ValueError(f"stream {stream.name!r} reads the directory of another stream")
        mapping[stream.name] = place
    return mapping


def _place(stream: StreamSpec, cache: str) -> dict[str, Any]:
    """Where a stream is read from, in the keys of `Stream`."""
    location = storage.absolute(stream.location)
    if storage.is_local(stream.location):
        return {"local": location, "split": stream.split}
    # Named for its source, so that no other corpus's index is found there.
    digest = hashlib.sha256(location.encode()).hexdigest()[:16]
    return {"remote": location, "local": f"{cache.rstrip('/')}/{digest}", "split": stream.split}


def _reading(seq_len: int, validate_hash: str | None, eos_id: int | None) -> dict[str, Any]:
    if seq_len < 1:
        raise ValueError(f"seq_len must be at least 1 token, not {seq_len}")
    optional = {"validate_hash": validate_hash, "eos_token_id": eos_id}
    return {"max_seq_len": seq_len, **{key: value for key, value in optional.items() if value is not None}}


def _loader(dataset: dict[str, Any], *, drop_last: bool) -> dict[str, Any]:
    # Eight workers are llm-foundry's habit. In seconds: a failed shard otherwise hangs the loader.
    return {"name": "text", "dataset": dataset, "drop_last": drop_last, "num_workers": 8, "timeout": 600}


def _dataset(streams_yaml: str, split: str, packing: str | int | None) -> Mapping[str, Any]:
    """The dataset of one block of a file."""
    import yaml
    from winnow.shards import plain_yaml

    if split not in _LOADERS:
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")
    try:
        content = plain_yaml.load(storage.read_bytes(streams_yaml))
    except yaml.YAMLError:
        raise ValueError(f"{streams_yaml} is damaged: no YAML with the blocks of a loader") from None
    if not isinstance(content, dict):
        raise ValueError(f"{streams_yaml} has no {_LOADERS[split]!r} with a dataset")
    blocks: Any = content
    of_packing = ""
    if packing is not None:
        blocks, of_packing = _packings(content).get(str(packing)), f" for packing {str(packing)!r}"
    block = blocks.get(_LOADERS[split]) if isinstance(blocks, dict) else None
    if not isinstance(block, dict) or not isinstance(block.get("dataset"), dict):
        raise ValueError(f"{streams_yaml} has no {_LOADERS[split]!r} with a dataset{of_packing}")
    return block["dataset"]


def _packings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The blocks of every packing but the main one, by its name."""
    found = {str(length): blocks for length, blocks in (content.get("lengths") or {}).items()}
    if schedule := (content.get("curriculum") or {}).get("schedule"):
        phases = [content.get(_LOADERS["train"]), *schedule]
        found |= {f"phase-{i}": {_LOADERS["train"]: phase} for i, phase in enumerate(phases, 1)}
    return found


_TOKENS = """\
def collate(samples):  # tokens are read-only and unsigned; torch computes with int64
    return torch.stack([torch.from_numpy(sample["tokens"].astype("int64")) for sample in samples])"""
_TOKENS_AND_MASK = """\
def collate(samples):  # columns are read-only and unsigned; torch computes with int64
    return {
        column: torch.stack([torch.from_numpy(sample[column].astype("int64")) for sample in samples])
        for column in ("tokens", "loss_mask")
    }"""
_LINES = """\
# pip install "mosaicml-streaming==0.13.*" torch
import sys
import types

# Text needs neither of these two parts, and both need a torchvision that fits torch.
for part in ("streaming.vision", "streaming.multimodal"):
    sys.modules.setdefault(part, types.ModuleType(part))

import fsspec
import torch
import yaml
from streaming import Stream, StreamingDataLoader, StreamingDataset

with fsspec.open({location!r}) as file:
    settings = yaml.safe_load(file)["train_loader"]["dataset"]
streams = [Stream(**stream) for stream in settings.pop("streams").values()]
for name in {trainer_only!r}:  # llm-foundry's own
    settings.pop(name, None)


{collate}


dataset = StreamingDataset(streams=streams, batch_size=8, **settings)
loader = StreamingDataLoader(dataset, batch_size=8, collate_fn=collate)
print(next(iter(loader)))  # int64, 8 rows{labels}
"""
