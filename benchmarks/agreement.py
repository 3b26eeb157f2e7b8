"""Does `words: datatrove` decide as datatrove 0.9.0 does? Every document, four filters, decision, reason and text.

    python benchmarks/agreement.py CORPORA [--folders NAME ...] [--every 1]

CORPORA is a folder of folders of `*.jsonl.zst` files; the folders of English text are taken. datatrove's own filters
run as they are, on each document by itself; a document whose decision, reason or rewritten text (C4) differs is
printed with both. About 0.4 MB/s, which is datatrove's.
"""

from __future__ import annotations

import argparse
import collections
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from corpus import PROSE, machine, texts_of
from datatrove.data import Document
from datatrove.pipeline import filters as peers
from winnow.filters.c4 import C4
from winnow.filters.fineweb import FineWebQuality
from winnow.filters.gopher import GopherQuality
from winnow.filters.gopher_repetition import GopherRepetition
from winnow.filters.rules import decide
from winnow.filters.scans import scan

FOLDERS = (*PROSE, "readmes", "licences", "low_quality", "web_crawl_text")
BATCH = 256
REASONS = {
    "gopher-quality.min_words": "gopher_short_doc",
    "gopher-quality.max_words": "gopher_long_doc",
    "gopher-quality.min_mean_word_chars": "gopher_below_avg_threshold",
    "gopher-quality.max_mean_word_chars": "gopher_above_avg_threshold",
    "gopher-quality.max_hashes_per_word": "gopher_too_many_hashes",
    "gopher-quality.max_ellipses_per_word": "gopher_too_many_ellipsis",
    "gopher-quality.max_bullet_line_frac": "gopher_too_many_bullets",
    "gopher-quality.max_ellipsis_line_frac": "gopher_too_many_end_ellipsis",
    "gopher-quality.min_alpha_word_frac": "gopher_below_alpha_threshold",
    "gopher-quality.min_stop_words": "gopher_enough_stop_words",
    "gopher-repetition.max_dup_paragraph_frac": "dup_para_frac",
    "gopher-repetition.max_dup_paragraph_char_frac": "dup_para_char_frac",
    "gopher-repetition.max_dup_line_frac": "dup_line_frac",
    "gopher-repetition.max_dup_line_char_frac": "dup_line_char_frac",
    **{f"gopher-repetition.max_top_{n}gram_char_frac": f"top_{n}_gram" for n in (2, 3, 4)},
    **{f"gopher-repetition.max_dup_{n}gram_char_frac": f"duplicated_{n}_n_grams" for n in range(5, 11)},
    "fineweb-quality.min_nonblank_lines": "empty",
    "fineweb-quality.min_terminal_line_frac": "line_punct_ratio",
    "fineweb-quality.max_short_line_frac": "short_line_ratio",
    "fineweb-quality.max_dup_line_char_frac": "char_dup_ratio",
    "fineweb-quality.max_newlines_per_word": "list_ratio",
    "c4.lorem_ipsum": "lorem_ipsum",
    "c4.curly_bracket": "curly_bracket",
    "c4.min_sentences": "too_few_sentences",
}
"""Our rule -> the reason that datatrove gives."""
PAIRS = (
    (GopherQuality(words="datatrove"), peers.GopherQualityFilter),
    (GopherRepetition(words="datatrove"), peers.GopherRepetitionFilter),
    (FineWebQuality(words="datatrove"), peers.FineWebQualityFilter),
    (C4(words="datatrove"), peers.C4QualityFilter),
)


def ours(settings, texts: list[str]) -> list[tuple[str | None, str]]:
    """(reason or None, text after it) of each text."""
    column = pa.array(texts, pa.large_string())
    signals, after = {}, texts
    rules = settings.rules()
    if hasattr(settings, "rewrite"):
        done = settings.rewrite(pa.record_batch({"text": column}))
        signals, after = dict(done.signals), done.texts.to_pylist()
    else:
        signals = scan(column, {s for rule in rules for s in rule.score.signals})
    first = decide(rules, signals, len(texts)).first
    return [(None if k < 0 else REASONS[rules[k].name], new) for k, new in zip(first, after, strict=True)]


def theirs(peer, text: str) -> tuple[str | None, str]:
    """The same of datatrove's filter; where it keeps a document it says so, else why not."""
    document = Document(text=text, id="")
    answer = peer.filter(document)
    return (None, document.text) if answer is True else (answer[1], text)


def batched(texts: Iterator[str]) -> Iterator[list[str]]:
    while some := list(itertools.islice(texts, BATCH)):
        yield some


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--folders", nargs="+", default=FOLDERS)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    print(machine())
    filters = [(settings, peer()) for settings, peer in PAIRS]
    for folder in args.folders:
        found: collections.Counter[str] = collections.Counter()
        documents = kept = size = 0
        texts = itertools.islice(texts_of(args.corpora, [folder]), 0, None, args.every)
        for batch in batched(texts):
            mine = [ours(settings, batch) for settings, _ in filters]
            for i, text in enumerate(batch):
                documents, size = documents + 1, size + len(text.encode())
                for (settings, peer), answers in zip(filters, mine, strict=True):
                    reason, after = theirs(peer, text)
                    kept += reason is None
                    same = answers[i][0] == reason and (reason is not None or answers[i][1] == after)
                    if not same:
                        found[settings.name] += 1
                        print(
                            f"  {folder}: {settings.name}: {answers[i][0]}, datatrove {reason}: {text[:80]!r}"
                        )
        print(
            f"{folder:16} {documents:6,} documents, {size / 1e6:6.1f} MB, {4 * documents:7,} decisions "
            f"({kept:,} keep): {sum(found.values())} differ",
            flush=True,
        )


if __name__ == "__main__":
    main()
