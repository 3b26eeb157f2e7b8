"""Where do files lie until they are finished, or while a sort needs them?

In a directory of this node: what `--scratch` says (the environment variable WINNOW_SCRATCH in every process of a run),
or the system's temporary directory (TMPDIR). Nothing in it outlives the work it is for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

VARIABLE = "WINNOW_SCRATCH"


def directory() -> str:
    """The scratch directory of this process."""
    return os.environ.get(VARIABLE) or tempfile.gettempdir()


@contextmanager
def folder() -> Iterator[Path]:
    """A new directory in scratch, gone with all that is in it when the block ends. Raises OSError."""
    made = tempfile.mkdtemp(prefix="winnow-", dir=directory())
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def nameless() -> BinaryIO:
    """A file without a name, gone when it is closed. Raises OSError."""
    return tempfile.TemporaryFile(dir=directory())
