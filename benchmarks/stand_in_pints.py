"""What do the corpora of 1.5-Pints look like at a few megabytes?

Expository-Prose-V1, and the seven sets of conversations that pipelines/pints-1.5-sft.yaml names, with their
directories, file names and columns.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stand_in import Case, data_set, digest, rows_of, texts_of, write_parts, write_rows

UNANSWERED = 5
"""Conversations of a set that end before an answer."""
TOO_LONG = 3
"""Conversations of a set whose first exchange is longer than a sample."""
CASES = [
    Case("pints-1.5"),
    Case(
        "pints-1.5-sft",
        lost={
            "capybara": {"no-answer": UNANSWERED},
            "slimorca": {"no-answer": UNANSWERED},
            "deita": {"max_tokens": TOO_LONG},
            "ultrachat-200k": {"max_tokens": TOO_LONG},
        },
    ),
]

SUBSETS = {"textbooks": 2.5, "books_en": 1.5, "wiki": 1.0, "tex": 0.5}
"""Of the column `source`, with megabytes."""
Exchange = tuple[str, str]


def make(folder: Path, corpora: Path) -> None:
    """Write the data sets below folder/datasets."""
    _prose(data_set(folder, "pints-ai/Expository-Prose-V1"), corpora)
    pairs = exchanges(corpora)
    _capybara(data_set(folder, "LDJnr/Capybara"), talks(pairs, 250))
    for name, n in (("deita-10k-v0-sft", 200), ("ultrachat_200k", 300)):
        _messages(data_set(folder, f"HuggingFaceH4/{name}"), talks(pairs, n))
    _llama_instruct(data_set(folder, "togethercomputer/llama-instruct"), talks(pairs, 150))
    _metamath(data_set(folder, "meta-math/MetaMathQA"), corpora)
    _slimorca(data_set(folder, "Open-Orca/SlimOrca-Dedup"), list(itertools.islice(pairs, 300)))
    _wizardlm(data_set(folder, "WizardLM/WizardLM_evol_instruct_V2_196k"), list(itertools.islice(pairs, 250)))


def exchanges(corpora: Path) -> Iterator[Exchange]:
    """Instructions with their answers, each once."""
    for row in rows_of(corpora, "instruct", "alpaca-en"):
        if row["instruction"].strip() and row["output"].strip():
            yield f"{row['instruction']}\n{row['input']}".strip(), row["output"]


def talks(pairs: Iterator[Exchange], n: int) -> list[list[Exchange]]:
    """Conversations of one to three exchanges."""
    return [list(itertools.islice(pairs, 1 + i % 3)) for i in range(n)]


def longest(turns: Sequence[Exchange]) -> list[Exchange]:
    """The same conversation with a question of some 4,000 tokens."""
    return [(" ".join([turns[0][0]] * (16_000 // (len(turns[0][0]) + 1) + 1)), turns[0][1]), *turns[1:]]


def write_list(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as one JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def _prose(root: Path, corpora: Path) -> None:
    rows = [
        {"source": name, "source_id": digest(text)[:16], "text": text}
        for name, megabytes in SUBSETS.items()
        for text in texts_of(corpora, name, megabytes=megabytes, longest=60_000)
    ]
    write_parts(root / "data", [f"train-{i:05}-of-00003.parquet" for i in range(3)], rows)


def _capybara(root: Path, conversations: Sequence[Sequence[Exchange]]) -> None:
    rows: list[dict[str, Any]] = [
        {"source": "Know-Logic", "conversation": [{"input": q, "output": a} for q, a in turns]}
        for turns in conversations
    ]
    unanswered = [{"input": turns[0][0], "output": ""} for turns in conversations[:UNANSWERED]]
    rows += [{"source": "GOAT", "conversation": [turn]} for turn in unanswered]
    write_rows(root / "CapybaraPure_Decontaminated.jsonl", rows)


def _messages(root: Path, conversations: Sequence[Sequence[Exchange]]) -> None:
    def row(turns: Sequence[Exchange]) -> dict[str, Any]:
        messages = [
            {"content": text, "role": role}
            for q, a in turns
            for role, text in (("user", q), ("assistant", a))
        ]
        return {"prompt": turns[0][0], "prompt_id": digest(turns[0][0]), "messages": messages}

    rows = [row(turns) for turns in conversations]
    rows += [row(longest(turns)) for turns in conversations[:TOO_LONG]]
    write_parts(root / "data", [f"train_sft-{i:05}-of-00002.parquet" for i in range(2)], rows)
    write_rows(root / "data/test_sft-00000-of-00001.parquet", rows[:5])


def _llama_instruct(root: Path, conversations: Sequence[Sequence[Exchange]]) -> None:
    rows = [
        {"text": "".join(f"[INST]\n{q}\n[/INST]\n{a}\n" for q, a in turns).rstrip("\n")}
        for turns in conversations
    ]
    write_rows(root / "train.jsonl", rows)


def _metamath(root: Path, corpora: Path) -> None:
    problems = itertools.islice(rows_of(corpora, "math", "gsm8k-train"), 600)
    kinds = ("GSM_Rephrased", "GSM_AnsAug", "GSM_FOBAR", "GSM_SV")
    rows = [
        {
            "type": kinds[n % len(kinds)],
            "query": row["question"],
            "original_question": row["question"],
            "response": row["answer"].replace("####", "The answer is:"),
        }
        for n, row in enumerate(problems)
    ]
    write_list(root / "MetaMathQA-395K.json", rows)


def _slimorca(root: Path, pairs: Sequence[Exchange]) -> None:
    rows = [
        {
            "conversations": [
                {"from": "system", "value": "You are a helpful assistant.", "weight": None},
                {"from": "human", "value": q, "weight": 0.0},
                {"from": "gpt", "value": a, "weight": 1.0},
            ]
        }
        for q, a in pairs
    ]
    rows += [{"conversations": row["conversations"][:2]} for row in rows[:UNANSWERED]]
    write_rows(root / "train.jsonl", rows)


def _wizardlm(root: Path, pairs: Sequence[Exchange]) -> None:
    rows = [
        {"idx": f"idx{n}", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for n, (q, a) in enumerate(pairs)
    ]
    write_list(root / "WizardLM_evol_instruct_V2_143k.json", rows)
