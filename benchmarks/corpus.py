"""Input for the benchmarks: documents of real text as plain JSONL, from a folder of `*.jsonl.zst` files.

Every document is used once. A folder is a source; its rows have a column `text`.
"""

from __future__ import annotations

import json
import platform
import random
from pathlib import Path

import zstandard

PROSE = ("books_en", "web_prose", "textbooks", "wiki", "docs_en")
OTHER = ("code", "tex", "web_docs_multi", "books_multi", "readmes", "instruct", "math", "licences")


def write_sources(corpora: Path, out: Path, megabytes: float) -> dict[str, int]:
    """Write `prose.jsonl` and `other.jsonl` of together about `megabytes` of text; bytes of text by source."""
    written = {}
    whole = int(megabytes * 1e6)
    for name, folders in (("prose", PROSE), ("other", OTHER)):
        size = 0
        with open(out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for folder in folders:
                for path in sorted((corpora / folder).glob("*.jsonl.zst")):
                    with zstandard.open(path, "rt", encoding="utf-8") as lines:
                        for line in lines:
                            row = json.loads(line)
                            text = row.get("text")
                            if text and size + sum(written.values()) < whole:
                                file.write(
                                    json.dumps({"text": text, "id": row.get("id")}, ensure_ascii=False) + "\n"
                                )
                                size += len(text.encode())
        written[name] = size
    return written


def write_generated(out: Path, megabytes: float, seed: int = 17) -> int:
    """Write `generated.jsonl`: documents of random words, of which hardly any two share a phrase; bytes of text."""
    draw = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(50_000)]
    stops = ["the", "of", "and", "to", "that", "with"]
    size, whole = 0, int(megabytes * 1e6)
    with open(out / "generated.jsonl", "w") as file:
        while size < whole:
            sentences = []
            for _ in range(draw.randint(10, 60)):
                picked = draw.choices(words, k=draw.randint(5, 20)) + draw.choices(stops, k=3)
                draw.shuffle(picked)
                sentences.append(" ".join(picked) + ".")
            text = "\n".join(sentences)
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text)
    return size


def machine() -> str:
    """One line on what this was run on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    import os

    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.platform()}"
