"""How does an array go into a file, whole or with an error?

`ndarray.tofile`, and `np.save` with it, write through a C stream of their own and do not look whether its last buffer
reached the file (NumPy 2): on a full disk an array is short, a small one empty, and nobody is told. Here its bytes go
through Python's file, whose `write` and `close` raise.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np


def write(file: BinaryIO, array: np.ndarray) -> None:
    """Append the bytes of an array, row by row. Raises OSError, at the latest when the file is flushed or closed."""
    file.write(np.ascontiguousarray(array).data)


def save(file: BinaryIO, array: np.ndarray) -> None:
    """Write an array as `np.save` does: a file `.npy` of version 1.0. Raises as `write`."""
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, {**header, "fortran_order": False})
    write(file, array)
