"""What is a run doing now?

On a terminal one line that is redrawn; otherwise a line every few seconds, so that `ray job logs`
reads well. Everything goes to standard error: standard output is for results.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from winnow.pipelines.jobs import Retried
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.records import Record

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 5.0


@dataclass
class Progress:
    """Counts tasks of the current stage and says so at the pace of its reader."""

    stream: TextIO | None = field(default_factory=lambda: sys.stderr)
    stage: str = ""
    tasks: int = 0
    finished: int = 0
    text_bytes: int = 0
    tokens: int = 0
    documents: int = 0
    retries: int = 0
    started: float = 0.0
    shown: float = 0.0
    line_open: bool = False

    @property
    def terminal(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def begin(self, stage: str, tasks: int, finished: int) -> None:
        """Start a stage; `finished` of its tasks were recorded before."""
        self.stage, self.tasks, self.finished = stage, tasks, finished
        self.text_bytes = self.tokens = self.documents = self.retries = 0
        self.started = time.monotonic()
        self.shown = 0.0
        if tasks == finished:
            self.say(f"{stage}: {finished} of {tasks} tasks, all recorded before")
        else:
            self.tick(force=self.terminal)

    def advance(self, record: Record) -> None:
        """Count a finished task."""
        self.finished += 1
        self.text_bytes += record.counts.get("text_bytes", 0)
        self.tokens += record.counts.get("tokens", 0)
        self.documents += record.counts.get("documents", 0)
        self.tick(force=self.finished == self.tasks)

    def retried(self, attempt: Retried) -> None:
        """Count an attempt that failed and is made again."""
        self.retries += 1
        self.tick()

    def tick(self, *, force: bool = False) -> None:
        """Show the state if it is time."""
        now = time.monotonic()
        if self.stream is None or (
            not force and now - self.shown < (TERMINAL_SECONDS if self.terminal else LOG_SECONDS)
        ):
            return
        self.shown = now
        seconds = max(now - self.started, 1e-6)
        parts = [f"{self.stage}: {self.finished} of {self.tasks} tasks"]
        if self.documents:
            parts.append(f"{show_count(self.documents)} documents")
        if self.text_bytes:
            parts.append(f"{show_bytes(self.text_bytes)}, {show_bytes(self.text_bytes / seconds)}/s")
        if self.tokens:
            parts.append(f"{show_count(self.tokens)} tokens, {show_count(self.tokens / seconds)}/s")
        if self.retries:
            parts.append(f"{self.retries} tried again")
        parts.append(f"{seconds:.0f} s")
        line = ", ".join(parts)
        if self.terminal:
            end = "\n" if self.finished == self.tasks else ""
            self.stream.write(f"\r\x1b[2K{line}{end}")
            self.line_open = not end
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """Show a line of its own."""
        if self.stream is None:
            return
        if self.line_open:
            self.stream.write("\n")
            self.line_open = False
        self.stream.write(text + "\n")
        self.stream.flush()
