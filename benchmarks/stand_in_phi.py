"""What does the open corpus in place of phi-1.5's look like at a few megabytes?

The repositories that pipelines/phi-1.5.yaml reads, with their directories, file names and columns. Scores of the
annotated files are not a language model's: a file has more the more of it is said in docstrings and comments.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stand_in import Case, chosen, data_set, digest, plant, rows_of, texts_of, write_parts, write_rows
from stand_in_pints import exchanges, talks

UNANSWERED = 8
"""Questions without an answer, and dialogues."""
COPIES = 20
"""Python files that come twice."""
CASES = [
    Case(
        "phi-1.5",
        (
            "mixture.tokens=3.9M",
            "tokenizer.name={shared}/tokenizers/gpt-neox-20b/tokenizer.json",
            "embeddings.codegen.model={minilm}",
            "embeddings.codegen.pooling=mean",
            "embeddings.codegen.max_tokens=128",
            "embedding_classifiers.educational-value.scored.annotations.sample=250",
        ),
        planted={"python": {"exact": COPIES}},
        lost={"questions": {"no-answer": UNANSWERED}, "dialogues": {"no-answer": UNANSWERED}},
    ),
]

FILES = 500
"""Python files to choose from."""


def make(folder: Path, corpora: Path) -> None:
    """Write the data sets below folder/datasets."""
    books = chosen(texts_of(corpora, "textbooks", megabytes=6, longest=6000), (150, 2000))
    python = [row["content"][:8000] for row in rows_of(corpora, "code") if row["lang"] == "Python"]
    _textbooks(data_set(folder, "HuggingFaceTB/smollm-corpus"), books[:250])
    _tiny_textbooks(data_set(folder, "nampdn-ai/tiny-textbooks"), books[250:330])
    pairs = exchanges(corpora)
    _questions(data_set(folder, "nampdn-ai/tiny-orca-textbooks"), list(itertools.islice(pairs, 700)))
    _dialogues(data_set(folder, "HuggingFaceH4/ultrachat_200k"), talks(pairs, 350))
    _python(data_set(folder, "bigcode/starcoderdata"), python[:FILES])
    _annotations(data_set(folder, "HuggingFaceTB/python-edu-annotations"), python[FILES : FILES + 350])
    _code_textbooks(data_set(folder, "vikp/textbook_quality_programming"), corpora)
    _exercises(data_set(folder, "jinaai/code_exercises"), python)


def _textbooks(root: Path, books: Sequence[str]) -> None:
    rows = [
        {
            "prompt": f"Write a chapter about {text[:30]}",
            "text": text,
            "token_length": len(text) // 4,
            "audience": "college_students",
            "format": "textbook_academic",
            "seed_data": "stanford",
        }
        for text in books
    ]
    write_parts(root / "cosmopedia-v2", [f"train-{i:05}-of-00002.parquet" for i in range(2)], rows)
    # Web pages, which phi-1.5 has none of: not asked for.
    write_rows(root / "fineweb-edu-dedup/train-00000-of-00001.parquet", [{"text": "a page", "id": "1"}])


def _tiny_textbooks(root: Path, books: Sequence[str]) -> None:
    rows = [
        {"source": "refinedweb", "s": "a summary", "len": len(text), "idx": n, "textbook": text}
        for n, text in enumerate(books)
    ]
    write_rows(root / "train-00000-of-00001.parquet", rows)


def _questions(root: Path, pairs: Sequence[tuple[str, str]]) -> None:
    rows = [
        {"id": str(n), "prompt": "Answer as a teacher.", "textbook": q, "question": q, "response": a}
        for n, (q, a) in enumerate(pairs)
    ]
    rows += [{**row, "id": f"x{row['id']}", "response": ""} for row in rows[:UNANSWERED]]
    write_rows(root / "train-00000-of-00001.parquet", rows)


def _dialogues(root: Path, conversations: Sequence[Sequence[tuple[str, str]]]) -> None:
    def row(turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
        messages = [
            {"content": text, "role": role}
            for q, a in turns
            for role, text in (("user", q), ("assistant", a))
        ]
        return {"prompt": turns[0][0], "prompt_id": digest(turns[0][0]), "messages": messages}

    rows = [row(turns) for turns in conversations]
    rows += [{**row, "messages": row["messages"][:1]} for row in rows[:UNANSWERED]]
    write_parts(root / "data", [f"train_sft-{i:05}-of-00003.parquet" for i in range(3)], rows)


def _python(root: Path, files: Sequence[str]) -> None:
    def row(content: str, n: int) -> dict[str, Any]:
        return {
            "max_stars_repo_path": f"src/file_{n}.py",
            "max_stars_repo_name": "org/repository",
            "max_stars_count": n % 50 or None,
            "id": str(n),
            "content": content,
        }

    rows = [row(content, n) for n, content in enumerate(files)]
    copies = [row(content, n) for n, content in enumerate(files[:COPIES], len(files))]
    rows = [{"planted": None, **row} for row in rows] + [plant(row, "exact") for row in copies]
    write_parts(root / "python", [f"train-{i:05}-of-00002.parquet" for i in range(2)], rows)


def said(content: str) -> float:
    """Share of a file's lines that are comments, or of a docstring (by its quotes)."""
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    parts = content.split('"""')
    in_docstrings = sum(len(part.splitlines()) for part in parts[1::2])
    return (in_docstrings + sum(line.startswith("#") for line in lines)) / max(1, len(lines))


def _annotations(root: Path, files: Sequence[str]) -> None:
    order = sorted(files, key=said)
    rank = {content: n for n, content in enumerate(order)}
    rows = [
        {"text": content, "prompt": "On a scale of 1 to 5", "score": 1 + 5 * rank[content] // len(order)}
        for content in files
    ]
    write_rows(root / "data/train-00000-of-00001.parquet", rows)


def _code_textbooks(root: Path, corpora: Path) -> None:
    chapters = texts_of(corpora, "textbooks", longest=6000)[-45:]
    rows = [
        {"topic": text[:30], "model": "gpt-3.5-turbo", "concepts": [], "outline": ["1"], "markdown": text}
        for text in chapters
    ]
    write_rows(root / "data/train-00000-of-00001.parquet", rows)


def _exercises(root: Path, files: Sequence[str]) -> None:
    found = itertools.islice(itertools.chain.from_iterable(map(functions, files)), 200)
    write_rows(root / "data/train.parquet", [{"problem": head, "solution": body} for head, body in found])


def functions(content: str) -> Iterator[tuple[str, str]]:
    """(signature with docstring, the rest) of a file's documented functions."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # cut, or Python 2
        return
    lines = content.splitlines(keepends=True)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            first, last = node.body[0].end_lineno or 0, node.end_lineno or 0
            yield "".join(lines[node.lineno - 1 : first]), "".join(lines[first:last])
