"""How is a document that may be hostile converted without harm to the worker?

In a child process, one at a time and kept from document to document, that is fed over pipes. What a document may
cost is bounded by the kernel, in the child, whatever library is at work:

    time     a timer of CPU time ends the child (`too-slow`): CPU and not wall, so that a busy machine decides
             nothing; a timer of wall time, `PATIENCE` times as long, ends one that waits for something
    memory   `AS_BASE` and `AS_PER_BYTE` times the conversion's `max_bytes` of address space beyond what its
             libraries took (`crashed`)
    size     documents over `max_bytes` are not sent, texts over `GROWTH` times that are not taken (`too-large`)

A child that dies costs nothing but time: the document it died of is tried once more, alone in a new child, so that a
stray kill loses nothing, and the others go on. Only a document that ends the second child as well is lost. Answers
are data, never pickles: nothing that a child sends is run. Texts do not depend on how rows are put into chunks; what
is near a limit of time may pass on one machine and not on another.

Memory of the worker: the rows it holds, their copy on the way to the child, and one text.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from winnow.shards.convert_settings import Conversion
from winnow.shards.rows import RAW_KEPT, Row, at_path

PATIENCE = 20
"""Wall seconds a child has for each second of CPU."""
AS_BASE = 512 << 20
AS_PER_BYTE = 48
"""Address space for a document: of a page of prose Resiliparse 2.0 makes a tree of 22 bytes for each of its own, of one
that is nothing but tags or one-letter paragraphs of 30 to 180."""
STARTS = 3
"""Times a child that is killed before it is ready is started."""
GROWTH = 4
"""Bytes of text that a byte of a document may become; comment signs before empty lines make three."""

MEMORY_BASE = 64 << 20
MEMORY_PER_BYTE = 16
"""What to ask of a machine for a child, beside the limits: its libraries take 30 to 65 MB; of a page of 2 MB of prose
Resiliparse takes 10 bytes for each of its own, mwparserfromhell 20, Trafilatura 40 (measured), and few are of the
largest size. The address space that stops a hostile page is four times as much, and asked of nobody."""

_SMALL = 1 << 20
_PR_SET_PDEATHSIG = 1
_TEXT, _LOST, _NO_LIBRARY, _READY = range(4)
_HEADER = struct.Struct("<BQQ")


def memory(settings: Conversion) -> int:
    """Bytes of memory to count on for a child."""
    return MEMORY_BASE + MEMORY_PER_BYTE * settings.max_bytes


def convert_all(settings: Conversion, rows: Sequence[Row], column: str) -> None:
    """Replace `column` of every row by its text and add the columns that the conversion gives.

    A row that does not become text gets a reason, and no columns. Raises ImportError where the child lacks a library,
    ChildProcessError where no child can be started.
    """
    sent = []
    for row in rows:
        if row.columns is not None:
            data = _document(row, column, settings.max_bytes)
            if data is not None:
                sent.append((row, data))
    if sent:
        with _state.lock:
            _convert(settings, sent, column)


def _document(row: Row, column: str, max_bytes: int) -> bytes | str | None:
    """What is to be converted; None, and the row lost, where there is nothing that can be."""
    assert row.columns is not None
    try:
        value = at_path(row.columns, column)
    except KeyError:
        _lose(row, "missing-column", b"")
        return None
    if isinstance(value, bytearray):
        value = bytes(value)
    if not isinstance(value, bytes | str):
        _lose(row, "wrong-type", b"")
    elif len(value) > max_bytes or len(_bytes(value)) > max_bytes:
        _lose(row, "too-large", value)
    else:
        return value
    return None


def _lose(row: Row, reason: str, data: bytes | str) -> None:
    row.reason, row.raw, row.columns = reason, _bytes(data[:RAW_KEPT])[:RAW_KEPT], None


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def _replaced(columns: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The columns with another value at a path; what holds it is copied."""
    head, _, rest = path.partition(".")
    if path in columns or not rest:
        return {**columns, path: value}
    return {**columns, head: _replaced(columns[head], rest, value)}


# ---- the worker's side ------------------------------------------------------------------------------------------


class _DiedError(Exception):
    """The child ended; the message is the reason that loses the document it was busy with."""


class _KilledError(ChildProcessError):
    """A child was ended by a signal before it was ready."""


class _Child:
    """A process that converts with one set of settings."""

    def __init__(self, settings: Conversion):
        self.settings = settings
        # The child must find what the worker finds, wherever Ray or a test got it from. Libraries that go through
        # sets must do so alike in every child.
        code = f"import sys; sys.path[:] = {sys.path!r}; from winnow.shards.sandbox import serve; serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.questions, self.answers = self.process.stdin, self.process.stdout
        try:
            self.ask(settings)
            self.answer()
        except _DiedError:
            status = self.process.returncode
            raise (_KilledError if status < 0 else ChildProcessError)(
                f"the process that converts documents did not start (exit status {status})"
            ) from None
        except BaseException:
            self.end()
            raise

    def ask(self, question: object) -> None:
        try:
            pickle.dump(question, self.questions, pickle.HIGHEST_PROTOCOL)
            self.questions.flush()
        except BrokenPipeError:
            raise _DiedError(self.death()) from None

    def answer(self) -> tuple[int, str, dict[str, Any]]:
        """What became of the next document: the kind of the answer, a text or a reason, columns."""
        header = self.answers.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise _DiedError(self.death())
        kind, size, more = _HEADER.unpack(header)
        if size + more > _most(self.settings):
            self.end()
            raise _DiedError("crashed")
        text, columns = self.answers.read(size), self.answers.read(more)
        if len(columns) < more or len(text) < size:
            raise _DiedError(self.death())
        if kind == _NO_LIBRARY:
            raise ImportError(text.decode())
        return kind, text.decode("utf-8", "surrogatepass"), json.loads(columns) if more else {}

    def death(self) -> str:
        """What a document is lost for that the child, which has closed its pipe, was busy with."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.end()
        slow = self.process.returncode in (-signal.SIGPROF, -signal.SIGALRM)
        return "too-slow" if slow else "crashed"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.questions, self.answers):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _started(settings: Conversion) -> _Child:
    """A child that is ready; one that was killed while it started is no child's fault. Raises ChildProcessError."""
    for _ in range(STARTS - 1):
        with contextlib.suppress(_KilledError):
            return _Child(settings)
    return _Child(settings)


class _State:
    """The child of this process, if it has one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: _Child | None = None
        self.others: list[_Child] = []
        """Of the process this one was forked from: not ours to end."""

    def child_for(self, settings: Conversion) -> _Child:
        if self.child is not None:
            if self.child.settings == settings and self.child.process.poll() is None:
                return self.child
            self.end()
        self.child = _started(settings)
        return self.child

    def end(self) -> None:
        if self.child is not None:
            self.child.end()
            self.child = None

    def forked(self) -> None:
        self.lock = threading.Lock()
        if self.child is not None:
            self.others.append(self.child)
            self.child = None


_state = _State()
atexit.register(_state.end)
os.register_at_fork(after_in_child=_state.forked)


def _convert(settings: Conversion, sent: Sequence[tuple[Row, bytes | str]], column: str) -> None:
    done, suspect = 0, -1
    while done < len(sent):
        stop = done + 1 if suspect == done else len(sent)
        try:
            child = _state.child_for(settings)
            child.ask([(data, _replaced(row.columns or {}, column, None)) for row, data in sent[done:stop]])
            while done < stop:
                kind, text, columns = child.answer()
                row, data = sent[done]
                if kind == _TEXT:
                    row.columns = _replaced({**(row.columns or {}), **columns}, column, text)
                else:
                    _lose(row, text, data)
                done += 1
        except _DiedError as death:
            _state.child = None
            if suspect == done:
                row, data = sent[done]
                _lose(row, str(death), data)
                done += 1
            else:
                suspect = done
        except BaseException:
            # An interrupt leaves answers in the pipe that are no longer asked for.
            _state.end()
            raise


# ---- the child's side -------------------------------------------------------------------------------------------

_said: set[type[Exception]] = set()


def serve() -> None:
    """Convert what comes in at standard input until it ends; nothing else may use the two pipes."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _be_a_child()
    settings = pickle.load(questions)
    try:
        _prepare(settings)
    except ImportError as error:
        _put(answers, _NO_LIBRARY, str(error).encode())
        return
    _bound_memory(settings.max_bytes)
    _put(answers, _READY)
    while True:
        try:
            batch = pickle.load(questions)
        except EOFError:
            return
        for data, row in batch:
            _put(answers, *_answer(settings, data, row))


def _put(answers: BinaryIO, kind: int, text: bytes = b"", columns: bytes = b"") -> None:
    answers.write(_HEADER.pack(kind, len(text), len(columns)))
    answers.write(text)
    answers.write(columns)
    answers.flush()


def _be_a_child() -> None:
    """Die with the worker, leave interrupts to it, write no core."""
    import ctypes
    import logging

    # As a program is started, signals may be blocked or ignored as they were where it was started from.
    timers = (signal.SIGPROF, signal.SIGALRM)
    for number in timers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, timers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        # The end of the pipe is not enough: a process forked from the worker may hold it open.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.disable()


def _prepare(settings: Conversion) -> None:
    """Import what a conversion needs before any document's clock runs. Raises ImportError."""
    from winnow.shards.conversion import convert

    try:
        convert(settings, b"<p>a</p>", {})
    except ImportError:
        raise
    except Exception:
        return


def _bound_memory(max_bytes: int) -> None:
    if sys.platform != "linux":
        return  # other systems do not keep to the limit, or do not say what is in use
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + AS_BASE + AS_PER_BYTE * max_bytes
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _answer(settings: Conversion, data: bytes | str, row: Mapping[str, Any]) -> tuple[int, bytes, bytes]:
    from winnow.shards.conversion import Unconvertible, convert

    signal.setitimer(signal.ITIMER_PROF, settings.max_seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * settings.max_seconds)
    try:
        made = convert(settings, data, row)
        text = _bytes(made.text)
        columns = json.dumps(made.columns, default=str).encode() if made.columns else b""
    except Unconvertible as error:
        return _LOST, error.reason.encode(), b""
    except ImportError as error:
        return _NO_LIBRARY, str(error).encode(), b""
    except MemoryError:
        os._exit(1)  # what is left of the heap would decide about the documents that follow
    except Exception as error:
        _say_once(error)
        return _LOST, b"crashed", b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if len(text) + len(columns) > _most(settings):
        return _LOST, b"too-large", b""
    return _TEXT, text, columns


def _say_once(error: Exception) -> None:
    """Print where a library failed; of a thousand documents alike, the first."""
    if type(error) not in _said:
        _said.add(type(error))
        sys.excepthook(type(error), error, error.__traceback__)


def _most(settings: Conversion) -> int:
    """Bytes of an answer."""
    return GROWTH * settings.max_bytes + _SMALL
