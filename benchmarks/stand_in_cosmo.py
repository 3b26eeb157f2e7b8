"""What does Cosmo-1B's corpus look like at a few megabytes?

The repositories that pipelines/cosmo-1b.yaml reads, with their directories, file names and columns: Cosmopedia's eight
configs, AutoMathText, The Stack's notebooks, UltraChat, and the benchmark texts that it is decontaminated by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stand_in import (
    Case,
    chosen,
    data_set,
    digest,
    members_of,
    plant,
    rows_of,
    texts_of,
    write_parts,
    write_rows,
)

BROKEN = 1
"""Notebooks that are none; a split may have one malformed row in a hundred."""
UNANSWERED = 6
"""Conversations that end before an answer."""
COPIES = 15
"""Near copies planted in a config."""
ITEMS = 12
"""Items of benchmarks planted in one."""
LOW_SCORES = 8
"""Rows of a file of AutoMathText that its name does not promise."""
CONFIGS = {
    "web_samples_v1": (("web_prose",), 1.6, "blogpost", 3),
    "web_samples_v2": (("docs_en",), 1.2, "textbook_academic", 2),
    "stories": (("books_en",), 0.6, "story_children", 2),
    "auto_math_text": (("tex",), 0.4, "textbook_academic", 1),
    "stanford": (("textbooks",), 0.4, "textbook", 1),
    "wikihow": (("wiki",), 0.25, "wikihow", 1),
    "openstax": (("readmes",), 0.25, "textbook", 1),
    "khanacademy": (("books_multi",), 0.15, "textbook", 1),
}
"""Of Cosmopedia: where the text is from, its megabytes, the column `format`, and files."""
CASES = [
    Case(
        "cosmo-1b",
        (
            "dedup.decontaminate.benchmarks.phi2-eval.path="
            "{folder}/datasets/HuggingFaceTB/phi2_eval_data_for_decontamination/data/*.parquet",
        ),
        planted={
            "automathtext-code": {"field": 2 * LOW_SCORES},
            "automathtext-web": {"field": 2 * LOW_SCORES},
            **{name.replace("_", "-"): {"minhash": COPIES, "decontaminate": ITEMS} for name in CONFIGS},
        },
        lost={"notebooks": {"not-a-notebook": BROKEN}, "ultrachat": {"no-answer": UNANSWERED}},
    ),
]

COLUMNS = ("prompt", "text_token_length", "text", "seed_data", "format", "audience")
EVENTS = ("stars", "issues", "forks")


def make(folder: Path, corpora: Path) -> None:
    """Write the data sets below folder/datasets."""
    items = benchmark_items(corpora.parent / "benchmarks")
    benchmarks = data_set(folder, "HuggingFaceTB/phi2_eval_data_for_decontamination")
    write_rows(benchmarks / "data/train-00000-of-00001.parquet", items)
    _cosmopedia(data_set(folder, "HuggingFaceTB/cosmopedia"), corpora, [item["text"] for item in items])
    _automathtext(data_set(folder, "math-ai/AutoMathText"), corpora)
    _notebooks(data_set(folder, "bigcode/the-stack-dedup"), corpora)
    _ultrachat(data_set(folder, "stingning/ultrachat"), corpora)


def benchmark_items(folder: Path) -> list[dict[str, str]]:
    """Questions of benchmarks, as the data set has them that Cosmopedia was decontaminated by."""
    return [
        {"text": row["query"].removeprefix("Question: "), "task_name": task}
        for task in ("arc-challenge", "arc-easy")
        for row in itertools.islice(rows_of(folder.parent, folder.name, task), 300)
    ]


def _cosmopedia(root: Path, corpora: Path, items: Sequence[str]) -> None:
    telling = [item for item in items if len(item.split()) >= 30][: ITEMS * len(CONFIGS)]
    for n, (config, (folders, megabytes, form, files)) in enumerate(CONFIGS.items()):
        order = COLUMNS[n % len(COLUMNS) :] + COLUMNS[: n % len(COLUMNS)]

        def row(text: str, form: str = form, order: Sequence[str] = order) -> dict[str, Any]:
            values = {
                "prompt": f"Write about {text[:40]}",
                "text_token_length": len(text) // 4,
                "text": text,
                "seed_data": form,
                "format": form,
                "audience": "general",
            }
            return {name: values[name] for name in order}

        texts = list(
            dict.fromkeys(chosen(texts_of(corpora, *folders, megabytes=megabytes, longest=8000), (80, 3000)))
        )
        rows = [row(text) for text in texts]
        # A copy is shorter: of a set of near-duplicates the longest text stays.
        copies = [" ".join(text.split(" ")[:-3]) for text in texts[:: max(1, len(texts) // COPIES)]][:COPIES]
        rows += [plant(row(text), "minhash") for text in copies]
        mine = telling[n * ITEMS : (n + 1) * ITEMS]
        with_items = [f"{texts[-1 - k][:300]}\n\n{item}\n" for k, item in enumerate(mine)]
        rows += [plant(row(text), "decontaminate") for text in with_items]
        names = [f"train-{i:05}-of-{files:05}.parquet" for i in range(files)]
        write_parts(root / "data" / config, names, [{"planted": None, **row} for row in rows])


def _automathtext(root: Path, corpora: Path) -> None:
    """Two files of each kind, an empty one, and in every file rows that its name does not promise."""
    pages = texts_of(corpora, "textbooks", megabytes=1.2, longest=6000)[-120:]
    code = [row["content"] for row in rows_of(corpora, "code") if row["lang"] == "Python"][:260]

    def row(text: str, n: int, score: float, url: str) -> dict[str, Any]:
        scores = {"lm_name": "Qwen/Qwen-72B", "lm_label": {}, "lm_q1_score": score, "lm_q2_score": score}
        return {
            "url": url,
            "text": text[:6000],
            "date": "2021-03-14",
            "meta": scores | {"lm_q1q2_score": score},
        }

    def rows(texts: Sequence[str], low: float, domain: str) -> Iterator[dict[str, Any]]:
        for n, text in enumerate(texts):
            yield row(text, n, low + 0.01 * (n % 5), f"https://{domain}/{digest(text)[:12]}")

    for kind, texts, lowest in (("web", pages, 0.5), ("code/python", code, 0.6)):
        half, domain = len(texts) // 2, f"{kind.split('/')[0]}.example.org"
        for k, part in enumerate((texts[:half], texts[half:])):
            low = lowest + 0.05 * k
            found = list(rows(part, low, domain))
            below = [
                row(text, n, lowest - 0.2, f"https://{domain}/low/{n}")
                for n, text in enumerate(part[:LOW_SCORES])
            ]
            found += [plant(one, "field") for one in below]
            write_rows(root / f"data/{kind}/{low:.2f}-{low + 0.05:.2f}.jsonl", found)
        write_rows(root / f"data/{kind}/0.95-1.00.jsonl", [])
        # Not asked for.
        write_rows(root / f"data/{kind}/0.30-0.35.jsonl", list(rows(texts[:5], 0.3, domain)))


def _notebooks(root: Path, corpora: Path) -> None:
    files = [(name, data) for name, data in members_of(corpora, "notebooks") if len(data) < 60_000]

    def row(name: str, content: str) -> dict[str, Any]:
        owner: dict[str, Any] = {}
        for event in EVENTS:
            owner |= {f"max_{event}_repo_path": name, f"max_{event}_repo_name": "org/notebooks"}
            owner |= {f"max_{event}_repo_licenses": ["Apache-2.0"], f"max_{event}_count": None}
        sizes = {"size": len(content.encode()), "ext": "ipynb", "lang": "Jupyter Notebook"}
        return {"hexsha": digest(content), **sizes, **owner, "content": content}

    rows = [row(name, data.decode()) for name, data in files]
    rows += [row(f"broken-{n}.ipynb", '{"cells": [{"cell_type": "code", "sou') for n in range(BROKEN)]
    write_rows(root / "data/jupyter-notebook/data-00000-of-00001.parquet", rows)


def _ultrachat(root: Path, corpora: Path) -> None:
    answered = (
        r
        for r in rows_of(corpora, "instruct", "alpaca-en")
        if r["instruction"].strip() and r["output"].strip()
    )
    pairs = ((row["instruction"], row["output"]) for row in answered)
    talks = [list(itertools.islice(pairs, 1 + n % 3)) for n in range(900)]
    rows = [{"id": str(n), "data": [text for pair in talk for text in pair]} for n, talk in enumerate(talks)]
    rows += [{"id": f"x{n}", "data": [talk[0][0]]} for n, talk in enumerate(talks[:UNANSWERED])]
    write_parts(root, [f"train_{i}.jsonl" for i in range(3)], rows)
