"""Are all processes of a run of one mind: the same code, the same libraries, the same tokenizer, the same RUN?

The driver writes its facts into RUN, under a name that nobody can guess. Every node reads them there, which shows
that it sees RUN, compares them with its own, and writes a file of its own that the driver looks for. Every worker
process does the first half again before its first task: nodes join while a run goes on, and what is installed may
have changed since the first worker started.

Results depend on these facts: another numba may round otherwise, another tokenizer gives other tokens.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson
from winnow.shards import storage

FOLDER = ".nodes"
"""Of RUN, while a run goes on, with a folder for each driver; what a killed one left is removed by the next."""
DRIVER = "driver"
ROOMS = ("pipelines", "filters", "tokenize", "shards")
PACKAGES = (
    *("ray", "numba", "llvmlite", "numpy", "pyarrow", "orjson", "xxhash", "zstandard"),
    *("tokenizers", "fastokens", "sentencepiece", "fasttext-community", "datasketch", "jinja2", "idna"),
)
"""What results of any recipe depend on: texts, tokens, hashes, and the bytes of what is written compressed."""
ON_GPUS = ("torch", "transformers", "safetensors")
"""A node without GPUs need not have these; where it has them, they have to be the same."""
ABSENT = "none"


class Disagreement(RuntimeError):
    """This process is not like the driver, or does not see RUN; the message names the node."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is compared beside Winnow, Python and `PACKAGES`."""

    packages: tuple[str, ...] = ()
    """Distributions that the recipe's steps need."""
    files: tuple[str, ...] = ()
    """Locations in RUN, by whose content results go: of the tokenizer."""


def facts(packages: Sequence[str] = (), files: Sequence[str] = ()) -> dict[str, str]:
    """What this process would work with. Raises OSError where a file cannot be read."""
    found = {
        "Winnow": _version("winnow"),
        "Winnow's sources": sources(),
        "Python": platform.python_version(),
        "machine": platform.machine(),
    }
    found |= {name: _version(name) for name in (*PACKAGES, *packages)}
    for file in files:
        name = "/".join(file.rsplit("/", 2)[1:])
        found[f"sha256 of {name}"] = hashlib.sha256(storage.read_bytes(file)).hexdigest()
    return found


def sources() -> str:
    """A digest of Winnow's own source files, as they lie on this machine's disk."""
    digest = hashlib.sha256()
    for room in ROOMS:
        spec = importlib.util.find_spec(f"winnow.{room}")
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).glob("*.py")):
                content = path.read_bytes()
                digest.update(f"{room}/{path.name}\0{len(content)}\0".encode())
                digest.update(content)
            break
    return digest.hexdigest()[:16]


def difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """What two processes would do differently, each with both values; None where they are of one mind."""
    differing = [
        f"{name}: {theirs.get(name, ABSENT)} there, {mine.get(name, ABSENT)} here"
        for name in dict.fromkeys((*mine, *theirs))
        if theirs.get(name, ABSENT) != mine.get(name, ABSENT)
        and not (name in ON_GPUS and theirs.get(name, ABSENT) == ABSENT)
    ]
    return "; ".join(differing) or None


def _version(distribution: str) -> str:
    """Without the part of torch's that says for which device it was built: `2.6.0+cpu`."""
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return ABSENT


@dataclass(frozen=True, slots=True)
class Pact:
    """What the driver of a run asks of every process that works for it."""

    run: str
    place: str
    """A folder of this driver's alone; empty where all processes are of one machine."""
    terms: Terms = Terms()
    rehearsal: Callable[[], None] | None = None
    """What compiles the run's kernels, where no node was there for certain to do so before."""
    rehearsed: str = ""
    """By which a node remembers that it did."""

    @property
    def facts(self) -> str:
        """Where the driver's facts are."""
        return storage.join(self.place, DRIVER)

    def of_node(self, node: str) -> str:
        """Where a node shows that it can write."""
        return storage.join(self.place, node)


def offer(run: str, terms: Terms, rehearsal: Callable[[], None]) -> Pact:
    """Write the driver's facts into RUN, which it holds; what a killed run left is removed. Raises OSError."""
    storage.remove(storage.join(run, FOLDER))
    pact = Pact(run, storage.join(run, FOLDER, secrets.token_hex(16)), terms)
    storage.put_bytes(pact.facts, orjson.dumps(facts(terms.packages, terms.files)))
    return with_rehearsal(pact, rehearsal)


def with_rehearsal(pact: Pact, rehearsal: Callable[[], None]) -> Pact:
    """The pact of processes that compile the run's kernels unless their node did."""
    from ray import cloudpickle

    key = hashlib.sha256(cloudpickle.dumps(rehearsal)).hexdigest()[:16]
    return replace(pact, rehearsal=rehearsal, rehearsed=key)


def end(pact: Pact) -> None:
    """Remove what shows that nodes see RUN; what another driver put there, who came after, stays. Raises OSError."""
    if not pact.place:
        return
    storage.remove(pact.place)
    if storage.is_local(pact.run):
        with suppress(OSError):  # another driver's is in it, or it is gone
            os.rmdir(storage.local_path(storage.join(pact.run, FOLDER)))


def agree(pact: Pact, where: str) -> None:
    """Compare this process, on the node `where`, with the driver.

    Raises Disagreement where they differ or RUN is not seen, OSError where storage fails now and may serve later.
    """
    if not pact.place:
        return
    try:
        mine = orjson.loads(storage.read_bytes(pact.facts))
        theirs = facts(pact.terms.packages, pact.terms.files)
    except FileNotFoundError as error:
        raise Disagreement(
            f"{pact.run} is not shared by the nodes: {where} does not see what the driver wrote there"
        ) from error
    except OSError as error:
        if not (isinstance(error, PermissionError) or getattr(error, "permanent", False)):
            raise
        raise Disagreement(f"node {where} cannot read {pact.run}: {error}") from error
    except ImportError as error:
        raise Disagreement(f"node {where} cannot read {pact.run}: {error}") from error
    if differing := difference(mine, theirs):
        raise Disagreement(f"node {where} is not like the driver: {differing}")


def rehearse(pact: Pact, always: bool = False) -> None:
    """Compile the run's kernels unless a process of this node did: one does, the others wait for it.

    always : do it here, too, even if that only loads what was compiled.
    """
    if pact.rehearsal is None:
        return
    from winnow.filters.jit import CACHE_DIR

    # Where kernels cannot be kept, this directory is the process's own, and every process compiles for itself.
    with open(CACHE_DIR / "rehearsed", "a+", encoding="ascii") as file:
        with suppress(OSError):  # a file system without locks: then several may compile the same
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if pact.rehearsed not in file.read().split():
            pact.rehearsal()
            file.write(f"{pact.rehearsed}\n")
            return
    if always:
        pact.rehearsal()
