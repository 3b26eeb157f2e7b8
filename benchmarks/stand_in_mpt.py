"""What does MPT-7B's corpus look like at a millionth of its size?

The repositories that pipelines/mpt-7b.yaml reads, with their directories, file names and columns. Sizes are such that
at 6 M tokens eight of the ten sources are read about as often as the model card says; of mC4 and RedPajama's
CommonCrawl there is not as much text here as that would take.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from stand_in import Case, chosen, data_set, digest, plant, rows_of, texts_of, write_parts, write_rows

CASES = [
    # Clusters of some 26 documents: 11,000 of them are for C4's 365 M.
    Case(
        "mpt-7b",
        (
            "mixture.tokens=6M",
            "sources.c4-semdedup.dedup.semantic.clusters=26",
            "embeddings.default.model={minilm}",
            "tokenizer.name={shared}/tokenizers/gpt-neox-20b/tokenizer.json",
        ),
        planted={
            "mc4-en": {
                "mpt-mc4.alpha_top_char": 20,
                "mpt-mc4.min_alnum_char_frac": 20,
                "mpt-mc4.max_top_word_frac_long": 20,
                "mpt-mc4.min_words": 20,
            },
            "c4-semdedup": {"semantic": 48},
            "redpajama-wiki": {"field": 30},
            "s2orc": {"field": 25, "mpt-s2orc.min_words": 25},
        },
    ),
]

DIRECTORIES = {"C++": "c++", "Protocol Buffer": "protocol-buffer"}
"""Of The Stack, where they are not the language in lower case."""
EVENTS = ("stars", "issues", "forks")
MARKS = "!,;:.?-/()"
"""Each in its turn, so that none of them is a page's most common character."""


def _stack_schema() -> pa.Schema:
    """The columns of bigcode/the-stack-dedup; a count is null where a file has none."""
    text, number = pa.string(), pa.float64()
    columns = [("hexsha", text), ("size", pa.int64()), ("ext", text), ("lang", text)]
    for event in EVENTS:
        columns += [(f"max_{event}_repo_{part}", text) for part in ("path", "name", "head_hexsha")]
        columns += [(f"max_{event}_repo_licenses", pa.list_(text)), (f"max_{event}_count", number)]
        columns += [(f"max_{event}_repo_{event}_event_{end}_datetime", text) for end in ("min", "max")]
    columns += [("content", text), ("avg_line_length", number), ("max_line_length", pa.int64())]
    return pa.schema([*columns, ("alphanum_fraction", number)])


STACK = _stack_schema()


def make(folder: Path, corpora: Path) -> None:
    """Write the data sets below folder/datasets."""
    prose = texts_of(corpora, "web_prose")
    _mc4(data_set(folder, "allenai/c4"), corpora, prose[:2000])
    _c4(data_set(folder, "allenai/c4"), prose[2000:])
    _redpajama(data_set(folder, "togethercomputer/RedPajama-Data-1T"), corpora)
    _stack(data_set(folder, "bigcode/the-stack-dedup"), corpora)
    _papers(data_set(folder, "allenai/peS2o"), corpora)
    _books(data_set(folder, "emozilla/pg19"), corpora)


def page(text: str, n: int) -> dict[str, Any]:
    """A row of C4 or mC4."""
    return {
        "text": text,
        "timestamp": "2019-04-25T12:57:54Z",
        "url": f"https://site-{n % 97}.example.com/{digest(text)[:12]}/{n}",
    }


def _mc4(c4: Path, corpora: Path, prose: Sequence[str]) -> None:
    rows = [page(text, n) for n, text in enumerate(prose)]
    letters = ["".join(c if c.isalpha() or c.isspace() else " " for c in text) for text in prose]
    plain = chosen(letters, (600, 3000))
    tables = [" ".join(f"{n * k:06d}" for k in range(1, 400)) for n in range(20)]
    rows += [plant(page(text, n), "mpt-mc4.alpha_top_char") for n, text in enumerate(tables)]
    marked = [
        " ".join(f"{word[:5]}{mark}" for word, mark in zip(t.split(), itertools.cycle(MARKS)))
        for t in plain[:20]
    ]
    rows += [plant(page(text, n), "mpt-mc4.min_alnum_char_frac") for n, text in enumerate(marked)]
    droning = [" buy ".join(text.split()) for text in plain[20:40]]
    rows += [plant(page(text, n), "mpt-mc4.max_top_word_frac_long") for n, text in enumerate(droning)]
    short = [" ".join(text.split()[:150]) for text in plain[40:60]]
    rows += [plant(page(text, n), "mpt-mc4.min_words") for n, text in enumerate(short)]
    write_parts(c4 / "multilingual", [f"c4-en.tfrecord-{i:05}-of-00003.json.gz" for i in range(3)], rows)
    # Neither is English's training part: what is not asked for must not be read.
    others = texts_of(corpora, "web_docs_multi", megabytes=0.2)
    write_rows(
        c4 / "multilingual/c4-de.tfrecord-00000-of-00001.json.gz", map(page, others, itertools.count())
    )
    write_rows(c4 / "multilingual/c4-en-validation.tfrecord-00000-of-00001.json.gz", [page(prose[0], 0)])


def _c4(c4: Path, prose: Sequence[str]) -> None:
    texts = chosen(prose, (60, 4000))[:620]
    copies = [text.replace(" the ", " this ", 1) for text in texts[::13]]
    rows = [page(text, n) for n, text in enumerate(texts)]
    rows += [plant(page(text, n), "semantic") for n, text in enumerate(copies)]
    write_parts(c4 / "en", [f"c4-train.{i:05}-of-00002.json.gz" for i in range(2)], rows)
    write_rows(c4 / "en/c4-validation.00000-of-00001.json.gz", [page(texts[0], 0)])


def _redpajama(root: Path, corpora: Path) -> None:
    crawl = texts_of(corpora, "web_crawl_text", "textbooks", megabytes=9)
    write_rows(
        root / "common_crawl/2019-30/en_head_0000.json.gz.dedup.classifier.jsonl.zst",
        (
            {
                "pred_label": "__label__wiki",
                "pred_label_prob": 0.5,
                "wiki_prob": 0.5,
                "text": text,
                "source": f"cc/2019-30/en_head_0000.json.gz/line{n}",
            }
            for n, text in enumerate(crawl)
        ),
    )
    articles = texts_of(corpora, "wiki", megabytes=0.124)
    rows = [_wikipedia(text, "en", n) for n, text in enumerate(articles)]
    german = (row["text"] for row in rows_of(corpora, "web_docs_multi") if row["meta"].get("lang") == "de")
    foreign = [text[:5000] for text in itertools.islice(german, 30)]
    rows += [plant(_wikipedia(text, "de", n), "field") for n, text in enumerate(foreign, len(articles))]
    write_rows(root / "wikipedia/wiki.jsonl", rows)
    write_rows(root / "arxiv/arxiv_0a1b2c.jsonl", _arxiv(corpora))
    write_rows(root / "stackexchange/stackexchange.jsonl", _stack_exchange(corpora))


def _wikipedia(text: str, language: str, n: int) -> dict[str, Any]:
    # The repository's own script gives `meta` as a string of JSON, the files have an object: both have to be read.
    meta = {
        "title": text.strip(" =\n")[:40],
        "url": f"https://{language}.wikipedia.org/wiki/{n}",
        "language": language,
        "timestamp": "20230320",
    }
    return {"text": text, "meta": json.dumps(meta) if n % 2 else meta}


def _arxiv(corpora: Path) -> Iterator[dict[str, Any]]:
    size = 0
    for n, row in enumerate(
        itertools.chain(rows_of(corpora, "tex", "arxiv"), rows_of(corpora, "tex", "part"))
    ):
        text = row["text"][:60_000]
        meta = {
            "timestamp": "2022-08-31T02:05:17",
            "yymm": "2208",
            "arxiv_id": f"2208.{n:05}",
            "language": "en",
        }
        yield {"text": text, "meta": meta | {"url": f"https://arxiv.org/abs/2208.{n:05}"}}
        size += len(text)
        if size > 500_000:
            return


def _stack_exchange(corpora: Path) -> Iterator[dict[str, Any]]:
    size = 0
    for n, row in enumerate(rows_of(corpora, "instruct", "alpaca-en")):
        text = f"Q: {row['instruction']}\n{row['input']}\n\nA: {row['output']}"
        yield {
            "text": text,
            "meta": {
                "language": "en",
                "url": f"https://example.stackexchange.com/questions/{n}",
                "timestamp": "2023-03-29",
                "source": "stackexchange",
                "question_score": str(n % 7),
            },
        }
        size += len(text)
        if size > 540_000:
            return


def _stack(root: Path, corpora: Path) -> None:
    by_language: dict[str, list[dict[str, Any]]] = {}
    for n, row in enumerate(rows_of(corpora, "code")):
        if n % 8 < 3:
            by_language.setdefault(row["lang"], []).append(
                _stack_row(row["content"], row["lang"], row["ext"])
            )
    by_language["TeX"] = [_stack_row(text, "TeX", "tex") for text in texts_of(corpora, "tex", megabytes=1)]
    documents = texts_of(corpora, "readmes", "docs_en", megabytes=1.9)
    by_language["Markdown"] = [_stack_row(text, "Markdown", "md") for text in documents]
    for language, rows in by_language.items():
        directory = DIRECTORIES.get(language, language.lower())
        write_rows(root / f"data/{directory}/data-00000-of-00001.parquet", rows, STACK)


def _stack_row(content: str, language: str, extension: str) -> dict[str, Any]:
    lines = content.split("\n")
    return {
        "hexsha": digest(content),
        "size": len(content.encode()),
        "ext": extension,
        "lang": language,
        "max_stars_repo_name": "example/project",
        "max_stars_repo_licenses": ["MIT"],
        "content": content,
        "avg_line_length": len(content) / len(lines),
        "max_line_length": max(map(len, lines)),
        "alphanum_fraction": sum(map(str.isalnum, content)) / max(1, len(content)),
    }


def _papers(root: Path, corpora: Path) -> None:
    chapters = texts_of(corpora, "textbooks", longest=12_000)[600:]
    papers = chosen(chapters, (900, 5000))[:116]
    rows = [_paper(text, "s2orc/train", n) for n, text in enumerate(papers)]
    abstracts = [" ".join(text.split()[:120]) for text in papers[:25]]
    rows += [plant(_paper(text, "s2ag/train", n), "field") for n, text in enumerate(abstracts, len(rows))]
    short = [
        "\n\n".join(" ".join(text.split()[k : k + 60]) for k in range(0, 360, 60)) for text in papers[25:50]
    ]
    rows += [
        plant(_paper(text, "s2orc/train", n), "mpt-s2orc.min_words")
        for n, text in enumerate(short, len(rows))
    ]
    write_parts(root / "data/v2", [f"train-{i:05}-of-00002.json.gz" for i in range(2)], rows)
    write_rows(root / "data/v2/validation-00000-of-00001.json.gz", [_paper(papers[0], "s2orc/valid", 0)])


def _paper(text: str, source: str, n: int) -> dict[str, Any]:
    return {
        "added": "2023-01-01T00:00:00.000Z",
        "created": "2020-01-01T00:00:00.000Z",
        "id": str(n),
        "source": source,
        "text": text,
        "version": "v2",
    }


def _books(root: Path, corpora: Path) -> None:
    books = texts_of(corpora, "books_en", megabytes=0.61, longest=120_000)
    rows = [
        {
            "short_book_title": text[:30],
            "publication_date": 1890,
            "url": f"http://www.gutenberg.org/ebooks/{n}",
            "text": text,
        }
        for n, text in enumerate(books)
    ]
    write_rows(root / "data/train-00000-of-00001.parquet", rows)
    write_rows(root / "data/validation-00000-of-00001.parquet", rows[:1])
