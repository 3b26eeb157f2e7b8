"""Is every page of a web archive read, at its place, however the archive is stored, cut or broken?"""

import contextlib
import gzip
import io
import itertools
import random
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import decompress, http_message, members, readers, warc
from winnow.shards.convert_settings import Html
from winnow.shards.inputs import InputError, Piece
from winnow.shards.readers import ReadSettings
from winnow.shards.rows import is_malformed

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
HTML = Html.model_validate({"max_bytes": 1 << 20})
WARC = ReadSettings("warc", convert=HTML)
WET = ReadSettings("wet")
PAGE = b"<html><head><title>A page</title></head><body><p>Words of the page.</p></body></html>"


def record(kind, block, head=b"", length=None, **fields):
    content_type = {"response": "application/http; msgtype=response", "conversion": "text/plain"}.get(
        kind, "text/html"
    )
    fields = {"Content-Type": content_type} | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
    size = len(block) if length is None else length
    return (head or b"WARC/1.0\r\n") + (
        f"WARC-Type: {kind}\r\n{''.join(lines)}Content-Length: {size}\r\n\r\n".encode() + block + b"\r\n\r\n"
    )


def answer(body, status=b"200 OK", **fields):
    fields = {"Content_Type": "text/html"} | fields
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)
    return b"HTTP/1.1 " + status + b"\r\n" + lines.encode() + b"\r\n" + body


def page(number, body=PAGE, **fields):
    return record(
        "response", answer(body, **fields), WARC_Target_URI=f"http://a.org/{number}", WARC_Date="2020-01-01"
    )


def zstd_frame(data):
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def skippable(data):
    return (0x184D2A5D).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data


WARCINFO = record("warcinfo", b"software: a test\r\n")
STORED = {
    "plain.warc": b"".join,
    "one.warc.gz": lambda parts: gzip.compress(b"".join(parts)),
    "each.warc.gz": lambda parts: b"".join(map(gzip.compress, parts)),
    "one.warc.zst": lambda parts: zstd_frame(b"".join(parts)),
    "each.warc.zst": lambda parts: b"".join(map(zstd_frame, parts)),
    "blocks.warc.gz": lambda parts: b"".join(map(gzip.compress, blocks_of(b"".join(parts)))),
    "blocks.warc.zst": lambda parts: b"".join(map(zstd_frame, blocks_of(b"".join(parts)))),
}
"""A file as it is, of one member, of one for each record, and of members that know nothing of records."""


def blocks_of(data, size=700):
    return [data[i : i + size] for i in range(0, len(data), size)]


def write(tmp_path, name, parts):
    path = tmp_path / name
    path.write_bytes(STORED[name](parts))
    return path


def rows(path, settings_=WARC, start=0, stop=-1):
    """Rows, and what ended the reading."""
    found = []
    try:
        found.extend(warc.rows(Piece(0, str(path), path.name, 1, 0, start, stop), settings_))
    except (decompress.TruncatedError, decompress.CorruptError) as error:
        return found, type(error).__name__
    return found, ""


def texts(found):
    return [row.columns["text"] if row.columns else row.reason for row in found]


def many(count=40, seed=5):
    """Records of differing sizes, with others between."""
    draw = random.Random(seed)
    parts = [WARCINFO]
    for i in range(count):
        body = PAGE + draw.randbytes(draw.randrange(3000)).hex().encode()
        parts.append(record("request", b"GET / HTTP/1.1\r\n\r\n", WARC_Target_URI=f"http://a.org/{i}"))
        parts.append(page(i, body))
        parts.append(record("metadata", b"fetchTimeMs: 3\r\n"))
    return parts


# ---- what a record says -----------------------------------------------------------------------------------------


def test_columns_of_a_page(tmp_path):
    part = record(
        "response",
        answer(PAGE, Content_Type="Text/HTML; Charset='ISO-8859-1'", Content_Language="de-AT"),
        WARC_Target_URI="<http://a.org/1>",
        WARC_Date="2020-01-02T03:04:05Z",
        WARC_Record_ID="<urn:uuid:1>",
        WARC_IP_Address="10.0.0.1",
        WARC_Truncated="length",
    )
    ((row,), end) = rows(write(tmp_path, "plain.warc", [part]))
    assert (row.position, row.size, end) == (0, len(PAGE), "")
    assert row.columns == {
        "text": PAGE, "url": "http://a.org/1", "date": "2020-01-02T03:04:05Z", "language": "de-AT", "status": 200,
        "mime": "text/html", "charset": "iso-8859-1", "ip": "10.0.0.1", "record_id": "<urn:uuid:1>",
        "truncated": "length",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (page(1), PAGE),
        (page(1, Content_Type="application/xhtml+xml;charset=utf-8"), PAGE),
        (page(1, b"some words", Content_Type="text/plain"), b"some words"),
        (page(1, Content_Type=""), PAGE),
        (page(1, b"\x89PNG", Content_Type=""), "mime"),
        (page(1, Content_Type="application/pdf"), "mime"),
        (page(1, Content_Type="text/css"), "mime"),
        (record("response", answer(b"%PDF"), WARC_Identified_Payload_Type="application/pdf"), "mime"),
        (record("response", answer(PAGE, Content_Type="x/y"), WARC_Identified_Payload_Type="text/html"), PAGE),
        (record("response", answer(PAGE, b"404 Not Found")), "http-status"),
        (record("response", answer(PAGE, b"301")), "http-status"),
        (record("response", answer(PAGE, b"200")), PAGE),
        (record("response", b"HTTP/1.0 200 OK\nContent-Type: text/html\n\n" + PAGE), PAGE),
        (record("response", b"HTTP/1.1 200 OK\r\nContent-Type:\r\n text/html\r\n\r\n" + PAGE), PAGE),
        (record("response", b"HTTP/1.1 200 OK\r\nContent-Type: text/html"), b""),
        (record("response", PAGE), "warc-record"),
        (record("response", b"127.0.0.1", Content_Type="text/dns"), "mime"),
        (record("resource", PAGE), PAGE),
        (record("resource", PAGE, Content_Type="image/png"), "mime"),
        (record("resource", PAGE, Content_Type="application/octet-stream"), "mime"),
        (record("conversion", b"text"), "record-type"),
        (record("continuation", PAGE), "warc-record"),
        (record("response", answer(PAGE), WARC_Segment_Number="1"), "warc-record"),
        (page(1, b"<p>" + b"x" * (1 << 20)), "too-large"),
        (page(1, b"\0" * (4 << 20)), "too-large"),
        (page(1, b"\0" * (4 << 20), Content_Type="video/mp4"), "mime"),
        (record("response", answer(b"\0" * (4 << 20), b"206 Partial")), "http-status"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_record(tmp_path, part, reason):
    for name in ("plain.warc", "each.warc.gz"):
        found, end = rows(write(tmp_path, name, [WARCINFO, part, page(2, b"<p>next")]))
        assert (texts(found), end) == ([reason, b"<p>next"], "")


def test_text_of_common_crawls_wet_files(tmp_path):
    part = record(
        "conversion",
        "Füße\n".encode(),
        WARC_Target_URI="http://a.org",
        WARC_Identified_Content_Language="deu,eng",
    )
    path = write(tmp_path, "each.warc.gz", [WARCINFO, part, page(1)])
    found, _ = rows(path, WET)
    assert texts(found) == ["Füße\n".encode(), "record-type"]
    assert found[0].columns == {
        "text": "Füße\n".encode(),
        "url": "http://a.org",
        "mime": "text/plain",
        "language": "deu,eng",
    }
    piece = Piece(0, str(path), path.name, 1, path.stat().st_size)
    (batch,) = readers.read([piece], ReadSettings("wet", key="url"), readers.Seen())
    assert batch.table.to_pylist()[0]["text"] == "Füße\n"
    assert batch.table.to_pylist()[0]["key"] == "http://a.org"


def test_records_that_hold_no_document_are_not_counted(tmp_path):
    assert not is_malformed("record-type")
    parts = [record(kind, b"a block") for kind in warc.NO_DOCUMENT]
    assert rows(write(tmp_path, "plain.warc", parts)) == ([], "")


def test_the_format_before_warc_is_refused_by_name(tmp_path):
    for data in (
        b"filedesc://a.arc 0.0.0.0 2008 text/plain 76\n",
        gzip.compress(b"filedesc://a.arc 0.0.0.0\n"),
    ):
        path = tmp_path / ("a.arc.gz" if data.startswith(b"\x1f") else "a.arc")
        path.write_bytes(data)
        with pytest.raises(InputError, match="an ARC file"):
            rows(path)


def test_pages_become_text(tmp_path):
    path = write(
        tmp_path,
        "each.warc.gz",
        [WARCINFO, page(1), page(2, b"\xff\xfe"), page(3, b"a <b", Content_Type="text/plain")],
    )
    piece = Piece(0, str(path), path.name, 1, path.stat().st_size)
    (batch,) = readers.read([piece], ReadSettings("warc", key="url", convert=HTML), readers.Seen())
    assert batch.table["text"].to_pylist() == ["Words of the page.", "a <b"]
    assert batch.table["key"].to_pylist() == ["http://a.org/1", "http://a.org/3"]
    assert '"title":"A page"' in batch.table["meta"][0].as_py()
    assert [lost.reason for lost in batch.lost] == ["empty"]


# ---- how it is stored -------------------------------------------------------------------------------------------


def test_the_same_pages_however_they_are_stored(tmp_path):
    parts = many()
    expected = [row.columns for row in rows(write(tmp_path, "plain.warc", parts))[0]]
    assert len(expected) == 40
    offsets = list(itertools.accumulate(map(len, parts), initial=0))
    for name in STORED:
        found, end = rows(write(tmp_path, name, parts))
        assert ([row.columns for row in found], end) == (expected, "")
        each = name.startswith("each")
        pack = (gzip.compress if name.endswith("gz") else zstd_frame) if each else bytes
        places = (
            list(itertools.accumulate((len(pack(part)) for part in parts), initial=0)) if each else offsets
        )
        assert [row.position for row in found] == places[2:-1:3]


def test_a_dictionary_at_the_head_of_a_zstd_file(tmp_path):
    parts = many()
    dictionary = zstandard.train_dictionary(2000, parts * 4)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    frames = b"".join(map(compressor.compress, parts))
    expected = texts(rows(write(tmp_path, "plain.warc", parts))[0])
    path = tmp_path / "a.warc.zst"
    for head in (dictionary.as_bytes(), zstd_frame(dictionary.as_bytes())):
        path.write_bytes(skippable(head) + frames)
        assert texts(rows(path)[0]) == expected
        assert texts(cut(path, 5)) == expected


def cut(path, parts, settings_=WARC):
    size = path.stat().st_size
    pieces = warc.ranges(str(path), size, -(-size // parts))
    assert len(pieces) > parts * 0.9
    assert sum(length for _, _, length in pieces) == size
    return [row for start, stop, _ in pieces for row in rows(path, settings_, start, stop)[0]]


@pytest.mark.parametrize("look_back", [0, 3000, warc.LOOK_BACK])
@pytest.mark.parametrize("name", ["each.warc.gz", "each.warc.zst"])
def test_a_cut_file_has_the_same_rows(tmp_path, monkeypatch, name, look_back):
    monkeypatch.setattr(warc, "LOOK_BACK", look_back)
    parts = many()
    parts[20] = b"no record at all\r\n\r\n"
    parts[31] += page("second", b"<p>two in a member")
    path = write(tmp_path, name, parts)
    expected = rows(path)[0]
    assert texts(expected).count("warc-record") == 1
    for count in (2, 3, 7, 100):
        assert cut(path, count) == expected


def test_an_archive_in_an_archive_does_not_mislead(tmp_path):
    # Fetched by a crawler as a file of its own, which does not compress: its members stand in the outer one.
    inner = b"".join(
        gzip.compress(page(f"inner{i}", random.Random(i).randbytes(400).hex().encode())) for i in range(20)
    )
    parts = [WARCINFO, page(1), page(2, inner, Content_Type="application/gzip"), page(3), page(4)]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(part, compresslevel=0 if inner in part else 6) for part in parts))
    expected = rows(path)[0]
    assert texts(expected) == [PAGE, "mime", PAGE, PAGE]
    assert cut(path, 30) == expected


def test_files_that_cannot_be_cut_are_whole(tmp_path):
    parts = many()
    for name in STORED:
        path = write(tmp_path, name, parts)
        size = path.stat().st_size
        assert len(warc.ranges(str(path), size, 1000)) == (-(-size // 1000) if name.startswith("each") else 1)
        assert warc.ranges(str(path), size, size) == [(0, -1, size)]
    path = tmp_path / "empty.warc.gz"
    path.write_bytes(b"")
    assert rows(path) == ([], "")


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_blocks_of_any_size_give_the_same_records(data):
    parts = [
        WARCINFO,
        page(1, b"a\r\n\r\nb"),
        b"WARC/broken\n\nWARC/1",
        page(2),
        b"\r\n\r\n",
        page(3, b""),
        b"rest",
    ]
    stream = b"".join(parts)

    def read(blocks):
        return list(warc.records(warc.Stream(iter(blocks)), ("response",), 1 << 20))

    edges = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=30)) | {0, len(stream)})
    assert read([stream[a:b] for a, b in itertools.pairwise(edges)]) == read([stream])


# ---- what is broken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        page(9).replace(b"WARC/1.0", b"WORC/1.0", 1),
        page(9).replace(b"Content-Length: ", b"Content-Length: x"),
        page(9).replace(b"Content-Length: ", b"Content-Length: -"),
        page(9).replace(b"Content-Length", b"Content-Size"),
        record("response", answer(PAGE), length=9),
        record("response", answer(PAGE), length=len(answer(PAGE)) + 9),
        b"WARC/1.0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"<html>\n",
    ],
)
def test_a_broken_record_costs_no_other(tmp_path, broken):
    parts = [WARCINFO, page(1), broken, page(2), page(3)]
    longer = broken.count(str(len(answer(PAGE)) + 9).encode())
    for name in STORED:
        found, end = rows(write(tmp_path, name, parts))
        assert end == ""
        # A record that is said to be longer takes the next with it where nothing else tells them apart.
        lost = 1 if longer and not name.startswith("each") else 0
        assert texts(found) == [PAGE, "warc-record"] + [PAGE] * (2 - lost)
        assert found[1].raw or longer


@pytest.mark.parametrize("name", STORED)
def test_a_file_that_ends_too_early_gives_what_is_before_the_cut(tmp_path, name):
    parts = [WARCINFO, page(1), page(2), page(3, PAGE * 30)]
    path = write(tmp_path, name, parts)
    whole, data = rows(path)[0], path.read_bytes()
    ends, counts = set(), []
    for size in range(1, len(data), 11):
        path.write_bytes(data[:size])
        found, end = rows(path)
        assert texts(found) == texts(whole)[: len(found)]
        counts.append(len(found))
        ends.add(end)
    assert counts == sorted(counts)
    assert max(counts) >= 2
    assert ends <= {"TruncatedError", ""}
    path.write_bytes(data[:-2])  # newlines behind a record, or a part of a member's sum
    assert rows(path)[1] == ("" if name == "plain.warc" else "TruncatedError")


def test_a_cut_piece_is_told_by_the_piece_it_is_in(tmp_path):
    path = write(tmp_path, "each.warc.gz", many())
    path.write_bytes(path.read_bytes()[:-400])
    size = path.stat().st_size
    ends = [rows(path, WARC, start, stop)[1] for start, stop, _ in warc.ranges(str(path), size, 3000)]
    assert ends.count("TruncatedError") == 1


@pytest.mark.parametrize("name", ["each.warc.gz", "each.warc.zst"])
def test_corrupt_bytes_cost_the_record_they_are_in(tmp_path, name):
    parts = many(12)
    path = write(tmp_path, name, parts)
    expected, data = texts(rows(path)[0]), path.read_bytes()
    first = len((gzip.compress if name.endswith("gz") else zstd_frame)(parts[0]))
    draw = random.Random(3)
    lost = 0
    for _ in range(40):
        at = draw.randrange(first, len(data))
        broken = bytearray(data)
        broken[at : at + 6] = bytes(b ^ 0x5A for b in broken[at : at + 6])
        path.write_bytes(broken)
        found, end = rows(path)
        if end:  # a length that now reaches beyond the end
            assert end == "TruncatedError"
            continue
        kept = [text for text in texts(found) if text != "warc-record"]
        remaining = iter(expected)
        assert all(text in remaining for text in kept)  # in their order
        assert len(kept) >= len(expected) - 2
        lost += len(found) - len(kept)
        assert len({row.position for row in found}) == len(found)
        assert cut(path, 4) == found
    assert lost > 25
    path = write(tmp_path, name.replace("each", "one"), parts)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"x" * 40
    path.write_bytes(data)
    assert rows(path)[1] == "CorruptError"


@pytest.mark.parametrize("name", ["each.warc.gz", "each.warc.zst"])
def test_a_member_without_its_end_is_no_end_of_the_file(tmp_path, name):
    """Where bytes are lost at random, what is left of a stream may go on to the end of the file."""
    stored = [STORED[name]([part]) for part in (WARCINFO, *map(page, range(4)))]
    # A block of bytes as they are that claims more than there are (gzip), or a frame of such blocks (zstd).
    endless = {
        "each.warc.gz": gzip.compress(b"")[:10] + b"\x01\xff\xff\x00\x00WARC/1.0\r\n",
        "each.warc.zst": zstandard.ZstdCompressor().compress(b"W")[:6]
        + ((1 << 17) << 3).to_bytes(3, "little")
        + b"WARC/1.0\r\n",
    }[name]
    path = tmp_path / name
    path.write_bytes(b"".join(stored[:3]) + endless + b"".join(stored[3:]))
    place = sum(map(len, stored[:3]))
    for start, stop in ((0, -1), (place, -1), (place + 1, -1)):
        found, error = rows(path, start=start, stop=stop)
        assert error == ""
        wanted = [(place, "warc-record")] if start <= place else []
        assert [(row.position, row.reason) for row in found if row.reason] == wanted
        assert texts(found)[-2:] == [PAGE, PAGE]
    path.write_bytes(b"".join(stored[:3]) + endless)
    found, error = rows(path)
    assert (texts(found), error) == ([PAGE, PAGE], "TruncatedError")


def test_broken_members_in_each_other_are_given_up(tmp_path, monkeypatch):
    # Each holds all that are behind it as one block, and breaks where that ends.
    broken = gzip.compress(b"")[:10] + b"\x00\xff\xff\x00\x00WARC/1.0\r\n"
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(WARCINFO) + gzip.compress(page(0)) + broken * 100 + b"\xff" * 70_000)
    assert texts(rows(path)[0]) == [PAGE] + ["warc-record"] * 100
    monkeypatch.setattr(warc, "RUN_ON", 0)
    monkeypatch.setattr(warc, "ONCE", 1 << 18)
    found, error = rows(path)
    assert error == "CorruptError"
    assert 3 <= len(found) < 20


def test_padding_behind_members_is_no_member(tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(WARCINFO) + gzip.compress(page(1)) + bytes(1000))
    assert rows(path) == (rows(path)[0], "")
    assert texts(rows(path)[0]) == [PAGE]
    path.write_bytes(path.read_bytes() + b"no member" + gzip.compress(page(2)))
    assert texts(rows(path)[0]) == [PAGE, "warc-record", PAGE]


def test_memory_is_bounded_by_the_limit(tmp_path):
    path = tmp_path / "a.warc.gz"
    deflater = zlib.compressobj(9, wbits=31)
    size = 40 << 20
    data = deflater.compress(record("response", answer(b"<p>"), length=size).rstrip())
    data += b"".join(deflater.compress(bytes(1 << 20)) for _ in range(40)) + deflater.flush()
    path.write_bytes(gzip.compress(WARCINFO) + data + gzip.compress(page(1)))
    tracemalloc.start()
    found, _ = rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(found)[-1] == PAGE
    assert peak < 8 << 20


def test_a_bomb_of_zstd_is_given_up(tmp_path):
    def frame(size):
        block, last = (((1 << 20) | 2 | end).to_bytes(3, "little") + b"\0" for end in (0, 1))
        return b"\x28\xb5\x2f\xfd\x00\x58" + block * (size // (1 << 17) - 1) + last

    path = tmp_path / "a.warc.zst"
    path.write_bytes(zstd_frame(WARCINFO) + zstd_frame(page(1)) + frame(300 << 20) + zstd_frame(page(2)))
    with pytest.raises(decompress.BombError):
        list(warc.rows(Piece(0, str(path), path.name, 1, 0), WARC))


@pytest.mark.parametrize(
    "data", [b"\nWARC/" * 20_000, b"WARC/1.0\r\n" * 20_000, b"\n" * 1_000_000, b"a" * 1_000_000,
             b"WARC/1.0\nContent-Length: 1\n\na" * 9_000])  # fmt: skip
def test_naughty_streams_are_read_in_one_pass(tmp_path, data):
    path = tmp_path / "a.warc"
    path.write_bytes(data + b"\n\n" + page(1))
    assert texts(rows(path)[0])[-1] in (PAGE, "warc-record")


# ---- what a server sent -----------------------------------------------------------------------------------------


def brotli(data):
    """A stream of one uncompressed block (RFC 7932)."""
    head = 0b0 | (len(data) - 1) << 4 | 1 << 20  # window 16, no last block, 4 nibbles of length, uncompressed
    return head.to_bytes(3, "little") + data + b"\x03"


def deflated(data, bits):
    deflater = zlib.compressobj(wbits=bits)
    return deflater.compress(data) + deflater.flush()


def chunked(data, size=7, end=b"0\r\n\r\n"):
    return b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in blocks_of(data, size)) + end


@pytest.mark.parametrize(
    ("body", "encoding", "transfer"),
    [
        (PAGE, "", ""),
        (PAGE, "identity", ""),
        (gzip.compress(PAGE), "gzip", ""),
        (gzip.compress(PAGE), "X-GZIP", ""),
        (gzip.compress(gzip.compress(PAGE)), "gzip, gzip", ""),
        (deflated(PAGE, 15), "deflate", ""),
        (deflated(PAGE, -15), "deflate", ""),
        (brotli(PAGE), "br", ""),
        (zstd_frame(PAGE), "zstd", ""),
        (chunked(PAGE), "", "chunked"),
        (chunked(PAGE, end=b""), "", "chunked"),
        (chunked(gzip.compress(PAGE)), "gzip", "Chunked"),
        (PAGE, "", "chunked"),
        (PAGE, "gzip", ""),
        (PAGE, "br", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_encodings_are_undone(body, encoding, transfer):
    got = http_message.answer(answer(body, Content_Encoding=encoding, Transfer_Encoding=transfer))
    assert http_message.payload(got, len(PAGE)) == PAGE


def payload(body, encoding, limit=1 << 16):
    return http_message.payload(http_message.answer(answer(body, Content_Encoding=encoding)), limit)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br"])
def test_a_page_that_unpacks_to_more_than_the_limit(encoding):
    big = bytes(20 << 20)
    pack = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstd_frame,
        "br": lambda _: brotli(bytes(65536)) * 2,
    }
    body = pack[encoding](big)
    tracemalloc.start()
    with pytest.raises(http_message.TooLarge):
        payload(body, encoding, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br"])
def test_a_page_that_is_not_packed_as_it_says(tmp_path, encoding):
    with pytest.raises(http_message.Undecodable):
        payload(b"\x00\x01\x02\x03\xff" * 300, encoding)
    part = page(1, b"\x00\x01\x02\x03\xff" * 300, Content_Encoding=encoding)
    assert texts(rows(write(tmp_path, "plain.warc", [part]))[0]) == ["http-encoding"]
    assert payload(gzip.compress(PAGE * 2000)[:-9], "gzip", 1 << 20).startswith(PAGE)


def test_what_undoing_encodings_may_cost():
    tiny = http_message.answer(answer(b"1\nx" * 20_000, Transfer_Encoding="chunked"))
    tracemalloc.start()
    assert http_message.payload(tiny, 1 << 20) == b"x" * 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 19
    four, five = ", ".join(["gzip"] * 4), ",".join(["identity"] * 5)
    packed = PAGE
    for _ in range(4):
        packed = gzip.compress(packed)
    assert payload(packed, four) == PAGE
    with pytest.raises(http_message.Undecodable, match="5 content encodings"):
        payload(PAGE, five)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=20))
@settings(deadline=None, max_examples=100)
def test_chunks_are_joined_and_nothing_is_lost(parts, rest):
    body = b"".join(b"%X\r\n%s\r\n" % (len(part), part) for part in parts)
    assert http_message.unchunked(memoryview(body + b"0\r\n\r\n" + rest)) == b"".join(parts)
    cut_off = http_message.unchunked(memoryview(body + b"!" + rest))
    assert cut_off == b"".join(parts) + b"!" + rest


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_no_bytes_are_too_odd(data):
    for block in (
        data,
        b"HTTP/1.1 200 OK\r\n" + data,
        answer(data, Transfer_Encoding="chunked", Content_Encoding="deflate"),
    ):
        got = http_message.answer(block)
        if got is not None:
            with contextlib.suppress(http_message.TooLarge, http_message.Undecodable):
                http_message.payload(got, 1000)
    for kind in (members.Gzip, members.Zstd):
        for prefix in (b"", gzip.compress(page(1)), zstd_frame(page(1))):
            with contextlib.suppress(decompress.TruncatedError, decompress.CorruptError):
                for _, blocks in kind(io.BytesIO(prefix + data)).members(0):
                    assert all(len(block) <= decompress.BLOCK for block in blocks)


# ---- real archives ----------------------------------------------------------------------------------------------


def real(pattern):
    found = sorted((CORPORA / "web_warc").glob(pattern))
    if not found:
        pytest.skip("needs the shared corpora beside the checkout")
    return found


FASTWARC_STOPS = (
    "pywb__example.warc",
    "pywb__iana.warc.gz",
    "pywb__missing-status-text.warc",
    "warcio__example-trunc.warc",
)
"""Archives with broken records or chunks, in which FastWARC gives up."""


def test_real_archives_are_read_as_fastwarc_reads_them():
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    count = 0
    for path in real("*.warc*"):
        if path.name in FASTWARC_STOPS:
            continue
        wet = ".wet" in path.name
        ours = [row.columns for row in rows(path, WET if wet else ReadSettings("warc"))[0] if row.columns]
        theirs = []
        kinds = WarcRecordType.conversion if wet else WarcRecordType.response | WarcRecordType.resource
        for rec in ArchiveIterator(io.BytesIO(path.read_bytes()), record_types=kinds, auto_decode="all"):
            http = rec.http_headers
            said = rec.headers["Content-Type"] if http is None else http.get("Content-Type") or ""
            kind = (rec.headers.get("WARC-Identified-Payload-Type") or said).split(";")[0].strip().lower()
            page = kind in ("text/html", "text/plain", "application/xhtml+xml")
            if wet or (page and (http is None or http.status_code == 200)):
                theirs.append((rec.headers["WARC-Target-URI"].strip("<>"), rec.reader.read()))
        assert [(row["url"], row["text"]) for row in ours] == theirs, path.name
        count += len(ours)
    assert count > 150


def test_real_archives_are_read_alike_however_they_are_cut():
    for name in ("dolma__sample-0001.warc.gz", "aut__example.warc.gz"):
        (path,) = real(name)
        expected = rows(path)[0]
        assert len(expected) >= 17
        for count in (2, 9):
            assert cut(path, count) == expected
