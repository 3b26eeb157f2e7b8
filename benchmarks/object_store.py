"""An object on S3: what does a megabyte cost to read and to write, and a key to list, against s3fs?

    python benchmarks/object_store.py [--mb 128] [--keys 3000] [--rounds 3]

The S3 server is benchmarks/flaky_s3.py on this machine without faults, so its own speed, a Python program's, is in the
seconds that pass: what is compared is the client's CPU time (user + system of its process, after imports and a first
request). Every case is a process of its own; rounds alternate. Medians, with the range. `read` goes through the whole
object in pieces of 1 MiB, as readers do, `range` reads 32 MiB of it at once, `put` publishes the object from a file,
`list` walks the keys of a prefix with their sizes. Winnow's `put` asks for the object's size afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from corpus import machine
from fault_kinds import BUCKET, Store
from winnow.shards import storage

CASES = ("read", "range", "put", "list")
PEERS = ("winnow", "s3fs")
RANGE = 32 << 20
PIECE = 1 << 20


def ours(case: str, file: Path) -> Callable[[], int]:
    """What Winnow does; bytes moved, or keys seen."""
    place = f"s3://{BUCKET}/large"

    def read() -> int:
        with storage.open_input(place) as opened:
            return sum(map(len, iter(lambda: opened.read(PIECE), b"")))

    def put() -> int:
        with storage.commit(f"s3://{BUCKET}/put-by-winnow") as path:
            os.link(file, path)
        return file.stat().st_size

    return {
        "read": read,
        "range": lambda: len(storage.read_range(place, 5, RANGE)),
        "put": put,
        "list": lambda: len(storage.list_files(f"s3://{BUCKET}/keys")),
    }[case]


def theirs(case: str, file: Path) -> Callable[[], int]:
    """What s3fs does, as its documentation has it."""
    import s3fs

    fs = s3fs.S3FileSystem(use_listings_cache=False)
    place = f"{BUCKET}/large"

    def read() -> int:
        with fs.open(place, "rb") as opened:
            return sum(map(len, iter(lambda: opened.read(PIECE), b"")))

    def put() -> int:
        fs.put_file(str(file), f"{BUCKET}/put-by-s3fs")
        return file.stat().st_size

    return {
        "read": read,
        "range": lambda: len(fs.cat_file(place, start=5, end=5 + RANGE)),
        "put": put,
        "list": lambda: len(fs.find(f"{BUCKET}/keys", detail=True)),
    }[case]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_kb() -> int:
    """Of this program; getrusage would count what the process was before it began."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def measure(peer: str, case: str, file: Path) -> None:
    """Print what a case took, as JSON: amount moved, CPU seconds, seconds, MB of memory that were added."""
    work = (ours if peer == "winnow" else theirs)(case, file)
    if peer == "winnow":
        storage.read_range(f"s3://{BUCKET}/large", 0, 1)
    else:
        import s3fs

        s3fs.S3FileSystem().cat_file(f"{BUCKET}/large", start=0, end=1)
    before, began, used = peak_kb(), time.perf_counter(), cpu()
    amount = work()
    took = {"amount": amount, "cpu": cpu() - used, "seconds": time.perf_counter() - began}
    took["memory"] = (peak_kb() - before) / 1e3
    print(json.dumps(took))


def spread(values: list[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def report(taken: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    print(f"\n{'':8}{'':8}{'per CPU second':>28}{'per second':>26}{'memory added, MB':>26}")
    for case in CASES:
        unit, scale, digits = ("keys", 1, 0) if case == "list" else ("MB", 1e6, 0)
        rates = {}
        for peer in PEERS:
            runs = taken[case, peer]
            rates[peer] = [run["amount"] / scale / run["cpu"] for run in runs]
            columns = (
                f"{spread(rates[peer], digits)} {unit}",
                f"{spread([run['amount'] / scale / run['seconds'] for run in runs], digits)} {unit}",
                spread([run["memory"] for run in runs], 0),
            )
            print(f"{case:8}{peer:8}{columns[0]:>28}{columns[1]:>26}{columns[2]:>26}")
        ratio = statistics.median(rates["winnow"]) / statistics.median(rates["s3fs"])
        print(f"{case:8}winnow ÷ s3fs, per CPU second: {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=128)
    parser.add_argument("--keys", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        measure(asked.case[0], asked.case[1], Path(asked.case[2]))
        return
    print(machine())
    folder = Path(tempfile.mkdtemp(prefix="winnow-object-store-"))
    taken: dict[tuple[str, str], list[dict[str, float]]] = {(c, p): [] for c in CASES for p in PEERS}
    try:
        with contextlib.closing(Store(folder, 0)) as store:
            os.environ.update(store.environment)
            file = folder / "large"
            file.write_bytes(os.urandom(asked.mb * 1_000_000))
            storage.put_bytes(f"s3://{BUCKET}/large", file.read_bytes())
            for i in range(asked.keys):
                storage.put_bytes(f"s3://{BUCKET}/keys/{i % 7}/{i:06}", b"x")
            for _ in range(asked.rounds):
                for case, peer in taken:
                    command = [sys.executable, __file__, "--case", peer, case, str(file)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    taken[case, peer].append(json.loads(done.stdout))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    amounts = {(c, p): {run["amount"] for run in runs} for (c, p), runs in taken.items()}
    assert all(amounts[c, "winnow"] == amounts[c, "s3fs"] for c in CASES), amounts
    report(taken)


if __name__ == "__main__":
    main()
