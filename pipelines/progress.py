"""What is a run doing now?

On a terminal one line that is redrawn; otherwise a line every few seconds, so that `ray job logs` reads well, and less
often the longer a stage takes. The last line of a stage is always shown. Everything goes to standard error: standard
output is for results. A reader who is gone is no reason to stop a run. The same facts go to Ray's metrics.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TextIO

from winnow.pipelines.jobs import Retried
from winnow.pipelines.metrics import Metrics, drops
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.records import Record
from winnow.pipelines.terminal import one_line

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 5.0
LOG_SHARE = 0.02
"""Of a stage's time, between two lines of a log."""
LOG_SECONDS_MOST = 60.0
WAVES = 3
"""Times a task's mean time that must have passed before the time left is estimated."""
ESTIMATE_SECONDS = 10.0
"""Below this nobody asks how long it takes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the stages that are made side by side."""

    stage: str
    tasks: int
    recorded: int
    """Of the tasks, those that were recorded before."""


@dataclass(slots=True)
class Pace:
    """How the tasks of one kind of stage get on."""

    left: int = 0
    finished: int = 0
    """Of those that run now."""
    seconds: float = 0.0
    """That the finished ones took."""


@dataclass
class Progress:
    """Counts tasks of the current stage, or of those that are made side by side, and says so at its reader's pace."""

    stream: TextIO | None = field(default_factory=lambda: sys.stderr)
    metrics: Metrics = field(default_factory=Metrics)
    in_flight: int = 0
    """Tasks that the executor has now."""
    label: str = ""
    parts: Sequence[Part] = ()
    tasks: int = 0
    finished: int = 0
    """Of them, those that are recorded, before or now."""
    recorded: int = 0
    """Those that were recorded before."""
    text_bytes: int = 0
    tokens: int = 0
    documents: int = 0
    dropped: int = 0
    """Documents that go, and rows that are none."""
    retries: int = 0
    told: set[str] = field(default_factory=set)
    """Reasons of attempts that failed, of which one was shown."""
    paces: dict[str, Pace] = field(default_factory=dict)
    """By kind of stage."""
    started: float = 0.0
    shown: float = 0.0
    line_open: bool = False

    @cached_property
    def terminal(self) -> bool:
        """Whether a line can be redrawn."""
        try:
            return self.stream is not None and self.stream.isatty() and os.environ.get("TERM") != "dumb"
        except ValueError:  # it was closed
            return False

    def describe(self, run: str, sources: Iterable[str]) -> None:
        """Name the run and its sources, for the metrics."""
        self.metrics.describe(run, sources)

    def begin(self, label: str, parts: Sequence[Part]) -> None:
        """Start a stage, or some that are made side by side and are shown under one label."""
        self.label, self.parts = label, parts
        self.tasks = sum(part.tasks for part in self.parts)
        self.recorded = self.finished = sum(part.recorded for part in self.parts)
        self.text_bytes = self.tokens = self.documents = self.dropped = self.retries = 0
        self.paces, self.told = {}, set()
        for part in self.parts:
            self.paces.setdefault(_kind(part), Pace()).left += part.tasks - part.recorded
            self.metrics.begin(part.stage, part.tasks, part.recorded)
        self.started = self.shown = time.monotonic()
        if self.tasks == self.recorded:
            self.say(f"{label}: {self.tasks} of {self.tasks} tasks, all recorded before")
        else:
            self._show(self.started)

    def advance(self, record: Record, part: int) -> None:
        """Count a finished task of the part with this number."""
        of = self.parts[part]
        kind, counts = _kind(of), record.counts
        self.finished += 1
        self.text_bytes += counts.get("text_bytes", 0)
        self.tokens += counts.get("tokens", 0)
        self.documents += counts.get("documents", 0)
        gone = list(drops(kind, counts))
        self.dropped += sum(drop.documents for drop in gone)
        pace = self.paces[kind]
        pace.left -= 1
        pace.finished += 1
        pace.seconds += record.seconds
        self.metrics.advance(of.stage, record, gone)
        self.tick(force=self.finished == self.tasks)

    def retried(self, attempt: Retried) -> None:
        """Count an attempt that failed and is made again; the first one of each reason is told."""
        self.retries += 1
        stage, reason = self.parts[attempt.job.request].stage, attempt.reason
        self.metrics.retried(stage, reason)
        if reason not in self.told:
            self.told.add(reason)
            message = one_line(" ".join(attempt.message.split()))
            self.say(f"{stage}, task {attempt.job.task.index} is made again: {reason} ({message})")
        self.tick()

    def tick(self, *, force: bool = False) -> None:
        """Show the state if it is time."""
        now = time.monotonic()
        self.metrics.tick(now, self.in_flight)
        if force or now - self.shown >= self._interval(now):
            self._show(now)

    def finish(self) -> None:
        """The run is over, or stopped in the middle of a stage: what follows begins on a line of its own."""
        if self.line_open:
            self._write("\n")
            self.line_open = False
        self.in_flight = 0
        self.metrics.finish()

    def say(self, text: str) -> None:
        """Show a line of its own."""
        self._write(f"\r\x1b[2K{text}\n" if self.line_open else f"{text}\n")
        self.line_open = False

    @property
    def seconds_left(self) -> float | None:
        """An estimate for the stage; None while too little is known.

        The tasks that are left take what their kind took so far, on as many workers as were busy so far. That is
        known when each kind with tasks left has some that finished, and tasks have had the time to follow on one
        another: before, all that finished are the short ones.
        """
        spent = time.monotonic() - self.started
        done = [pace for pace in self.paces.values() if pace.finished]
        seconds, finished = sum(p.seconds for p in done), sum(p.finished for p in done)
        if not seconds or spent < max(ESTIMATE_SECONDS, WAVES * seconds / finished):
            return None
        left = 0.0
        for pace in self.paces.values():
            if pace.left and not pace.finished:
                return None
            left += pace.left * pace.seconds / max(pace.finished, 1)
        return left * spent / seconds

    def _interval(self, now: float) -> float:
        if self.terminal:
            return TERMINAL_SECONDS
        return min(max(LOG_SECONDS, LOG_SHARE * (now - self.started)), LOG_SECONDS_MOST)

    def _show(self, now: float) -> None:
        self.shown = now
        if self.stream is None:
            return
        line = self._line(max(now - self.started, 1e-6))
        if not self.terminal:
            self._write(line + "\n")
            return
        last = self.finished == self.tasks
        self._write(f"\r\x1b[2K{line if last else line[: self._columns() - 1]}" + ("\n" if last else ""))
        self.line_open = not last

    def _line(self, seconds: float) -> str:
        parts = [f"{self.label}: {self.finished} of {self.tasks} tasks"]
        if self.recorded:
            parts[0] += f" ({self.recorded} recorded before)"
        if self.documents:
            parts.append(f"{show_count(self.documents)} documents")
        if self.dropped:
            parts.append(f"{show_count(self.dropped)} dropped")
        if self.text_bytes:
            parts.append(f"{show_bytes(self.text_bytes)}, {show_bytes(self.text_bytes / seconds)}/s")
        if self.tokens:
            parts.append(f"{show_count(self.tokens)} tokens, {show_count(self.tokens / seconds)}/s")
        if self.retries:
            parts.append(f"{self.retries} tried again")
        parts.append(show_seconds(seconds))
        if self.finished < self.tasks and (left := self.seconds_left) is not None:
            parts.append(f"about {show_seconds(left)} left")
        return ", ".join(parts)

    def _columns(self) -> int:
        """Of the terminal: a line that is wrapped could not be redrawn."""
        try:
            assert self.stream is not None
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        if self.stream is None:
            return
        try:
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:
                self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            self.stream.flush()
        except (OSError, ValueError):
            # Closed, a pipe that nobody reads, a full disk: nobody sees it, and the run goes on.
            self.line_open = False


def _kind(part: Part) -> str:
    return part.stage.partition(".")[0]


def show_seconds(seconds: float) -> str:
    """A time for people: 12 s, 3 min 20 s, 5 h 7 min, 2 d 3 h."""
    whole = round(seconds)
    for size, unit, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
