"""Is a row that memory does not hold passed over, and the rest of its file read?

The files are read in one child process, which may take `ROOM` bytes beside what it has when it is ready; each has one
row of `HUGE` bytes between small ones.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import json_rows, parquet_rows, parquet_values, readers
from winnow.shards.inputs import InputError, Piece
from winnow.shards.parquet_pages import UnreadableError, pages
from winnow.shards.readers import ReadSettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds mappings on Linux alone")

HUGE = 240 << 20
ROOM = 160 << 20
BLOCK = b"words of a row that goes on and on, " * 29127
LARGEST = 1 << 20

CHILD = """
import json, os, resource, sys
import pyarrow.parquet, lzma, zipfile, zstandard
from winnow.shards import arxiv, archives, convert_settings, mediawiki, parquet_rows, readers, stackexchange, warc
from winnow.shards.inputs import Piece

parquet_rows.PAGE_BYTES = 8 << 20
room, cases = json.loads(sys.argv[1])

def held():
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmData"))

def read(format_, path, most, convert):
    convert = getattr(convert_settings, convert)() if convert else None
    settings = readers.ReadSettings(format_, max_document_bytes=most, convert=convert)
    piece = Piece(0, path, os.path.basename(path), 1, os.path.getsize(path), 0, -1)
    kept, lost = [], []
    for batch in readers.read([piece], settings, readers.Seen()):
        kept += [len(text) for text in batch.table.column("text").to_pylist()]
        lost += [(row.reason, row.size, len(row.raw)) for row in batch.lost]
    return kept, lost

read(*cases[0][1])  # what is imported and opened once
resource.setrlimit(resource.RLIMIT_DATA, (held() + room, -1))
for name, case in cases:
    try:
        said = read(*case)
    except BaseException as error:
        said = type(error).__name__, str(error)
    print(json.dumps([name, said]), flush=True)
"""


def body(size: int) -> Iterator[bytes]:
    while size > 0:
        yield BLOCK[:size]
        size -= len(BLOCK)


class Body(io.RawIOBase):
    """Bytes that are made as they are read."""

    def __init__(self, size: int):
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return (BLOCK * (size // len(BLOCK) + 1))[:size]


def write_all(file: BinaryIO, *parts: bytes | Iterator[bytes]) -> None:
    for part in parts:
        for block in [part] if isinstance(part, bytes) else part:
            file.write(block)


def lines(file: BinaryIO) -> None:
    write_all(file, b'{"text": "small"}\n{"text": "', body(HUGE), b'"}\n{"text": "small"}\n')


def members(file: BinaryIO) -> None:
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for name, size in (("a.txt", 5), ("b.txt", HUGE), ("c.txt", 5)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, Body(size))


def zipped(path: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, size in (("a.txt", 5), ("b.txt", HUGE), ("c.txt", 5)):
            with file.open(name, "w") as member:
                write_all(member, body(size))


def papers(path: str) -> None:
    with tarfile.open(path, "w") as tar:
        for name, size in (("2001/2001.1.gz", 5), ("2001/2001.2.gz", HUGE), ("2001/2001.3.gz", 5)):
            paper = io.BytesIO()
            with gzip.GzipFile(fileobj=paper, mode="wb", compresslevel=1) as file:
                write_all(file, body(size))
            member = tarfile.TarInfo(name)
            member.size = paper.tell()
            paper.seek(0)
            tar.addfile(member, paper)


def records(path: str, kind: bytes, http: bytes) -> None:
    with open(path, "wb") as stored:
        for size in (5, HUGE, 5):
            head = b"WARC/1.0\r\nWARC-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
                kind,
                size + len(http),
                http,
            )
            with gzip.GzipFile(fileobj=stored, mode="wb", compresslevel=1) as file:
                write_all(file, head, body(size), b"\r\n\r\n")


def wiki(file: BinaryIO) -> None:
    file.write(b"<mediawiki>")
    for size in (5, HUGE, 5):
        write_all(
            file,
            b"<page><title>T</title><ns>0</ns><revision><text>",
            body(size),
            b"</text></revision></page>",
        )
    file.write(b"</mediawiki>")


def posts(file: BinaryIO) -> None:
    file.write(b"<posts>\n")
    for number, size in enumerate((5, HUGE, 5), 1):
        write_all(file, b'<row Id="%d" PostTypeId="1" Title="T" Body="' % number, body(size), b'" />\n')
    file.write(b"</posts>\n")


def one_text(file: BinaryIO) -> None:
    write_all(file, body(HUGE))


def parquet(path: str, compression: str, **more: Any) -> None:
    huge = b"".join(body(HUGE))
    column = pa.array([b"small"] * 1500 + [huge] + [b"small"] * 1500, pa.large_binary())
    more_columns = {"other": pa.array(["o"] * 3001)}
    pq.write_table(pa.table({"text": column} | more_columns), path, compression=compression, **more)


def books(path: str) -> None:
    """300 texts of half a megabyte: pyarrow makes one page of them, and a dictionary."""
    texts = [b"%05d" % i + BLOCK[: 1 << 19] for i in range(300)]
    pq.write_table(pa.table({"text": pa.array(texts, pa.binary())}), path, compression="zstd")


def within(into: Callable[[str], BinaryIO], write: Callable[[BinaryIO], None]) -> Callable[[str], None]:
    def make(path: str) -> None:
        with into(path) as file:
            write(file)

    return make


def gz(path: str) -> BinaryIO:
    return gzip.open(path, "wb", compresslevel=1)


def zst(path: str) -> BinaryIO:
    return zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=1))


def xz(path: str) -> BinaryIO:
    return lzma.open(path, "wb", preset=0)


def lz4(path: str) -> BinaryIO:
    return pa.CompressedOutputStream(path, "lz4")


def plain(path: str) -> None:
    """A row that is a hole in its file."""
    with open(path, "wb") as file:
        file.write(b'{"text": "small"}\n')
        file.seek(HUGE, io.SEEK_CUR)
        file.write(b'\n{"text": "small"}\n')


def of_values(row: bytes) -> Callable[[str], None]:
    def make(path: str) -> None:
        with open(path, "wb") as file:
            file.write(b'{"text": "small"}\n' + row + b'\n{"text": "small"}\n')

    return make


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"


@dataclass(frozen=True)
class Case:
    format: str
    file: str
    make: Callable[[str], None]
    lengths: tuple[int, ...] = (5, 5)
    """Of the documents."""
    largest: int = LARGEST
    lost: int = 1
    reason: str = "too-large"
    convert: str = ""


def column(file: str, compression: str, **more: Any) -> Case:
    return Case("parquet", file, lambda path: parquet(path, compression, **more), (5,) * 3000)


def values(file: str, row: bytes, reason: str = "too-large") -> Case:
    return Case("jsonl", file, of_values(row), largest=16 << 20, reason=reason)


CASES = {
    "plain": Case("jsonl", "a.jsonl", plain),
    "gz": Case("jsonl", "a.jsonl.gz", within(gz, lines)),
    "zst": Case("jsonl", "a.jsonl.zst", within(zst, lines)),
    "xz": Case("jsonl", "a.jsonl.xz", within(xz, lines)),
    "lz4": Case("jsonl", "a.jsonl.lz4", within(lz4, lines)),
    "text": Case("text", "a.txt.gz", within(gz, one_text), ()),
    "notebook": Case("code", "a.ipynb.gz", within(gz, one_text), (), convert="Notebook"),
    "tar": Case("text", "a.tar.gz", within(gz, members)),
    "zip": Case("text", "a.zip", zipped),
    "arxiv": Case("arxiv", "a.tar", papers),
    "warc": Case("warc", "a.warc.gz", lambda path: records(path, b"response", HTML)),
    "wet": Case("wet", "a.wet.gz", lambda path: records(path, b"conversion", b"")),
    "mediawiki": Case("mediawiki", "a.xml.gz", within(gz, wiki)),
    "stackexchange": Case("stackexchange", "Posts.xml.gz", within(gz, posts), (10, 10)),
    "parquet-dictionary": column("a.parquet", "zstd"),
    "parquet-gzip": column("b.parquet", "gzip", use_dictionary=False),
    "parquet-v2": column("c.parquet", "zstd", use_dictionary=False, data_page_version="2.0"),
    "parquet-books": Case("parquet", "d.parquet", books, ((1 << 19) + 5,) * 300, lost=0),
    "numbers": values("b.jsonl", b'{"text": "a", "n": [0' + b",0" * (24 << 20) + b"]}"),
    "lists": values("c.jsonl", b'{"text": "a", "n": [' + b"[]," * (15 << 20) + b"0]}"),
    "deep": values("d.jsonl", b'{"text": "a", "n": ' + b"[" * (24 << 20)),
    "wide": values("e.jsonl", '{"text": "\U0001f600'.encode() + b"a" * (48 << 20) + b'"}'),
    "digits": values("f.jsonl", b'{"text": "a", "n": ' + b"7" * (16 << 20) + b"}", "json"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("huge")
    cases = [("warm", ("jsonl", str(folder / "warm.jsonl"), LARGEST, ""))]
    (folder / "warm.jsonl").write_text('{"text": "a"}\n')
    for name, case in CASES.items():
        path = str(folder / case.file)
        case.make(path)
        cases.append((name, (case.format, path, case.largest, case.convert)))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([ROOM, cases])], capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return dict(json.loads(line) for line in child.stdout.splitlines())


@pytest.mark.parametrize("name", CASES)
def test_a_huge_row_is_set_aside_and_the_rest_is_read(said, name):
    case = CASES[name]
    kept, lost = said[name]
    assert kept == list(case.lengths)
    assert [row[0] for row in lost] == [case.reason] * case.lost
    for _, size, raw in lost:
        # Formats tell what is stored of a row, or what it would be.
        assert size > (HUGE // 2000 if name == "arxiv" else 10 << 20)
        assert raw <= 1 << 16


# ---- pages ------------------------------------------------------------------------------------------------------

HALF = 1


def piece(path: Any) -> Piece:
    return Piece(0, str(path), path.name, HALF, path.stat().st_size, 0, -1)


def read(path: Any, settings_: ReadSettings) -> tuple[list[dict[str, Any]], list[readers.Lost]]:
    batches = list(readers.read([piece(path)], settings_, readers.Seen()))
    return [row for b in batches for row in b.table.to_pylist()], [row for b in batches for row in b.lost]


TEXTS = st.one_of(
    st.none(), st.binary(max_size=40), st.sampled_from([b"a", b"b", b"word " * 400, b"\n" * 70_000])
)


@settings(max_examples=60)
@given(
    st.lists(TEXTS, max_size=300),
    st.sampled_from(["none", "snappy", "gzip", "zstd"]),
    st.sampled_from(["1.0", "2.0"]),
    st.booleans(),
    st.sampled_from([1 << 6, 1 << 12, 1 << 20]),
    st.integers(0, 2000),
)
def test_values_are_those_that_arrow_reads(
    tmp_path_factory, texts, codec, version, dictionary, page, longest
):
    path = tmp_path_factory.mktemp("p") / "a.parquet"
    nullable = None in texts
    schema = pa.schema([pa.field("text", pa.binary(), nullable=nullable)])
    pq.write_table(
        pa.table({"text": pa.array(texts, pa.binary())}, schema=schema), path, compression=codec,
        data_page_version=version, use_dictionary=dictionary, data_page_size=page, write_batch_size=20,
    )  # fmt: skip
    with open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        if not texts:
            return
        chunk = parquet.metadata.row_group(0).column(0)
        stored = sum(p.stored for p in pages(file, chunk))
        assert stored <= chunk.total_compressed_size
        found = list(parquet_values.values(file, chunk, nullable, longest, 7))
    assert len(found) == len(texts)
    for value, text in zip(found, texts, strict=True):
        if text is not None and len(text) > longest:
            assert value == parquet_values.Large(len(text), text[:7])
        else:
            assert value == text


@pytest.mark.parametrize(
    "settings_", [ReadSettings("parquet"), ReadSettings("parquet", parse=("other",))], ids=str
)
@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_are_the_same_whatever_a_page_may_hold(tmp_path, monkeypatch, settings_, dictionary):
    rows = 5000
    table = pa.table(
        {
            "n": range(rows),
            "text": pa.array([None if i % 7 == 0 else f"text {i % 900} " * (i % 50) for i in range(rows)]),
            "other": pa.array(['{"a": 1}' if i % 2 else None for i in range(rows)]).dictionary_encode(),
            "list": [[i] * (i % 3) for i in range(rows)],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=2000, use_dictionary=dictionary)
    wanted = read(path, settings_)
    monkeypatch.setattr(parquet_rows, "BATCH_BYTES", 1 << 14)
    monkeypatch.setattr(parquet_rows, "PAGE_BYTES", 1 << 15)
    monkeypatch.setattr(parquet_rows, "CHUNK_BYTES", 1 << 10)
    with open(path, "rb") as file:
        assert "text" in parquet_rows._group(pq.ParquetFile(file), file, 0).large
    sizes = [batch.nbytes for _, batch, _ in parquet_rows.batches(piece(path), settings_)]
    assert max(sizes) <= 3 * parquet_rows.BATCH_BYTES
    kept, lost = read(path, settings_)
    assert kept == wanted[0]
    assert [(row.id, row.reason) for row in lost] == [(row.id, row.reason) for row in wanted[1]]


class Watched(io.FileIO):
    """A file that knows the largest read."""

    largest = 0

    def read(self, size=-1):
        data = super().read(size)
        Watched.largest = max(Watched.largest, len(data))
        return data


@pytest.mark.parametrize("columns", [1, 3], ids=["a large chunk", "chunks that are large together"])
def test_large_row_groups_are_not_read_as_a_whole(tmp_path, monkeypatch, columns):
    noise = random.Random(0)
    texts = [noise.randbytes(3000).hex() for _ in range(1200)]
    path = tmp_path / "a.parquet"
    table = pa.table(dict.fromkeys(("text", "b", "c")[:columns], texts))
    pq.write_table(table, path, compression="zstd", use_dictionary=False, data_page_size=1 << 16)
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = group.column(0).total_compressed_size
    assert chunk > 3 << 20
    monkeypatch.setattr(parquet_rows, "BUFFERS", 1 << 20)
    monkeypatch.setattr(parquet_rows, "CHUNK_BYTES", (chunk if columns == 1 else 2 * chunk) - 1)
    monkeypatch.setattr(parquet_rows.storage, "open_input", Watched)
    monkeypatch.setattr(Watched, "largest", 0)
    found = [text for _, batch, _ in parquet_rows.batches(piece(path), ReadSettings("parquet")) for text in
             batch.column("text").to_pylist()]  # fmt: skip
    assert found == texts
    # Arrow fills a buffer of 1 MiB anew before it has given away all of it.
    assert Watched.largest <= 9 << 18


def test_a_batch_has_the_bytes_it_may_have_however_rows_lie(tmp_path):
    """Rows sorted by length: their mean says nothing of the last."""
    texts = ["short"] * 20_000 + ["long" * (1 << 17)] * 100
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path, use_dictionary=False)
    batches = list(parquet_rows.batches(piece(path), ReadSettings("parquet")))
    assert sum(batch.num_rows for _, batch, _ in batches) == len(texts)
    assert all(batch.nbytes <= parquet_rows.BATCH_BYTES for _, batch, _ in batches)
    firsts = [first for first, _, _ in batches]
    assert firsts == sorted(firsts)


def test_a_value_named_by_every_row_is_a_bomb(tmp_path):
    path = tmp_path / "a.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["word " * 100_000]))
    pq.write_table(pa.table({"text": column}), path, compression="zstd")
    with pytest.raises(
        InputError, match=r"corrupt file \(a decompression bomb: [\d,]+ bytes became more than"
    ):
        read(path, ReadSettings("parquet"))


@pytest.mark.parametrize(
    ("column", "compression", "said"),
    [
        (pa.array(["word " * 1000] * 50), "brotli", "compressed with BROTLI"),
        (pa.array([[1] * 5000] * 50), "none", "the column 'other.list.element' is no column of strings"),
        (pa.array([{"a": "word " * 1000}] * 50), "none", "the column 'other.a' is no column of strings"),
    ],
    ids=["brotli", "lists", "structs"],
)
def test_a_page_that_memory_does_not_hold_and_that_is_not_read_here(
    tmp_path, monkeypatch, column, compression, said
):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": ["a"] * 50, "other": column}), path, compression=compression, use_dictionary=False
    )
    assert len(read(path, ReadSettings("parquet"))[0]) == 50
    monkeypatch.setattr(parquet_rows, "PAGE_BYTES", 1 << 14)
    with pytest.raises(InputError) as caught:
        read(path, ReadSettings("parquet"))
    assert str(caught.value).startswith(
        "a.parquet: a page is too large for memory and cannot be read a value at"
    )
    assert said in str(caught.value)


def test_a_page_of_a_very_long_list(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "n": [[0] * 100_000, [1]]}), path)
    assert [row["text"] for row in read(path, ReadSettings("parquet"))[0]] == ["a", "b"]
    monkeypatch.setattr(parquet_rows, "MOST_IN_LISTS", 1000)
    with pytest.raises(InputError, match=r"the column 'n\.list\.element' has a page of very long lists"):
        read(path, ReadSettings("parquet"))


@pytest.mark.parametrize(
    "settings_", [ReadSettings("parquet"), ReadSettings("parquet", parse=("other",))], ids=str
)
def test_a_row_of_other_columns_that_memory_does_not_hold(tmp_path, settings_):
    """Python's lists of 3 million numbers take more than the 64 MiB that a row may at least."""
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": ["a", "b", "c"], "n": pa.array([[], [7] * 9_000_000, []], pa.list_(pa.int8()))}),
        path,
    )
    kept, lost = read(path, ReadSettings("parquet", max_document_bytes=1 << 10))
    assert [row["text"] for row in kept] == ["a", "c"]
    assert [(row.reason, int.from_bytes(row.id[8:], "big")) for row in lost] == [("too-large", 1)]
    assert lost[0].size > 9_000_000


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_page_that_is_cut(tmp_path, cut):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["some words", "more of them"]}), path, compression="none")
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    with pytest.raises((UnreadableError, IndexError)):
        list(parquet_values.values(io.BytesIO(path.read_bytes()[:cut]), chunk, True, 100, 10))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_page(data):
    class Chunk:
        num_values, compression = 3, "SNAPPY"
        dictionary_page_offset, data_page_offset = None, 0

    with contextlib.suppress(UnreadableError):
        list(parquet_values.values(io.BytesIO(data), Chunk(), True, 100, 10))


# ---- JSON -------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(alphabet='a",[{\\\u00e9\U0001f600', max_size=6)),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(alphabet='a",[{\\', max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)


def count(value: Any) -> int:
    """Values inside a value, and containers: as many as stand behind a comma or a bracket."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return max(len(value), 1) + sum(map(count, value))
    return 0


@given(VALUES, st.booleans())
def test_values_are_counted_outside_strings(value, ascii_only):
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    found = json_rows._values(data, 1 << 30)
    assert found == count(value)
    assert json_rows.value(data, json_rows.PARSED_LEAST) == orjson.loads(data)


@pytest.mark.parametrize(
    ("line", "least", "most"),
    [
        (b'{"text": "' + b"a" * 1000 + b'"}', 3.0, 3.1),
        (b'{"text": "' + b"\\n" * 1000 + b'"}', 2.5, 2.6),
        ('{"text": "\u00e9'.encode() + b"a" * 1000 + b'"}', 3.9, 4.1),
        ('{"text": "\U0001f600'.encode() + b"a" * 1000 + b'"}', 5.9, 6.1),
        (b'{"text": "' + b"\\u00e9" * 1000 + b'"}', 2.3, 2.4),
        (b'{"text": "' + b"\\ud83d\\ude00" * 1000 + b'"}', 2.6, 2.8),
        (b'{"text": "' + b"a,b[c{" * 1000 + b'"}', 3.0, 3.1),
        (b"[" * 1000, 200, 204),
        (b'{"text": "' + b'\\"' * 1000, 2.5, 2.6),
    ],
    ids=["ascii", "newlines", "latin", "emoji", "escapes", "pairs", "marks-in-a-string", "deep", "no-end"],
)  # fmt: skip
def test_what_a_line_takes(line, least, most):
    """In bytes of memory for a byte of it, without the one value that a row is itself."""
    taken = json_rows.parsed_bytes(line, 7 * len(line)) - json_rows.VALUE
    assert least <= taken / len(line) <= most


def test_a_string_without_an_end_is_looked_at_once():
    """A quadratic look at a megabyte of escaped quotes would not end."""
    assert json_rows._values(b'[1, "' + b'\\"' * (1 << 20), 1 << 30) == 2


def test_of_a_long_line_the_start_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * 200_000 + b"\n" + b"y" * 5000 + b"\n" + b"z" * 150_000)
    kept, lost = read(path, ReadSettings("jsonl", max_document_bytes=1 << 10))
    assert [row["text"] for row in kept] == ["a"]
    assert [(row.reason, row.size, row.raw) for row in lost] == [
        ("too-large", 200_000, b"x" * 4096), ("too-large", 5000, b"y" * 4096), ("too-large", 150_000, b"z" * 4096)
    ]  # fmt: skip


def test_parsed_columns_are_bounded_as_rows_are(tmp_path):
    path = tmp_path / "a.jsonl"
    inner = json.dumps("[" + "0," * 400_000 + "0]")
    path.write_text('{"text": "a", "m": "[0]"}\n{"text": "b", "m": ' + inner + "}\n")
    kept, lost = read(path, ReadSettings("jsonl", max_document_bytes=1 << 20, parse=("m",)))
    assert [row["text"] for row in kept] == ["a"]
    assert [row.reason for row in lost] == ["too-large"]
    assert len(lost[0].raw) == 1 << 16
