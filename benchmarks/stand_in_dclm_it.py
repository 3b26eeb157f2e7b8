"""What do the nine sets that DCLM-1B-IT was tuned on look like, small?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stand_in import Case, data_set, digest, plant, rows_of, write_rows

UNANSWERED = 12
"""Rows of no-robots without an answer."""
TWO_QUESTIONS = 25
"""Rows of Nectar with a conversation before the question."""
CASES = [
    Case(
        "dclm-1b-it",
        ("tokenizer.name={shared}/tokenizers/gpt-neox-20b/tokenizer.json",),
        planted={"nectar": {"field": TWO_QUESTIONS}},
        lost={"no-robots": {"no-answer": UNANSWERED}},
    ),
]
ONE_FILE = "data/train-00000-of-00001.parquet"


def make(folder: Path, corpora: Path) -> None:
    """Write the data sets below folder/datasets."""
    pairs = _pairs(corpora)
    chats = {
        "HuggingFaceH4/ultrafeedback_binarized": (
            "data/train_sft-00000-of-00001.parquet",
            [
                {
                    "prompt": q,
                    "prompt_id": digest(q),
                    "chosen": _messages(q, a),
                    "rejected": _messages(q, "No."),
                    "messages": _messages(q, a),
                    "score_chosen": 8.0,
                    "score_rejected": 2.0,
                }
                for q, a in _take(pairs, 400)
            ],
        ),
        "allenai/tulu-v2-sft-mixture": (
            ONE_FILE,
            [
                {"dataset": "flan_v2", "id": f"flan_v2_{n}", "messages": _messages(q, a) + _messages(r, b)}
                for n, ((q, a), (r, b)) in enumerate(zip(_take(pairs, 500), _take(pairs, 500), strict=True))
            ],
        ),
        "HuggingFaceH4/no_robots": (
            ONE_FILE,
            [
                {
                    "prompt": q,
                    "prompt_id": digest(q + a),
                    "messages": _messages(q, a),
                    "category": "Brainstorm",
                }
                for q, a in _take(pairs, 400)
            ]
            + [
                {"prompt": q, "prompt_id": digest(q + a), "messages": _messages(q, a)[:1], "category": "Chat"}
                for q, a in _take(pairs, UNANSWERED)
            ],
        ),
        "allenai/WildChat": (
            ONE_FILE,
            [
                {
                    "conversation_id": digest(q),
                    "model": "gpt-4",
                    "conversation": [
                        {**m, "language": "English", "redacted": False, "toxic": False}
                        for m in _messages(q, a)
                    ],
                    "turn": 1,
                    "language": "English",
                }
                for q, a in _take(pairs, 400)
            ],
        ),
    }
    for name, (file, rows) in chats.items():
        write_rows(data_set(folder, name) / file, rows)
    _questions(folder, corpora, pairs)
    _nectar(data_set(folder, "berkeley-nest/Nectar"), pairs)
    hermes = [
        {
            "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}],
            "source": "airoboros2.2",
        }
        for q, a in _take(pairs, 800)
    ]
    place = data_set(folder, "teknium/OpenHermes-2.5") / "openhermes2_5.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(hermes, indent=1))


def _pairs(corpora: Path) -> Iterator[tuple[str, str]]:
    for row in rows_of(corpora, "instruct", "alpaca-en"):
        if row["output"].strip():
            yield "\n".join(filter(None, (row["instruction"], row["input"]))), row["output"]


def _take(pairs: Iterator[tuple[str, str]], n: int) -> list[tuple[str, str]]:
    return [next(pairs) for _ in range(n)]


def _messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]


def _questions(folder: Path, corpora: Path, pairs: Iterator[tuple[str, str]]) -> None:
    code = [row for row in rows_of(corpora, "instruct", "codealpaca") if row["output"].strip()]
    write_rows(
        data_set(folder, "m-a-p/CodeFeedback-Filtered-Instruction")
        / "CodeFeedback-Filtered-Instruction.jsonl",
        (
            {
                "query": f"{r['instruction']}\n{r['input']}",
                "answer": r["output"],
                "resource": "evol",
                "lang": "python",
            }
            for r in code[:500]
        ),
    )
    solved = list(rows_of(corpora, "math", "gsm8k-train"))[:600]
    write_rows(
        data_set(folder, "TIGER-Lab/WebInstructSub") / ONE_FILE,
        (
            {
                "orig_question": r["question"],
                "orig_answer": r["answer"],
                "source": "mathstackexchange",
                "question": r["question"],
                "answer": r["answer"],
                "index": n,
            }
            for n, r in enumerate(solved)
        ),
    )
    write_rows(
        data_set(folder, "bigcode/self-oss-instruct-sc2-exec-filter-50k") / ONE_FILE,
        (
            {
                "fingerprint": None,
                "sha1": digest(r["output"]),
                "seed": r["input"],
                "response": r["output"],
                "concepts": ["lists"],
                "prompt": r["instruction"],
                "instruction": r["instruction"],
                "id": n,
            }
            for n, r in enumerate(code[500:1000])
        ),
    )


def _nectar(root: Path, pairs: Iterator[tuple[str, str]]) -> None:
    """Answers lie in any order, with their ranks; conversations of two questions are not for the recipe."""

    def row(prompt: str, answer: str, turns: int) -> dict[str, Any]:
        ranked = [{"answer": "I do not know.", "model": "small", "rank": 2.0}]
        return {
            "prompt": prompt,
            "answers": [*ranked, {"answer": answer, "model": "large", "rank": 1.0}],
            "turns": turns,
            "num_responses": 2,
            "source": ["sharegpt"],
            "good_natured": True,
        }

    rows = [row(f"\n\nHuman: {q}\n\nAssistant: ", a, 1) for q, a in _take(pairs, 300)]
    rows += [
        plant(row(f"\n\nHuman: {q}\n\nAssistant: {a}\n\nHuman: Why?\n\nAssistant: ", a, 2), "field")
        for q, a in _take(pairs, TWO_QUESTIONS)
    ]
    write_rows(root / "data/rlaif.parquet", [{"planted": None, **r} for r in rows])
