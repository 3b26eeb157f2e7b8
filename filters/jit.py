"""Where compiled kernels are kept, and how they see an Arrow column.

Numba keeps compiled code in a directory and decides by one source file whether that code is still good: a
helper changed in another module goes unseen, and stale code runs. So this module, the only one here that
imports numba, first points ``NUMBA_CACHE_DIR`` at a directory whose name holds numba's version and a hash
over every source file that a kernel can depend on and the processor (nodes of different kinds may share a home
directory). It is looked for in this order, and the first place that can be written is taken:

1. ``NUMBA_CACHE_DIR`` as the user set it,
2. ``$XDG_CACHE_HOME/winnow``, or ``~/.cache/winnow``,
3. ``winnow-<uid>`` in the system's temporary directory, if it belongs to this user,
4. a fresh temporary directory: then every process compiles for itself, and nothing else is lost.

Letters: n documents, b bytes of text.
"""

import hashlib
import importlib
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

FOLDER = Path(__file__).resolve().parent
_PREFIX = "winnow-kernels-"
_IMPORT = re.compile(r"\bwinnow\.filters(?:\.| import )(\w+)")


def cache_name(folder: Path = FOLDER) -> str:
    """Name of the cache directory for the Python sources in `folder`, on this processor, with this numba."""
    digest = hashlib.blake2b(digest_size=8)
    for source in kernel_sources(folder):
        content = source.read_bytes()
        digest.update(f"{source.name}\0{len(content)}\0".encode())
        digest.update(content)
    digest.update(_processor().encode())
    return f"{_PREFIX}{digest.hexdigest()}-numba-{version('numba')}"


def kernel_sources(folder: Path) -> list[Path]:
    """The modules of `folder` that compile kernels, and every module of it that they import, by name."""
    imports = {p.stem: set(_IMPORT.findall(p.read_text(encoding="utf-8"))) for p in folder.glob("*.py")}
    wanted: set[str] = set()
    left = {name for name, imported in imports.items() if "jit" in imported} | ({"jit"} & imports.keys())
    while left:
        wanted |= left
        left = {i for name in left for i in imports[name]} & imports.keys() - wanted
    return [folder / f"{name}.py" for name in sorted(wanted)]


def _processor() -> str:
    """What tells machine code for this node from machine code for another: architecture, model, features."""
    lines = {platform.machine(), platform.processor()}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
            for line in cpuinfo:
                if not line.strip():
                    break  # the first core speaks for all
                if line.startswith(("model name", "flags", "Features", "CPU part")):
                    lines.add(line)
    except OSError:
        pass  # no /proc here: the architecture has to do
    return "".join(sorted(lines))


def _parents() -> Iterator[Path]:
    """Directories that the cache may go into, best first; the last one is always usable."""
    asked = os.environ.get("NUMBA_CACHE_DIR")
    if asked:
        parent = Path(asked).absolute()
        while parent.name.startswith(_PREFIX):  # inherited from a parent process that came through here
            parent = parent.parent
        yield parent
    with suppress(RuntimeError):  # no home directory can be determined
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow"
    shared = Path(tempfile.gettempdir()) / f"winnow-{os.getuid()}"
    # Cached kernels are pickles: a directory that somebody else made under our name is not trusted.
    if _writable(shared) and shared.stat().st_uid == os.getuid():
        yield shared
    yield Path(tempfile.mkdtemp(prefix="winnow-"))


def _writable(directory: Path) -> bool:
    """Make `directory` unless it is there, and say whether a file can be written into it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError:
        return False
    return True


def _use_cache() -> Path:
    """Point numba at the cache directory; also when somebody has imported numba already."""
    name = cache_name()
    directory = next(parent / name for parent in _parents() if _writable(parent / name))
    os.environ["NUMBA_CACHE_DIR"] = str(directory)
    importlib.import_module("numba.core.config").reload_config()
    return directory


CACHE_DIR = _use_cache()
"""Where this process reads and writes compiled kernels."""

import numba  # noqa: E402 - numba reads the variable set above when it is first imported
from numba import types  # noqa: E402

UTF8 = types.Array(types.uint8, 1, "C", readonly=True)
"""uint8[b]: text of all documents on end, valid UTF-8; also any read-only byte table."""
OFFSETS = types.Array(types.int64, 1, "C", readonly=True)
"""int64[n + 1]: document i is ``utf8[offsets[i]:offsets[i + 1]]``; ``offsets[0]`` is not 0 in a slice."""


# `_nrt` is numba's own switch for its reference counting; its type stubs do not list it.
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "_nrt": False}


def njit(signature: Any) -> Callable[[Callable], Callable]:
    """Compile a kernel for one signature when its module is imported, or load it from the cache.

    A kernel allocates nothing: its caller brings the output arrays. So numba's reference counting is switched
    off; left on, it counts the array arguments whenever one kernel calls another, and the pass of signals.py
    takes four times as long. The GIL is released while a kernel runs. Floating point keeps IEEE rules (never
    ``fastmath``), so that results do not depend on how a loop was vectorised.
    """
    return numba.njit(signature, **_OPTIONS)


def text_buffers(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """The column's own memory as ``(offsets, utf8)``, typed `OFFSETS` and `UTF8`; nothing is copied.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray (a ChunkedArray, or the ``string`` type with 32-bit offsets).
    ValueError
        It has nulls.
    """
    if not isinstance(texts, pa.LargeStringArray):
        raise TypeError(f"texts must be a pyarrow LargeStringArray, not {type(texts).__name__}")
    if texts.null_count:
        raise ValueError(f"texts must have no nulls; {texts.null_count} of {len(texts)} are null")
    _, offsets, utf8 = texts.buffers()
    if not len(texts):
        return _read_only(np.zeros(1, np.int64)), _read_only(np.zeros(0, np.uint8))
    window = np.frombuffer(offsets, np.int64, count=len(texts) + 1, offset=8 * texts.offset)
    return _read_only(window), _read_only(np.frombuffer(utf8 or b"", np.uint8))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
