"""What does Minotaur's fine-tuning corpus look like at a megabyte?

The repositories that pipelines/minotaur-7b-sft.yaml reads, with their directories, file names and columns. Questions
with choices are ARC's, in the schemas of the others.
"""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stand_in import Case, chosen, data_set, digest, plant, rows_of, texts_of, write_rows
from stand_in_pints import exchanges, write_list

UNANSWERED = 6
SIMILARITIES = (0.6, 0.7, 0.8, 0.9)
SUBSET = 120
"""Rows of GPTeacher's first file that a further one has again, at the lowest similarity; twice as many at the next."""
CASES = [
    Case(
        "minotaur-7b-sft",
        ("tokenizer.name={shared}/tokenizers/gpt-neox-20b/tokenizer.json",),
        planted={"gpteacher": {"exact": SUBSET * sum(range(1, len(SIMILARITIES) + 1))}},
        lost={"gpteacher": {"no-answer": UNANSWERED}},
    ),
]

Question = tuple[str, list[str], int]
FIELDS = ("math", "physics", "chemistry", "biology")
LABELS = "ABCDEFGH"


def make(folder: Path, corpora: Path) -> None:
    """Write the data sets below folder/datasets."""
    asked = questions(corpora.parent / "benchmarks")
    _hellaswag(data_set(folder, "Rowan/hellaswag"), asked[:700])
    _arc(data_set(folder, "allenai/ai2_arc"), asked[700:1400])
    _riddle_sense(data_set(folder, "INK-USC/riddle_sense"), asked[1400:1900])
    _science_qa(data_set(folder, "metaeval/ScienceQA_text_only"), asked[1900:2600])
    problems = list(itertools.islice(rows_of(corpora, "math", "gsm8k-train"), 900))
    columns = [{"question": row["question"], "answer": row["answer"]} for row in problems]
    write_rows(data_set(folder, "openai/gsm8k") / "main/train-00000-of-00001.parquet", columns)
    _instructions(folder, corpora)
    _tldr(data_set(folder, "openai/summarize_from_feedback"), corpora)


def questions(folder: Path) -> list[Question]:
    """(question, choices, number of the right one)."""
    rows = itertools.chain(
        *(rows_of(folder.parent, folder.name, task) for task in ("arc-easy", "arc-challenge"))
    )
    return [(row["query"].removeprefix("Question: "), row["choices"], row["gold"]) for row in rows]


def _hellaswag(root: Path, asked: Sequence[Question]) -> None:
    rows = [
        {
            "ind": n,
            "activity_label": "Science",
            "ctx": ctx,
            "endings": endings,
            "split": "train",
            "label": str(gold),
        }
        for n, (ctx, endings, gold) in enumerate(asked)
    ]
    write_rows(root / "data/train-00000-of-00001.parquet", rows)
    write_rows(root / "data/validation-00000-of-00001.parquet", rows[:5])


def lettered(asked: Question, id_: str) -> dict[str, Any]:
    """A row as of ARC."""
    question, choices, gold = asked
    letters = list(LABELS[: len(choices)])
    return {
        "id": id_,
        "question": question,
        "choices": {"text": choices, "label": letters},
        "answerKey": letters[gold],
    }


def _arc(root: Path, asked: Sequence[Question]) -> None:
    half = len(asked) // 2
    for name, part in (("ARC-Easy", asked[:half]), ("ARC-Challenge", asked[half:])):
        rows = [lettered(one, digest(one[0])[:8]) for one in part]
        write_rows(root / name / "train-00000-of-00001.parquet", rows)
        write_rows(root / name / "test-00000-of-00001.parquet", rows[:5])


def _riddle_sense(root: Path, asked: Sequence[Question]) -> None:
    rows = [lettered(one, "") for one in asked]
    for row in rows:
        del row["id"]
    write_rows(root / "default/train/0000.parquet", rows)


def _science_qa(root: Path, asked: Sequence[Question]) -> None:
    rows = [
        {
            "question": question,
            "choices": choices,
            "answer": gold,
            "hint": "",
            "task": "closed choice",
            "lecture": "",
            "solution": f"The answer is {choices[gold]}." if n % 2 else "",
        }
        for n, (question, choices, gold) in enumerate(asked)
    ]
    write_rows(root / "data/train-00000-of-00001.parquet", rows)
    write_rows(root / "data/test-00000-of-00001.parquet", rows[:5])


def _instructions(folder: Path, corpora: Path) -> None:
    pairs = exchanges(corpora)
    wizard = [{"instruction": q, "output": a} for q, a in itertools.islice(pairs, 1500)]
    write_list(
        data_set(folder, "ehartford/WizardLM_alpaca_evol_instruct_70k_unfiltered")
        / "WizardLM_alpaca_evol_instruct_70k_unfiltered.json",
        wizard,
    )
    _gpteacher(data_set(folder, "teknium/GPTeacher-General-Instruct"), corpora)
    for name in FIELDS:
        _camel(data_set(folder, f"camel-ai/{name}") / f"{name}.zip", name, list(itertools.islice(pairs, 500)))


def _gpteacher(root: Path, corpora: Path) -> None:
    """A file with all rows, and four with those of them that were left at a bound on similarity."""
    columns = ("instruction", "input", "response")
    rows = [{c: row[c] for c in columns} for row in rows_of(corpora, "instruct", "gpteacher-roleplay")]
    by_text = {
        tuple(row.values()): row for row in rows if row["instruction"].strip() and row["response"].strip()
    }
    rows = list(by_text.values())[:900]
    unanswered = [{**row, "response": " "} for row in rows[:UNANSWERED]]
    write_list(
        root / "gpt4-instruct-dedupe-only-dataset.json",
        [{**row, "planted": None} for row in (*rows, *unanswered)],
    )
    for n, similarity in enumerate(SIMILARITIES, 1):
        again = [plant(row, "exact") for row in rows[: n * SUBSET]]
        write_list(root / f"gpt4-instruct-similarity-{similarity}-dataset.json", again)


def _camel(path: Path, field: str, pairs: Sequence[tuple[str, str]]) -> None:
    """An archive with a file for each conversation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for n, (question, answer) in enumerate(pairs):
            row = {"role_1": f"{field.title()}_RLHF", "topic;": field, "sub_topic": f"part {n % 25}"}
            row |= {"message_1": question, "message_2": answer}
            # The date of zip's epoch: two stand-ins are equal files.
            archive.writestr(zipfile.ZipInfo(f"{n // 25:03}_{n % 25:03}.json"), json.dumps(row))
    path.write_bytes(data.getvalue())


def _tldr(root: Path, corpora: Path) -> None:
    posts = chosen(texts_of(corpora, "web_prose", megabytes=4, longest=1800), (120, 400))[:500]
    rows = [
        {
            "info": {"id": f"t3_{n}", "post": post, "title": post[:40], "subreddit": "tifu", "site": None},
            "summaries": [
                {"text": f" {' '.join(post.split()[k : k + 25])}.", "policy": f"sup{k}", "note": "ok"}
                for k in (0, 25)
            ],
            "choice": n % 2,
            "worker": "w",
            "batch": "batch3",
            "split": "train",
        }
        for n, post in enumerate(posts)
    ]
    write_rows(root / "comparisons/train/0000.parquet", rows)
