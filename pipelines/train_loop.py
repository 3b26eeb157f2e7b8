"""How does a small model learn from a run, and what does it make of text it has not seen?

`train` streams a run through StreamingDataset and StreamingDataLoader, counts the rows it gets, evaluates held-out bits
per byte of every source, and leaves in its directory:

    metrics.jsonl   a line per step, and one per evaluation
    checkpoint.pt   model, optimizer, place in the stream, random state
    loss.png        what became of both
    result.json     last of all: held-out bits per byte, tokens/s, settings, versions

Checkpoint and metrics are put in one step each, the checkpoint last, so a training that was killed goes on from the
last one with the same rows in the same order, and its losses are those of an undisturbed training.

**Bits per byte** of a source: the nats of all predicted tokens of its evaluated rows, divided by ln 2 and by the bytes
of the text that these tokens spell. A row's first token has nothing before it and is not predicted; control tokens
spell no bytes, but their nats count; padding and prompts (the column `loss_mask`) are neither.

Memory: the model four times (weights, gradients, AdamW's two moments), activations and logits of the rows that go
through it at a time, the metrics. Imports torch, so it is imported inside functions only.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Timeout
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import orjson
import torch
from winnow.pipelines import train_report
from winnow.pipelines import train_settings as rules
from winnow.pipelines.lease import Lease
from winnow.pipelines.train_corpus import (
    Heldout,
    Tokens,
    TrainingRun,
    flagged_row,
    heldout_rows,
    need_streaming,
)
from winnow.pipelines.train_device import chosen, described, precision
from winnow.pipelines.train_model import Decoder, token_nats
from winnow.pipelines.train_settings import TrainError, TrainInputError, TrainSettings
from winnow.pipelines.train_stop import Stopped, asked_to_stop
from winnow.shards import loss_mask, storage
from winnow.shards.feed import open_dataset

LOGITS_AT_A_TIME = {"cpu": 1 << 26, "cuda": 1 << 28}
"""Rows go through the model in as many parts as keep logits below this; the step is the same but for rounding."""
WAIT_SECONDS = 600.0
"""For a batch: a shard that never arrives is an error, not a wait."""
SAY_SECONDS = 5.0
SETTINGS, METRICS, CHECKPOINT, RESULT = "settings.json", "metrics.jsonl", "checkpoint.pt", "result.json"
PLOT = "loss.png"
PACKAGES = ("winnow", "torch", "mosaicml-streaming", "numpy")


def train(
    run: str,
    out: str,
    settings: TrainSettings,
    *,
    heldout: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train on a run, or go on where an interrupted training stopped; returns what result.json holds.

    Parameters
    ----------
    run : a finished run.
    out : directory or URL; it belongs to one training.
    heldout : the run whose held-out rows are evaluated; unless said the run itself, if it has any.
    device : "auto" (a GPU where there is one), "cpu" or "cuda".
    say : told a line every few seconds.

    Raises TrainInputError for what does not fit together, TrainError when shards are damaged or rows do not come,
    LeaseError where another process trains into `out`, Stopped after SIGINT or SIGTERM.
    """
    source = TrainingRun(run)
    target = chosen(device)
    identity = {
        "run": source.identity,
        "heldout": TrainingRun(heldout).identity if heldout else None,
        "device": target.type,
        "precision": str(precision(target)),
        **asdict(settings),
    }
    with Lease(out):
        if finished := _begin(out, identity):
            say(f"{out} is finished already")
            return finished
        source.check_shards("train")
        if settings.mask_documents:  # an error should not wait for the first step
            source.tokens.documents(np.zeros((1, source.length), np.uint16))
        judged = heldout_rows(source, heldout, settings.heldout_tokens)
        return Training(source, judged, out, settings, target, identity, say).complete()


@dataclass
class Training:
    """One training, from its first step or its checkpoint to its result."""

    source: TrainingRun
    judged: list[Heldout]
    out: str
    settings: TrainSettings
    device: torch.device
    identity: dict[str, Any]
    say: Callable[[str], None]
    step: int = 0
    rows: int = 0
    rows_of_epoch: int = 0
    """That came in the epoch the reader stands in."""
    tokens: int = 0
    seconds: float = 0.0
    """Of training alone: neither evaluation nor checkpoints."""
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings, source = self.settings, self.source
        self.ids: Tokens = source.tokens
        self.epoch_rows = source.epoch_rows
        self.wanted_rows = self.epoch_rows
        if settings.tokens is not None:
            self.wanted_rows = math.ceil(settings.tokens / source.tokens_per_row)
        self.steps = rules.steps_of(self.wanted_rows, self.epoch_rows, settings.batch)
        self.every = settings.every or max(1, math.ceil(self.steps / rules.EVALUATIONS))
        self.vocabulary = rules.embedding_rows(self.ids.max_id, self.ids.model_vocab)
        at_once = LOGITS_AT_A_TIME[self.device.type] // (source.length * self.vocabulary)
        self.rows_at_once = max(1, min(settings.batch, at_once))
        self.precision = precision(self.device)
        torch.manual_seed(settings.seed)
        self.model = Decoder(settings.shape, self.vocabulary).to(self.device)
        self.optimizer = _optimizer(self.model, settings.peak)
        seed = (source.dataset("train").get("shuffle_seed", 0) + settings.seed) % (1 << 31)
        dataset = open_dataset(source.streams_yaml, "train", batch_size=settings.batch, shuffle_seed=seed)
        self.loader = need_streaming().StreamingDataLoader(
            dataset, batch_size=settings.batch, collate_fn=_stacked, num_workers=0, drop_last=False
        )

    def complete(self) -> dict[str, Any]:
        """Train to the end, evaluate, and put the result."""
        self._restore()
        if self.judged and not any("heldout" in line for line in self.metrics):
            self._evaluate()
        with asked_to_stop() as stop:
            self._learn(stop)
        result = self._result()
        _put_json(self.out, RESULT, result)
        return result

    # ---- steps ----------------------------------------------------------------------------------------------

    def _learn(self, stop: list[int]) -> None:
        told = time.monotonic()
        while self.rows < self.wanted_rows:
            started = time.monotonic()
            for batch in self._epoch():
                self._learn_from(batch[: self.wanted_rows - self.rows])
                now = time.monotonic()
                self.seconds += now - started
                if now - told >= SAY_SECONDS:
                    told = now
                    self.say(self._state())
                ended = self.rows >= self.wanted_rows
                due = ended or self.step % self.every == 0
                if due or stop:
                    self._checkpoint(evaluate=due)
                    self.say(self._state())
                if ended:
                    return
                if stop:
                    raise Stopped(
                        f"interrupted after step {self.step:,} of {self.steps:,}; the same command continues"
                    )
                started = time.monotonic()

    def _epoch(self) -> Iterator[np.ndarray]:
        """The batches that are left of the epoch that the loader stands in. Raises TrainError when rows are missing."""
        # A batch is waited for beside the main thread: the reader may wait for ever for a shard.
        with _one_thread() as waiting:
            batches = iter(self.loader)
            while True:
                try:
                    batch = waiting.submit(next, batches, None).result(WAIT_SECONDS)
                except Timeout:
                    raise self._short(f"none for {WAIT_SECONDS:.0f} seconds") from None
                except Exception as error:
                    raise self._short(f"{type(error).__name__}: {error}") from error
                if batch is None:
                    break
                self.rows_of_epoch += len(batch)
                yield batch.numpy()
        # An epoch that its canonical nodes do not divide gives a few rows twice: more than due is no fault.
        if self.rows_of_epoch < self.epoch_rows:
            raise self._short("the reader ended without an error")
        self.rows_of_epoch = 0

    def _short(self, why: str) -> TrainError:
        """What to say when rows are missing: which shards are to blame, if that can be seen."""
        try:
            self.source.check_shards("train")
        except TrainError as error:
            why = f"{why}; {error}"
        return TrainError(f"{self.rows_of_epoch:,} of the epoch's {self.epoch_rows:,} rows came: {why}")

    def _learn_from(self, batch: np.ndarray) -> None:
        """One step on uint[B, L]."""
        self.ids.check(batch)
        count = int(self.ids.predicted(batch).sum())
        rate = rules.learning_rate(min(self.step, self.steps - 1), self.steps, self.settings.peak)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        nats = torch.zeros((), device=self.device)
        for part in np.split(batch, range(self.rows_at_once, len(batch), self.rows_at_once)):
            loss = self._nats(part).sum()
            (loss / max(1, count)).backward()
            nats += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), rules.CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mean = float(nats) / max(1, count)
        if not math.isfinite(mean):
            raise TrainError(
                f"the loss of step {self.step + 1:,} is no number; a smaller learning rate may help"
            )
        self.step += 1
        self.rows += len(batch)
        self.tokens += self.ids.count(batch)
        self.metrics.append(
            {"step": self.step, "rows": self.rows, "tokens": self.tokens, "loss": mean, "learning_rate": rate,
             "gradient_norm": float(norm)}
        )  # fmt: skip

    def _nats(self, rows: np.ndarray) -> torch.Tensor:
        """Nats of each predicted token of some rows, in one flat tensor."""
        tokens = torch.from_numpy(loss_mask.ids_of(rows).astype(np.int64)).to(self.device)
        documents = None
        if self.settings.mask_documents:
            documents = torch.from_numpy(self.ids.documents(rows)[:, :-1].copy()).to(self.device)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            hidden = self.model(tokens[:, :-1], documents)
            predicted = torch.from_numpy(self.ids.predicted(rows)).to(self.device)
            return token_nats(self.model, hidden[predicted], tokens[:, 1:][predicted])

    def _state(self) -> str:
        losses = [line["loss"] for line in self.metrics[-50:] if "loss" in line]
        line = f"step {self.step:,} of {self.steps:,}, {self.tokens:,} tokens, loss {np.mean(losses):.3f}"
        if "heldout" in self.metrics[-1]:
            line += f", held out {self.metrics[-1]['bits_per_byte']:.4f} bits per byte"
        return f"{line}, {self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s"

    # ---- evaluation -----------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Bits per byte of every held-out source, and of all together, as a line of the metrics."""
        self.model.eval()
        nats: dict[str, float] = {}
        with torch.no_grad():
            for held in self.judged:
                parts = np.split(held.rows, range(self.rows_at_once, len(held.rows), self.rows_at_once))
                nats[held.source] = sum(float(self._nats(part).double().sum()) for part in parts)
        of_bytes = {held.source: held.text_bytes for held in self.judged}
        bits = {name: bits_per_byte(nats[name], of_bytes[name]) for name in nats}
        whole = bits_per_byte(sum(nats.values()), sum(of_bytes.values()))
        self.metrics.append(
            {"step": self.step, "tokens": self.tokens, "heldout": bits, "bits_per_byte": whole}
        )

    def _result(self) -> dict[str, Any]:
        losses = [line["loss"] for line in self.metrics if "loss" in line]
        judged = [line for line in self.metrics if "heldout" in line]
        passes = self.source.passes(self.tokens)
        return {
            "run": self.source.location,
            "name": self.source.name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "vocabulary": self.vocabulary,
            "steps": self.step,
            "rows": self.rows,
            "tokens": self.tokens,
            "epochs": self.rows / self.epoch_rows,
            "passes": passes,
            "loss": float(np.mean(losses[-max(1, len(losses) // 20) :])),
            "heldout": judged[-1]["heldout"] if judged else {},
            "bits_per_byte": judged[-1]["bits_per_byte"] if judged else None,
            "heldout_bytes": {held.source: held.text_bytes for held in self.judged},
            "heldout_rows": {held.source: len(held.rows) for held in self.judged},
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "machine": described(self.device),
            "settings": self.identity,
            "versions": _versions(),
        }

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def _checkpoint(self, *, evaluate: bool) -> None:
        if evaluate and self.judged:
            self._evaluate()
        lines = b"".join(orjson.dumps(line) + b"\n" for line in self.metrics)
        storage.put_bytes(storage.join(self.out, METRICS), lines)
        train_report.put_plot(storage.join(self.out, PLOT), self.source.name, self.metrics)
        state = {
            "step": self.step,
            "rows": self.rows,
            "rows_of_epoch": self.rows_of_epoch,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "lines": len(self.metrics),
            "loader": self.loader.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        with storage.commit(storage.join(self.out, CHECKPOINT)) as path:
            torch.save(state, path)

    def _restore(self) -> None:
        """Go to the checkpoint, if there is one."""
        place = storage.join(self.out, CHECKPOINT)
        if not storage.exists(place):
            return
        with storage.open_input(place) as file:
            state = torch.load(file, map_location=self.device, weights_only=True)
        self.step, self.rows, self.tokens = state["step"], state["rows"], state["tokens"]
        self.rows_of_epoch, self.seconds = state["rows_of_epoch"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        self.loader.load_state_dict(state["loader"])
        lines = storage.read_bytes(storage.join(self.out, METRICS)).splitlines()
        self.metrics = [orjson.loads(line) for line in lines[: state["lines"]]]
        self.say(f"goes on after step {self.step:,} of {self.steps:,}")


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Nats as bits, a byte of text."""
    return nats / math.log(2) / max(1, text_bytes)


def _begin(out: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Make `out` this training's; its result if it is finished. Raises TrainInputError where it is another's."""
    place = storage.join(out, SETTINGS)
    if not storage.exists(place):
        _put_json(out, SETTINGS, identity)
    there = orjson.loads(storage.read_bytes(place))
    if differing := [key for key, value in identity.items() if there.get(key) != value]:
        key = differing[0]
        raise TrainInputError(
            f"{out} belongs to another training: its {key} is {there.get(key)}, not {identity[key]}; give another --out"
        )
    place = storage.join(out, RESULT)
    return orjson.loads(storage.read_bytes(place)) if storage.exists(place) else None


def _put_json(out: str, name: str, value: dict[str, Any]) -> None:
    storage.put_bytes(storage.join(out, name), orjson.dumps(value, option=orjson.OPT_INDENT_2))


def _stacked(samples: list[dict[str, np.ndarray]]) -> torch.Tensor:
    # A tensor, for StreamingDataLoader counts the rows of one; unsigned, for it is not computed with yet.
    return torch.from_numpy(np.stack([flagged_row(sample) for sample in samples]))


def _optimizer(model: Decoder, peak: float) -> torch.optim.AdamW:
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim == 2], "weight_decay": rules.WEIGHT_DECAY},
        {"params": [w for w in weights if w.ndim != 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak, betas=rules.BETAS)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@contextlib.contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread that nobody waits for at the end: it may be stuck."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="winnow-batches")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
