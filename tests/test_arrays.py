"""Is an array written whole, or is there an error?"""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from winnow.shards import arrays, exchange

ROW = np.dtype([("key", "<u8"), ("id", "S16"), ("share", "<f4")])
ANY = of_numpy.arrays(
    st.sampled_from(["<u2", "<i8", "<f2", "<f8", ">u4", "?", "S5", ROW]),
    of_numpy.array_shapes(min_dims=1, min_side=0),
)
FULL = Path("/dev/full")
full_device = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@given(ANY, st.sampled_from([slice(None), slice(None, None, 2), slice(None, None, -1)]), st.booleans())
def test_bytes_are_those_that_numpy_writes(tmp_path_factory, array, part, turned):
    array = array[part].T if turned else array[part]
    place = tmp_path_factory.mktemp("a") / "a"
    array.tofile(place)
    file = io.BytesIO()
    arrays.write(file, array)
    assert file.getvalue() == place.read_bytes() == array.tobytes()


@given(ANY)
def test_saved_is_what_numpy_saves(array):
    ours, numpys = io.BytesIO(), io.BytesIO()
    arrays.save(ours, array)
    np.save(numpys, np.ascontiguousarray(array))
    assert ours.getvalue() == numpys.getvalue()


def test_saved_whatever_its_order():
    array = np.asfortranarray(np.arange(12).reshape(3, 4))
    file = io.BytesIO()
    arrays.save(file, array)
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), array)


@full_device
@pytest.mark.parametrize("n", [1, 100, 1000, 100_000])
@pytest.mark.parametrize("put", [arrays.write, arrays.save])
def test_a_full_disk_is_an_error_however_small_the_array(put, n):
    with pytest.raises(OSError, match="No space left") as caught, open(FULL, "wb") as file:
        put(file, np.zeros(n, np.uint16))
    assert caught.value.errno == errno.ENOSPC


@full_device
def test_a_run_of_an_exchange_that_finds_no_room_is_an_error():
    rows = np.zeros(3, ROW)
    with pytest.raises(OSError, match="No space left"):
        exchange.write_run(str(FULL), rows, "key", np.empty(0, np.uint64), None, None)


def test_no_task_commits_what_it_could_not_write(tmp_path):
    """As on a full disk: no file may grow beyond a limit, and the process lives to be told."""
    program = """
import resource, signal, sys
import numpy as np
from winnow.pipelines.records import Outputs
from winnow.shards import arrays
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
outputs = Outputs(sys.argv[1])
with outputs.file("few.bin") as path, open(path, "wb") as file:
    arrays.write(file, np.zeros(100, np.uint16))
try:
    with outputs.file("many.bin") as path, open(path, "wb") as file:
        arrays.write(file, np.zeros(1000, np.uint16))
except OSError:
    print("told")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "told\n"
    assert [(p.name, p.stat().st_size) for p in tmp_path.iterdir()] == [("few.bin", 200)]
