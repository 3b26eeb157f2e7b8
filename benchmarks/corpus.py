"""Input for the benchmarks: documents of real text as plain JSONL, from a folder of `*.jsonl.zst` files.

Every document is used once; its text is the column `text`, or `html` where there is none.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import zstandard

PROSE = ("books_en", "web_prose", "textbooks", "wiki", "docs_en")
OTHER = ("code", "tex", "web_docs_multi", "books_multi", "readmes", "instruct", "math", "licences", "low_quality",
         "web_crawl_text", "web_html_mdn")  # fmt: skip


def texts_of(corpora: Path, folders: Iterable[str]) -> Iterator[str]:
    """The text of every document of some folders, in the order of their files."""
    for text, _ in documents_of(corpora, folders):
        yield text


def documents_of(corpora: Path, folders: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """(text, id) of every document of some folders that has text, in the order of their files."""
    for folder in folders:
        for path in sorted((corpora / folder).glob("*.jsonl.zst")):
            with zstandard.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    if text := row.get("text") or row.get("html"):
                        yield text, row.get("id")


def write_sources(corpora: Path, out: Path, megabytes: float) -> dict[str, int]:
    """Write `prose.jsonl` and `other.jsonl` of together about `megabytes` of text; bytes of text by source."""
    written: dict[str, int] = {}
    whole = int(megabytes * 1e6)
    for name, folders in (("prose", PROSE), ("other", OTHER)):
        size = 0
        with open(out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for text, id_ in documents_of(corpora, folders):
                if size + sum(written.values()) >= whole:
                    break
                file.write(json.dumps({"text": text, "id": id_}, ensure_ascii=False) + "\n")
                size += len(text.encode())
        written[name] = size
    return written


def write_generated(out: Path, megabytes: float, seed: int = 17) -> int:
    """Write `generated.jsonl`: documents of random words, of which hardly any two share a phrase; bytes of text."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgk", np.uint8)
    words = np.full((50_000, 8), ord(" "), np.uint8)
    words[:, :7] = letters[rng.integers(0, len(letters), (50_000, 7))]
    size, whole = 0, int(megabytes * 1e6)
    with open(out / "generated.jsonl", "wb") as file:
        while size < whole:
            text = words[rng.integers(0, len(words), 1 << 17)].tobytes()
            edges = np.sort(rng.integers(0, len(text), 400)) // 8 * 8
            for start, stop in itertools.pairwise(edges.tolist()):
                if stop > start:
                    file.write(b'{"text": "' + text[start:stop] + b'"}\n')
                    size += stop - start
    return size


def machine() -> str:
    """One line on what this was run on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.platform()}"
