"""Text of web pages: how much of the true text each extractor finds, at what speed; and a web archive read whole.

    python benchmarks/html_text.py CORPORA [--rounds 3] [--peer-mb 30]

CORPORA/web_html_pages holds the pages (tar.zst) and what is true of them:

    readability   pages of Mozilla's Readability, with the part it takes for the article. Token F1: tokens are `\\w+`,
                  as a multiset; precision, recall and F1 of a page, averaged over pages
    trafilatura   pages of Trafilatura's evaluation, with strings that must and must not be in the text, white space
                  aside; precision, recall, F1 and accuracy over all strings, as that evaluation counts

Every case is a process of its own: bytes in, text out; bytes of HTML by user CPU, after imports and one page, and by
how much its memory grew at most. "All text" is Resiliparse without its choice of main content. The rows `readers` are
whole pipelines from JSONL, with the CPU of their child processes: this project's reader, and datatrove's reader and
extractor; with Trafilatura both on the first `--peer-mb`. A package that is missing is said, and its rows are left out.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard
from corpus import machine
from four_filters import user_seconds

EXTRACTORS = ("resiliparse", "trafilatura", "all text")
TOKEN = re.compile(r"\w+")
MIB = 1 << 20


def members(corpora: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files in the archives."""
    for path in sorted((corpora / "web_html_pages").glob(pattern)):
        with zstandard.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    yield member.name, file.read()


def load(corpora: Path) -> tuple[list[bytes], dict[int, Counter[str]], dict[int, dict]]:
    """Pages; tokens of the article by page; strings with and without by page."""
    import lxml.html

    pages: list[bytes] = []
    articles: dict[int, Counter[str]] = {}
    strings: dict[int, dict] = {}
    expected: dict[str, Counter[str]] = {}
    sources: dict[str, int] = {}
    for name, data in members(corpora, "readability-*.tar.zst"):
        folder = name.rsplit("/", 2)[-2]
        if name.endswith("/expected.html") and data.strip():
            tree = lxml.html.fromstring(data.decode("utf-8", "replace"))
            expected[folder] = tokens(" ".join(tree.itertext(tag=None, with_tail=True)))
        elif name.endswith("/source.html"):
            sources[folder] = len(pages)
            pages.append(data)
    for folder, page in sources.items():
        if folder in expected:
            articles[page] = expected[folder]
    truth = {}
    for path in (corpora / "web_html_pages").glob("trafilatura-truth-*.jsonl.zst"):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            truth = {row["file"]: row for row in map(json.loads, lines)}
    for name, data in members(corpora, "trafilatura-0*.tar.zst"):
        row = truth.get(name.rsplit("/", 1)[-1])
        if row is not None:
            strings[len(pages)] = row
            pages.append(data)
    return pages, articles, strings


def tokens(text: str) -> Counter[str]:
    return Counter(TOKEN.findall(text))


def article_scores(texts: list[str], articles: dict[int, Counter[str]]) -> tuple[float, float, float]:
    """Precision, recall and F1, averaged over pages."""
    sums = [0.0, 0.0, 0.0]
    for page, true in articles.items():
        found = tokens(texts[page])
        common = (found & true).total()
        precision = common / found.total() if found else 0.0
        recall = common / true.total() if true else 1.0
        sums[0] += precision
        sums[1] += recall
        sums[2] += 2 * precision * recall / (precision + recall) if common else 0.0
    return sums[0] / len(articles), sums[1] / len(articles), sums[2] / len(articles)


def string_scores(texts: list[str], strings: dict[int, dict]) -> tuple[float, float, float, float]:
    """Precision, recall, F1 and accuracy over the strings of all pages."""
    counts: Counter[tuple[bool, bool]] = Counter()
    for page, row in strings.items():
        text = " ".join(texts[page].split())
        for wanted, key in ((True, "with"), (False, "without")):
            for string in row[key] or ():
                counts[wanted, " ".join(string.split()) in text] += 1
    right, wrong = counts[True, True], counts[False, True]
    precision = right / (right + wrong) if right else 0.0
    recall = right / (right + counts[True, False])
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return precision, recall, f1, (right + counts[False, False]) / counts.total()


def extractor(case: str) -> Callable[[bytes], str]:
    from winnow.shards.convert_settings import Html
    from winnow.shards.html_text import decoded, page_text

    if case == "all text":
        from resiliparse.extract.html2text import extract_plain_text

        return lambda data: extract_plain_text(decoded(data))
    settings = Html.model_validate({"extractor": case})
    return lambda data: page_text(data, settings, {}).text


def stored_pages(place: str) -> Iterator[bytes]:
    with open(place, "rb") as file:
        while head := file.read(8):
            yield file.read(int.from_bytes(head, "little"))


def peak_bytes() -> int:
    """Of this program; the kernel's ru_maxrss begins with that of the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def extract(case: str, place: str, out: str) -> dict:
    """Texts as JSON lines to a file; seconds, and the peak beyond what the process took before the first page."""
    work = extractor(case)
    work(b"<html><head><title>a</title></head><body><p>a page</p></body></html>")
    started, base = user_seconds(), peak_bytes()
    failed = empty = 0
    with open(out, "w") as file:
        for page in stored_pages(place):
            try:
                text = work(page)
            except Exception as error:
                print(f"{case}: {error!r}", file=sys.stderr)
                text = ""
                failed += 1
            else:
                empty += not text
            file.write(json.dumps(text) + "\n")
    return {
        "seconds": user_seconds() - started,
        "peak": peak_bytes() - base,
        "failed": failed,
        "empty": empty,
    }


def ours(place: str, extractor: str) -> int:
    """Documents of a JSONL file by this project's reader."""
    from winnow.shards.convert_settings import Html
    from winnow.shards.inputs import Piece
    from winnow.shards.readers import ReadSettings, Seen, read

    piece = Piece(0, place, Path(place).name, 1, Path(place).stat().st_size)
    settings = ReadSettings("jsonl", "html", convert=Html.model_validate({"extractor": extractor}))
    return sum(batch.table.num_rows for batch in read([piece], settings, Seen()))


def theirs(place: str, extractor: str) -> int:
    """The same by datatrove's, whose limit is a second a page."""
    import trafilatura  # noqa: F401 - its absence would be a page's error to the extractor
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import JsonlReader

    assert extractor == "trafilatura"
    reader = JsonlReader(str(Path(place).parent), glob_pattern=Path(place).name, text_key="html", id_key="id")
    return sum(1 for _ in Trafilatura(timeout=1).run(reader.run()))


def archive(place: str, extractor: str) -> int:
    """Pages of a web archive, read and not converted."""
    from winnow.shards import warc
    from winnow.shards.inputs import Piece
    from winnow.shards.readers import ReadSettings

    piece = Piece(0, place, place, 1, Path(place).stat().st_size)
    return sum(row.columns is not None for row in warc.rows(piece, ReadSettings("warc")))


PIPELINES = {"ours": ours, "theirs": theirs, "archive": archive}


def child(*arguments: str) -> tuple[dict, float] | None:
    """What a fresh process reports, and the user seconds of it and its own children; None if a package is missing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], capture_output=True, text=True, check=False
    )
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        if last.startswith(("ImportError", "ModuleNotFoundError")):
            print(f"{' '.join(arguments[:2])}: left out: {last}", flush=True)
            return None
        raise SystemExit(f"{arguments}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]), seconds


def run_child(arguments: list[str]) -> None:
    case, *rest = arguments
    if case == "extract":
        print(json.dumps(extract(*rest)))
    else:
        print(json.dumps({"documents": PIPELINES[case](*rest)}))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-mb", type=float, default=30)
    args = parser.parse_args()
    pages, articles, strings = load(args.corpora)
    if not articles or not strings:
        parser.error(f"{args.corpora} has no web_html_pages with their truth")
    size = sum(map(len, pages))
    print(machine())
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB of HTML; {len(articles)} with an article, "
          f"{len(strings)} with strings; medians of {args.rounds} (range)")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        place = Path(folder) / "pages"
        place.write_bytes(b"".join(len(page).to_bytes(8, "little") + page for page in pages))
        print(f"{'':12} {'article P':>9} {'R':>6} {'F1':>6} {'strings P':>10} {'R':>6} {'F1':>6} {'right':>6} "
              f"{'MB/s of CPU':>20} {'MiB more':>9} failed empty")  # fmt: skip
        for case in EXTRACTORS:
            show_extractor(case, str(place), articles, strings, size, args.rounds)
        show_pipelines(Path(folder), pages, args)


def show_extractor(
    case: str, place: str, articles: dict[int, Counter[str]], strings: dict[int, dict], size: int, rounds: int
) -> None:
    runs = []
    for _ in range(rounds):
        answer = child("extract", case, place, f"{place}.texts")
        if answer is None:
            return
        runs.append(answer[0])
    texts = list(map(json.loads, Path(f"{place}.texts").read_text().splitlines()))
    a, s = article_scores(texts, articles), string_scores(texts, strings)
    rates = sorted(size / 1e6 / run["seconds"] for run in runs)
    peak = statistics.median(run["peak"] for run in runs) / MIB
    print(f"{case:12} {a[0]:9.3f} {a[1]:6.3f} {a[2]:6.3f} {s[0]:10.3f} {s[1]:6.3f} {s[2]:6.3f} {s[3]:6.3f} "
          f"{spread(rates):>20} {peak:9.0f} {runs[0]['failed']:6} {runs[0]['empty']:5}", flush=True)  # fmt: skip


def show_pipelines(folder: Path, pages: list[bytes], args: argparse.Namespace) -> None:
    from winnow.shards.html_text import decoded

    every, few = folder / "every.jsonl", folder / "few.jsonl"
    sizes = {every: 0, few: 0}
    for place, limit in ((every, float("inf")), (few, args.peer_mb * 1e6)):
        with place.open("w") as file:
            for i, page in enumerate(pages):
                if sizes[place] < limit:
                    file.write(json.dumps({"html": decoded(page), "id": str(i)}) + "\n")
                    sizes[place] += len(page)
    warcs = folder / "pages.warc.gz"
    warcs.write_bytes(b"".join(map(member, pages)))
    sizes[warcs] = sizes[every]
    for name, case, place, extractor in (
        ("readers, ours", "ours", every, "resiliparse"),
        ("readers, ours", "ours", few, "trafilatura"),
        ("readers, datatrove", "theirs", few, "trafilatura"),
        ("WARC, not converted", "archive", warcs, ""),
    ):
        runs = [child(case, str(place), extractor) for _ in range(args.rounds)]
        found = [run for run in runs if run is not None]
        if found:
            rates = sorted(sizes[place] / 1e6 / seconds for _, seconds in found)
            print(f"{name:20} {extractor:12} {spread(rates):>20} MB/s of CPU, start and imports included, "
                  f"{sizes[place] / 1e6:.1f} MB, {found[0][0]['documents']} documents", flush=True)  # fmt: skip


def member(page: bytes) -> bytes:
    """A page as the gzip member of a WARC record."""
    import gzip

    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(body)}\r\n\r\n"
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as file:
        file.write(head.encode() + body + b"\r\n\r\n")
    return out.getvalue()


def spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):.2f} ({rates[0]:.2f}-{rates[-1]:.2f})"


if __name__ == "__main__":
    main()
