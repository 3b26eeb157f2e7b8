"""Does a run that is disturbed at random publish the bytes of one that is not?

    python benchmarks/faults.py [--faults 200] [--seed N] [--minutes M] [--s3-share 0.15]

The corpus of benchmarks/small_run.py is made again and again on a Ray cluster of three nodes on this machine while
faults befall it (benchmarks/fault_kinds.py), several in each run; a run that stops is started again, as a user would,
until it is published. Then every published file is compared with the undisturbed run's. A share of the runs has its
inputs and RUN on an S3 server that spoils requests; these faults are counted apart, not for `--faults`.

Prints fault × times × what became of the run: it went on; it stopped with a message (or was ended) and was continued;
it stopped with a traceback; nothing happened for minutes (hang); other bytes were published. Also how many recorded
tasks were made again although nothing of theirs was damaged. Exit code 1 for a hang, a traceback, other bytes.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import fault_kinds
import small_run
from corpus import machine
from fault_kinds import BUCKET, ENDING, FILES, GARBAGE, LIVE, Lab
from winnow.shards import storage

HANG_S = 240.0
"""Without a new record or an end of the driver."""
DISTURBED_DRIVERS = 6
"""After which a run is left alone, so that it ends."""
STARTS = 14
"""After which a run that stops again and again is given up."""
WENT_ON, CONTINUED, TRACEBACK, HANG, OTHER = (
    "went on",
    "stopped, continued",
    "traceback",
    "hang",
    "other bytes",
)
OUTCOMES = (WENT_ON, CONTINUED, TRACEBACK, HANG, OTHER)
S3_RATE = 0.03


@dataclass
class Run:
    """One corpus that is made while things go wrong."""

    recipe: Path
    out: str
    expected: dict[str, str]
    faults: list[tuple[str, str]] = field(default_factory=list)
    """(kind, outcome) of each."""
    garbage: int = 0
    """Rows of the input that cannot be read."""
    redone: int = 0
    """Recorded tasks that were made again without a reason."""
    said: list[str] = field(default_factory=list)
    """What is worth showing of drivers that ended badly."""

    @property
    def local(self) -> bool:
        return "://" not in self.out

    def recorded(self) -> dict[str, object]:
        """Record files, with what tells one that was written again: its time, where the run is local."""
        if self.local:
            root = Path(self.out, "stages")
            return {p.relative_to(root).as_posix(): t for p, t in small_run.records(Path(self.out)).items()}
        names = storage.list_files(storage.join(self.out, "stages"))
        return {n: None for n in names if "/records/" in n}


def different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of files that are not the same in both."""
    return sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))


class Soak:
    """Runs, one after another, until there were faults enough."""

    def __init__(self, folder: Path, lab: Lab, rng: random.Random, s3_share: float):
        self.rng = rng
        self.folder = folder
        self.lab = lab
        self.s3_share = s3_share
        self.inputs = folder / "inputs"
        self.inputs.mkdir()
        small_run.write_inputs(self.inputs)
        self.recipe = small_run.write_recipe(folder / "small.yaml", self.inputs)
        self.s3_recipe = small_run.write_recipe(folder / "s3.yaml", self.inputs, f"s3://{BUCKET}/inputs")
        self.tasks = 0
        self.expected = {self.recipe: self._undisturbed(self.recipe, str(folder / "first"))}
        print(f"undisturbed: {self.tasks} tasks, {len(self.expected[self.recipe])} published files")
        if s3_share:
            for name in small_run.NAMES:
                data = (self.inputs / f"{name}.jsonl").read_bytes()
                storage.put_bytes(f"s3://{BUCKET}/inputs/{name}.jsonl", data)
            self.expected[self.s3_recipe] = self._undisturbed(self.s3_recipe, f"s3://{BUCKET}/first")
            differ = different(*self.expected.values())
            print(f"undisturbed on S3: {len(differ)} files differ from those {differ[:5]}")

    def _undisturbed(self, recipe: Path, out: str) -> dict[str, str]:
        run = Run(recipe, out, {})
        code, _ = self._drive(run, disturbed=False)
        if code:
            raise RuntimeError(f"the undisturbed run failed: {run.said}")
        self.tasks = max(self.tasks, len(run.recorded()))
        return small_run.published(out)

    def one_run(self, number: int) -> Run:
        """Make the corpus once, disturbed, and compare what it published."""
        rng = self.rng
        if rng.random() < self.s3_share:
            run = Run(self.s3_recipe, f"s3://{BUCKET}/run-{number}", self.expected[self.s3_recipe])
        else:
            run = Run(self.recipe, str(self.lab.disk.folder / f"run-{number}"), self.expected[self.recipe])
            if rng.random() < 0.15:
                self._spoil_input(run, number)
        known: dict[str, object] = {}
        damaged: set[str] = set()
        frozen = False
        for start in range(STARTS):
            code, injected = self._drive(run, disturbed=start < DISTURBED_DRIVERS)
            frozen = frozen or any("frozen" in kind for kind in injected)
            self.lab.settle()
            now = run.recorded()
            if run.local and not frozen:
                run.redone += sum(n not in damaged and now.get(n, t) != t for n, t in known.items())
            if code == 0:
                break
            damaged = set()
            for _ in range(rng.randint(0, 2) if start < DISTURBED_DRIVERS else 0):
                kind = rng.choice(FILES)
                if found := fault_kinds.damage(kind, run.out, rng):
                    damaged.update(found)
                    run.faults.append((kind, CONTINUED))
            known = run.recorded()
        else:
            # Whoever starts it again gets no further: it might as well hang.
            run.faults.append((f"(not published after {STARTS} starts)", HANG))
        if code == 0 and not self._same(run):
            run.faults = [(kind, OTHER) for kind, _ in run.faults] or [("(no fault)", OTHER)]
        self._clear(run)
        return run

    def _drive(self, run: Run, *, disturbed: bool) -> tuple[int, list[str]]:
        """Start a driver and see it to its end; (exit code, faults that were brought about)."""
        lab, rng = self.lab, self.rng
        if not run.local:
            lab.store.fail(S3_RATE if disturbed else 0.0)
        command = small_run.command(run.recipe, run.out, "--address", lab.nodes.address)
        errors_at = self.folder / "errors.txt"
        with open(errors_at, "wb") as errors:
            driver = subprocess.Popen(
                command,
                env=lab.nodes.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        try:
            injected, hung = self._disturb(run, driver, rng.randint(3, 8) if disturbed else 0)
        finally:
            driver.kill()
        code = driver.wait()
        if not run.local:
            lab.store.fail(0.0)
        self._judge(run, code, injected, hung, errors_at.read_text(errors="replace"))
        return (1 if hung else code), injected

    def _disturb(self, run: Run, driver: subprocess.Popen[bytes], wanted: int) -> tuple[list[str], bool]:
        """Bring some faults about while a driver works; (those, whether it hung), when it ended or hangs."""
        lab, rng = self.lab, self.rng
        injected: list[str] = []
        at = self._next(run)
        told, seen = time.monotonic(), -1
        while driver.poll() is None:
            lab.tick()
            done = self._progress(run)
            if done != seen:
                told, seen = time.monotonic(), done
            elif time.monotonic() - told > HANG_S:
                return injected, True
            if wanted and done >= at:
                time.sleep(rng.random() * 0.2)
                kind = rng.choices(list(LIVE), list(LIVE.values()))[0]
                if lab.inject(kind, driver, run.local):
                    injected.append(kind)
                    wanted = 0 if kind in ENDING else wanted - 1
                    at = self._next(run)
            time.sleep(0.1)
        return injected, False

    def _judge(self, run: Run, code: int, injected: list[str], hung: bool, said: str) -> None:
        outcomes = [WENT_ON] * len(injected)
        clear = "Traceback (most recent call last)" not in said
        if hung:
            last = HANG
        elif code == 0:
            last = WENT_ON
        elif injected and injected[-1] in ENDING:
            last = CONTINUED
        else:
            last = CONTINUED if clear else TRACEBACK
        if outcomes:
            outcomes[-1] = last
            run.faults += zip(injected, outcomes, strict=True)
        elif last in (HANG, TRACEBACK):
            run.faults.append(("(no fault)", last))
        ended_by_us = bool(injected) and injected[-1] in ("the driver killed", "the driver ended by SIGTERM")
        if code and not ended_by_us:
            where = f"exit code {code} after {', '.join(injected) or 'nothing'}"
            run.said.append(f"{where}: {said.strip()[-1500 if last in (HANG, TRACEBACK) else -300 :]}")

    def _progress(self, run: Run) -> int:
        """Records there are; of a run on S3 as many as its driver said, for a listing costs more than it tells."""
        if run.local:
            return len(small_run.records(Path(run.out)))
        said = (self.folder / "errors.txt").read_text(errors="replace")
        return said.count("\n") * self.tasks // 60

    def _next(self, run: Run) -> int:
        """After how many records the next fault comes; now and then at once, while a driver still starts."""
        soon = self.rng.random() < 0.1
        return self._progress(run) + (0 if soon else self.rng.randint(1, max(self.tasks // 12, 2)))

    def _spoil_input(self, run: Run, number: int) -> None:
        """Give the run inputs of its own, with rows at the end that cannot be read."""
        folder = self.folder / f"spoilt-{number}"
        shutil.copytree(self.inputs, folder)
        run.garbage = self.rng.randint(1, 20)
        small_run.add_garbage(folder, number, run.garbage)
        run.recipe = small_run.write_recipe(folder / "small.yaml", folder)
        run.faults.append((GARBAGE, WENT_ON))

    def _same(self, run: Run) -> bool:
        found, expected = small_run.published(run.out), run.expected
        if run.garbage:
            expected = self._undisturbed(run.recipe, str(run.recipe.parent / "first"))
            if small_run.lost(run.out) != run.garbage:
                run.said.append(f"{small_run.lost(run.out)} rows were lost, not {run.garbage}")
                return False
        if differ := different(found, expected):
            run.said.append(f"{len(differ)} files differ: {differ[:5]}")
        return not differ

    def _clear(self, run: Run) -> None:
        if run.local:
            shutil.rmtree(run.out, ignore_errors=True)
        if run.garbage:
            shutil.rmtree(run.recipe.parent)


def report(runs: list[Run], store: dict[str, int], seconds: float) -> bool:
    """Print the tables; whether all went well."""
    counts: dict[str, collections.Counter[str]] = {}
    for run in runs:
        for kind, outcome in run.faults:
            counts.setdefault(kind, collections.Counter())[outcome] += 1
    print(f"\n{'fault':40}{'times':>7}" + "".join(f"{o:>20}" for o in OUTCOMES))
    whole: collections.Counter[str] = collections.Counter()
    for kind in sorted(counts):
        whole += counts[kind]
        print(f"{kind:40}{counts[kind].total():7}" + "".join(f"{counts[kind][o]:20}" for o in OUTCOMES))
    print(f"{'together':40}{whole.total():7}" + "".join(f"{whole[o]:20}" for o in OUTCOMES))
    remote = sum(not run.local for run in runs)
    print(f"\n{len(runs)} runs in {seconds / 60:.1f} min, {remote} of them on S3")
    if remote:
        spoilt = ", ".join(f"{kind} {n}" for kind, n in sorted(store.items()))
        print(f"{sum(store.values())} spoilt requests: {spoilt}")
    print(f"recorded tasks made again, nothing of theirs being damaged: {sum(run.redone for run in runs)}")
    return not any(whole[o] for o in (TRACEBACK, HANG, OTHER))


def show(runs: list[Run], seconds: float) -> None:
    """Print what befell the last run, and what became of it."""
    run = runs[-1]
    faults = ", ".join(f"{kind}: {outcome}" for kind, outcome in run.faults)
    print(f"{seconds:5.0f} s, run {len(runs)} ({'disk' if run.local else 'S3'}): {faults}")
    for said in run.said:
        print("    " + said.replace("\n", "\n    "))
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--s3-share", type=float, default=0.15, help="of the runs")
    asked = parser.parse_args()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="winnow-faults-"))
    runs: list[Run] = []
    print(machine())
    rng = random.Random(asked.seed)
    try:
        with contextlib.closing(Lab(folder, rng)) as lab:
            soak = Soak(folder, lab, rng, asked.s3_share)
            if not lab.disk.mounted:
                print("no tmpfs can be mounted here: the disk never is full")
            while sum(len(run.faults) for run in runs) < asked.faults:
                if time.monotonic() - started > asked.minutes * 60:
                    print("out of time")
                    break
                runs.append(soak.one_run(len(runs)))
                show(runs, time.monotonic() - started)
            store = lab.store.counts()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if report(runs, store, time.monotonic() - started) else 1)


if __name__ == "__main__":
    main()
