"""How is a training interrupted without losing what it learned?

`interrupt.watch` ends a process at a signal, whatever it does, for what other commands record is whole. A training
would lose all steps since its checkpoint, so here the signal is only noted: the training ends its step, puts a
checkpoint and raises `Stopped`. A second signal ends the process at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from winnow.pipelines import interrupt


class Stopped(Exception):
    """SIGINT or SIGTERM came; the same command goes on from the checkpoint."""


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that holds a signal's number once SIGINT or SIGTERM came.

    Signals are the main thread's: in another thread the list stays empty and nothing is changed.
    """
    came: list[int] = []

    def hear(number: int, frame: object) -> None:
        if came:
            os._exit(interrupt.EXIT_CODE)
        came.append(number)

    try:
        before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        yield came
        return
    told = signal.set_wakeup_fd(-1)  # the watcher's
    try:
        yield came
    finally:
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number, handler in before.items():
            signal.signal(number, handler)
