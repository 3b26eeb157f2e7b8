"""What do DCLM-Baseline, StarCoder, ProofPile2 and a piece of Common Crawl look like, small?

For `dclm-1b-from-warc` the pages are real ones and prose put in HTML, with lists of bad hosts and words and a
classifier that stand in for the published ones.
"""

from __future__ import annotations

import gzip
import html
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stand_in import (
    Case,
    chosen,
    data_set,
    digest,
    members_of,
    planted_url,
    rows_of,
    texts_of,
    write_parts,
    write_rows,
)

NEOX = "tokenizer.name={shared}/tokenizers/gpt-neox-20b/tokenizer.json"
CRAWL = "sources.common-crawl"
COPIES = 20
"""Pages that are planted as copies of natural ones."""
CASES = [
    Case("dclm-1b", ("mixture.tokens=4M", NEOX)),
    Case(
        "dclm-1b-from-warc",
        (
            "mixture.tokens=2M",
            NEOX,
            f"{CRAWL}.read.root={{folder}}/commoncrawl/crawl-data",
            *(
                f"{CRAWL}.filters.0.url.{kind}={{folder}}/banlists/{kind}.txt"
                for kind in ("hosts", "subwords", "hard_words", "soft_words")
            ),
            f"{CRAWL}.filters.2.language.model={{shared}}/models/lid.176.ftz",
            # A hundredth of two thousand pages has no duplicates.
            f"{CRAWL}.dedup.bloom.shards=1",
            f"{CRAWL}.quality.0.model={{folder}}/models/hq.bin",
        ),
        planted={
            "common-crawl": {
                "url.hosts": 10,
                "url.subwords": 10,
                "url.hard_words": 10,
                "url.soft_words": 10,
                "language": 20,
                "dclm-page.min_words": 15,
                "dclm-repetition": 15,
                "dclm-lines": 15,
                "bloom": COPIES,
            }
        },
    ),
]
BANNED = {
    "hosts": ["spam.example.net"],
    "subwords": ["cheapnastypills"],
    "hard_words": ["jackpot"],
    "soft_words": ["poker", "bingo", "roulette"],
}
SCORE = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"


def make(folder: Path, corpora: Path) -> None:
    """Write the data sets below folder/datasets, and commoncrawl, banlists and models beside it."""
    prose = texts_of(corpora, "web_prose", longest=12_000)
    _baseline(data_set(folder, "mlfoundations/dclm-baseline-1.0"), prose[:2500])
    _starcoder(data_set(folder, "bigcode/starcoderdata"), corpora)
    _proof_pile(data_set(folder, "EleutherAI/proof-pile-2"), corpora)
    for kind, entries in BANNED.items():
        (folder / "banlists").mkdir(parents=True, exist_ok=True)
        (folder / "banlists" / f"{kind}.txt").write_text("".join(f"{entry}\n" for entry in entries))
    _classifier(folder / "models", corpora, prose)
    crawl = folder / "commoncrawl/crawl-data/CC-MAIN-2019-30/segments/1563195523840.34/warc"
    plain = [text for text in (text.split("---", 2)[-1] for text in prose[2000:]) if text.strip()]
    passages = _passages(corpora)
    pages = [*_natural(corpora, plain + passages[-COPIES:]), *_planted(corpora, passages)]
    for i in range(2):
        _write_warc(crawl / f"CC-MAIN-20190715175205-20190715200159-{i:05}.warc.gz", pages[i::2])


def _baseline(root: Path, prose: Sequence[str]) -> None:
    rows = [
        {
            "text": text,
            "url": f"https://site-{n % 89}.example.com/{n}",
            "previous_word_count": len(text.split()),
            "bff_contained_ngram_count_before_dedupe": n % 50,
            "language_id_whole_page_fasttext": {"en": 0.9},
            # What the published files hold here is at times a text, at times nothing.
            "metadata": {"WARC-Type": "response", "WARC-Date": "2019-07-15T18:00:00Z" if n % 3 else None},
            "warcinfo": "warc-type: WARC/1.0" if n % 2 else None,
            SCORE: 0.02 + n / 10_000,
        }
        for n, text in enumerate(prose)
    ]
    names = [
        f"global-shard_0{i + 1}_of_10/local-shard_{i}_of_10/shard_00000000_processed.jsonl.zst"
        for i in range(2)
    ]
    write_parts(root, names, rows)


def _starcoder(root: Path, corpora: Path) -> None:
    directories = {"Python": "python", "Java": "java", "C++": "cpp", "Rust": "rust"}
    by_language: dict[str, list[dict[str, Any]]] = {}
    for n, row in enumerate(itertools.islice(rows_of(corpora, "code"), 0, None, 48)):
        if row["lang"] in directories:
            by_language.setdefault(row["lang"], []).append(
                {
                    "max_stars_repo_path": row["max_stars_repo_path"],
                    "max_stars_repo_name": row["max_stars_repo_name"],
                    "max_stars_count": n % 5 or None,
                    "id": str(n),
                    "content": row["content"],
                }
            )
    for language, rows in by_language.items():
        write_rows(root / directories[language] / "train-00000-of-00001.parquet", rows)


def _proof_pile(root: Path, corpora: Path) -> None:
    tex = texts_of(corpora, "tex", megabytes=0.12, longest=20_000)
    web = texts_of(corpora, "textbooks", megabytes=0.12)
    for part, texts in (("arxiv", tex), ("open-web-math", web), ("algebraic-stack", tex[:5])):
        rows = [{"text": text, "meta": json.dumps({"subset": part, "n": n})} for n, text in enumerate(texts)]
        write_rows(root / part / "train/shard-0000.jsonl.zst", rows)
        write_rows(root / part / "validation/shard-0000.jsonl.zst", rows[:1])


def _classifier(folder: Path, corpora: Path, prose: Sequence[str]) -> None:
    """A small model with the published one's labels: answers to instructions against prose of the web."""
    import fasttext

    folder.mkdir(parents=True, exist_ok=True)
    good = (f"{row['instruction']} {row['output']}" for row in rows_of(corpora, "instruct", "alpaca-en"))
    with open(folder / "examples.txt", "w", encoding="utf-8") as file:
        for label, texts in (("hq", itertools.islice(good, 2000)), ("cc", prose[2500:4500])):
            file.writelines(f"__label__{label} {' '.join(text.split())}\n" for text in texts)
    model = fasttext.train_supervised(
        str(folder / "examples.txt"), wordNgrams=2, dim=16, bucket=100_000, thread=1, seed=1, verbose=0
    )
    model.save_model(str(folder / "hq.bin"))


def _page(text: str) -> bytes:
    """Paragraphs as a web page."""
    blocks = "\n".join(f"<p>{html.escape(block)}</p>" for block in text.split("\n\n") if block.strip())
    head = f"<head><meta charset='utf-8'><title>{html.escape(text[:40])}</title></head>"
    menu = "<nav><a href='/'>Home</a> <a href='/about'>About</a></nav>"
    return f"<!DOCTYPE html><html>{head}<body>{menu}<main>{blocks}</main></body></html>".encode()


def _passages(corpora: Path) -> list[str]:
    """Pages of novels, 300 words each: no filter drops them as they are."""
    texts = texts_of(corpora, "books_en", megabytes=1, longest=200_000)
    words = [text.split()[1000:] for text in texts if len(text) > 100_000]
    return [" ".join(words[n % len(words)][300 * n : 300 * n + 300]) for n in range(75 + COPIES)]


def _natural(corpora: Path, prose: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(URL, HTML) of real pages, and of prose."""
    urls = {row["file"]: row["url"] for row in rows_of(corpora, "web_html_pages", "trafilatura-truth")}
    real = members_of(corpora, "web_html_pages", "trafilatura-0000")
    for name, data in itertools.islice(real, 120):
        url = urls.get(name.rsplit("/", 1)[-1], "")
        yield url if urlsplit(url).hostname else f"https://example.org/{digest(name)}", data
    for n, text in enumerate(prose):
        yield f"https://prose-{n % 50}.example.com/{n}", _page(text)


def _planted(corpora: Path, good: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(URL, HTML) of pages that a step has to drop, made of what nothing else drops."""
    marks = itertools.count()
    for entry, step in (
        ("https://spam.example.net/", "url.hosts"),
        ("https://shop.example.org/cheap-nasty-pills/", "url.subwords"),
        ("https://win.example.org/jackpot/", "url.hard_words"),
        ("https://fun.example.org/poker/bingo/", "url.soft_words"),
    ):
        yield from ((f"{entry}{next(marks)}?planted={step}", _page(text)) for text in good[:10])
    german = (row["text"] for row in rows_of(corpora, "web_docs_multi") if row["meta"].get("lang") == "de")
    for text in itertools.islice(chosen(list(itertools.islice(german, 400)), (150, 1500)), 20):
        yield planted_url("language", next(marks)), _page(text)
    for text in good[10:25]:
        yield planted_url("dclm-page.min_words", next(marks)), _page(" ".join(text.split()[:46]))
    for text in good[25:40]:
        first = " ".join(text.split()[:80])
        yield planted_url("dclm-repetition", next(marks)), _page("\n\n".join([first] * 6))
    for text in good[40:55]:
        counters = "\n\n".join(f"{n} likes" for n in range(14))
        yield planted_url("dclm-lines", next(marks)), _page(f"{' '.join(text.split()[:200])}\n\n{counters}")
    for text in good[-COPIES:]:
        yield planted_url("bloom", next(marks)), _page(text)


def _write_warc(path: Path, pages: Sequence[tuple[str, bytes]]) -> None:
    """A record of the crawl, and a request and a response for each page, each a gzip member of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(_record("warcinfo", None, "application/warc-fields", b"software: stand-in\r\n"))
        for url, body in pages:
            request = f"GET / HTTP/1.1\r\nHost: {urlsplit(url).hostname}\r\n\r\n".encode()
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
            response = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            file.write(_record("request", url, "application/http; msgtype=request", request))
            file.write(_record("response", url, "application/http; msgtype=response", response))


def _record(kind: str, url: str | None, content_type: str, body: bytes) -> bytes:
    mark = digest(f"{kind} {url} {len(body)}")
    fields = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        "WARC-Date: 2019-07-15T18:00:00Z",
        f"WARC-Record-ID: <urn:uuid:{mark[:8]}-{mark[8:12]}-{mark[12:16]}-{mark[16:20]}-{mark[20:32]}>",
        f"Content-Type: {content_type}",
        *([f"WARC-Target-URI: {url}"] if url else []),
        f"Content-Length: {len(body)}",
    ]
    head = "".join(f"{field}\r\n" for field in fields).encode()
    return gzip.compress(head + b"\r\n" + body + b"\r\n\r\n", 6, mtime=0)
