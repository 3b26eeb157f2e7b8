"""Which of two corpora teaches a small model more?

`compare` trains the same model on both, for the same tokens, with several seeds, and sets held-out bits per byte side
by side. A seed gives both trainings the same initial weights, so differences are taken seed by seed. Every training is
a process of its own (the reader leaves shared memory and threads behind) in a directory of its own, so that a
comparison goes on where it was interrupted, and finished trainings are not done again.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson
from winnow.pipelines import interrupt
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.report import new_table, output
from winnow.pipelines.train_corpus import TrainingRun, check_same_tokens, need_streaming
from winnow.pipelines.train_report import repeats
from winnow.pipelines.train_settings import TrainError, TrainInputError, TrainSettings
from winnow.pipelines.train_stop import Stopped, asked_to_stop
from winnow.shards import storage

SIDES = ("a", "b")
RESULT = "compare.json"
POLL_SECONDS = 0.1
ALL = "all"
"""The row of all held-out text together."""


def compare(
    runs: Sequence[str],
    heldout: str,
    out: str,
    settings: TrainSettings,
    seeds: int = 3,
    *,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train on both runs with seeds `settings.seed`, `settings.seed` + 1, …; returns what compare.json holds.

    Without `settings.tokens` each training takes as many as the smaller of the two mixtures has in an epoch. Raises
    TrainInputError where the runs do not fit together, TrainError when a training failed, Stopped after a signal.
    """
    if seeds < 1:
        raise TrainInputError(f"seeds must be at least 1, not {seeds}")
    if importlib.util.find_spec("streaming") is None:  # imported by the trainings alone: it takes seconds
        need_streaming()
    opened = [TrainingRun(run) for run in runs]
    judge = TrainingRun(heldout)
    check_same_tokens(opened[0], opened[1], "train")
    for run in opened:
        check_same_tokens(run, judge, "val")
        run.check_shards("train")
    judge.check_shards("val")
    if settings.tokens is None:
        settings = replace(settings, tokens=min(int(run.epoch_rows * run.tokens_per_row) for run in opened))
    assert settings.tokens is not None
    for run in opened:
        if repeated := repeats(run.passes(settings.tokens)):
            say(f"{run.name}: {repeated}")
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    # Seed by seed, so that what is there after a while compares both.
    for seed in range(settings.seed, settings.seed + seeds):
        for side, run in zip(SIDES, opened, strict=True):
            place, seeded = storage.join(out, f"{side}-{seed}"), replace(settings, seed=seed)
            wanted = {"run": run.identity, "heldout": judge.identity, **asdict(seeded)}
            if (result := _finished(place, wanted, device)) is None:
                say(f"training on {run.name} with seed {seed}")
                _train(run.location, place, judge.location, seeded, device)
                result = orjson.loads(storage.read_bytes(storage.join(place, "result.json")))
            results[side].append(result)
    facts = compared(results) | {"heldout": judge.location, "settings": asdict(settings), "seeds": seeds}
    storage.put_bytes(storage.join(out, RESULT), orjson.dumps(facts, option=orjson.OPT_INDENT_2))
    return facts


def _finished(place: str, wanted: dict[str, Any], device: str) -> dict[str, Any] | None:
    """The result of this very training, if it is there."""
    location = storage.join(place, "result.json")
    if not storage.exists(location):
        return None
    result = orjson.loads(storage.read_bytes(location))
    had = result["settings"]
    same = all(had.get(key) == value for key, value in wanted.items()) and device in ("auto", had["device"])
    return result if same else None


def _train(run: str, out: str, heldout: str, settings: TrainSettings, device: str) -> None:
    """`winnow train` in a process of its own. Raises TrainError, Stopped."""
    command = [sys.executable, "-m", "winnow.pipelines.command", "train", run, "--out", out]
    command += ["--heldout", heldout, "--device", device, *options(settings)]
    # A session of its own: Ctrl-C reaches it through here alone, once.
    with asked_to_stop() as stop:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        told = False
        while (code := _ended(child)) is None:
            if stop and not told:
                child.terminate()
                told = True
    if told or code == interrupt.EXIT_CODE:
        raise Stopped("interrupted; the same command continues")
    if code:
        raise TrainError(
            f"the training on {run} into {out} failed with exit code {code}; its message is above"
        )


def _ended(child: subprocess.Popen) -> int | None:
    try:
        return child.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def options(settings: TrainSettings) -> list[str]:
    """A training's settings as options of `winnow train`."""
    given: list[str] = []
    for name, value in asdict(settings).items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            given.append(option)
        elif value is not None and value is not False:
            given += [option, str(value)]
    return given


def compared(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Results of trainings, those of a seed at the same place on both sides, set beside each other."""
    sources = [*results["a"][0]["heldout"], ALL]
    of_bytes = results["a"][0]["heldout_bytes"]
    rows = []
    for source in sources:
        values = {
            side: [r["bits_per_byte"] if source == ALL else r["heldout"][source] for r in results[side]]
            for side in SIDES
        }
        differences = [b - a for a, b in zip(values["a"], values["b"], strict=True)]
        error = spread(differences)
        rows.append(
            {
                "source": source,
                "text_bytes": sum(of_bytes.values()) if source == ALL else of_bytes[source],
                "difference": {
                    "values": differences,
                    "mean": statistics.fmean(differences),
                    "standard_error": None if error is None else error / math.sqrt(len(differences)),
                },
            }
            | {
                side: {"values": v, "mean": statistics.fmean(v), "sd": spread(v)}
                for side, v in values.items()
            }
        )
    runs = {}
    for side in SIDES:
        first = results[side][0]
        runs[side] = {
            key: first[key] for key in ("run", "name", "tokens", "epochs", "passes", "parameters", "machine")
        }
        runs[side]["tokens_per_second"] = statistics.median(r["tokens_per_second"] for r in results[side])
    return {"runs": runs, "sources": rows}


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def print_comparison(facts: dict[str, Any]) -> None:
    """The comparison, for a person."""
    runs, settings = facts["runs"], facts["settings"]
    for side, run in runs.items():
        line = (
            f"{side.upper()}: {run['name']} ({run['run']}), {show_count(run['tokens'])} tokens, "
            f"{show_count(run['tokens_per_second'])} tokens/s"
        )
        print("; ".join(filter(None, (line, repeats(run["passes"])))))
    count = f"{facts['seeds']} seeds" if facts["seeds"] > 1 else "1 seed"
    table = new_table(
        f"Held-out bits per byte, {settings['model']} ({show_count(runs['a']['parameters'])} parameters), {count}"
    )
    table.add_column("source", no_wrap=True)
    for column in ("text", "A", "B", "B - A"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in facts["sources"]:
        if row["source"] == ALL:
            table.add_section()
        difference = row["difference"]
        cells = [_with_spread(row[side]["mean"], row[side]["sd"]) for side in SIDES]
        cells.append(_with_spread(difference["mean"], difference["standard_error"], sign="+"))
        table.add_row(row["source"], show_bytes(row["text_bytes"]), *cells)
    output().print(table)
    print(
        "Fewer bits are better. ± is the standard deviation over seeds; of B - A, taken seed by seed, the standard "
        "error of its mean."
    )


def _with_spread(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if error is None else f"{value:{sign}.4f} ± {error:.4f}"
