"""Is every file of a tar or zip a document, wherever it wants to be written and whatever it is packed with?"""

import bz2
import gzip
import io
import json
import lzma
import stat
import struct
import tarfile
import zipfile

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import archives, decompress, inputs, readers, tar_stream
from winnow.shards.inputs import InputError, Piece
from winnow.shards.readers import ReadSettings
from winnow.shards.splits import cut

PACKED = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.zst": zstandard.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


def tar_of(*members, format_=tarfile.PAX_FORMAT):
    """A tar of (name or TarInfo, bytes)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(*members, compression=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def read(tmp_path, name, content, format_="text", **more):
    """(position, path, text) of every document, (position, reason, raw) of every lost row."""
    path = tmp_path / name
    path.write_bytes(content)
    piece = Piece(0, str(path), name, 7, len(content))
    kept, lost = [], []
    for batch in readers.read([piece], ReadSettings(format_, **more), readers.Seen()):
        kept += [
            (int.from_bytes(row["id"][8:]), json.loads(row["meta"])["path"], row["text"])
            for row in batch.table.to_pylist()
        ]
        lost += [(int.from_bytes(row.id[8:]), row.reason, row.raw) for row in batch.lost]
    return kept, lost


def seen_by_tarfile(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [m for m in archive if m.isfile()]


def special(name, kind, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


@pytest.mark.parametrize("suffix", PACKED)
def test_members_of_a_tar(tmp_path, suffix):
    content = tar_of(
        ("a.txt", b"a"),
        (special("d/", tarfile.DIRTYPE), b""),
        ("d/b.txt", "b\u00e9".encode()),
        (special("link", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard", tarfile.LNKTYPE, "a.txt"), b""),
        (special("fifo", tarfile.FIFOTYPE), b""),
        (special("device", tarfile.CHRTYPE), b""),
        ("../../up.txt", b"up"),
        ("/etc/absolute.txt", b"absolute"),
        ("./here.txt", b"here"),
        ("empty.txt", b""),
        ("bad.txt", b"\xff"),
    )
    kept, lost = read(tmp_path, "a" + suffix, PACKED[suffix](content))
    offsets = {m.name: m.offset_data - 512 for m in seen_by_tarfile(content)}
    assert kept == [
        (offsets["a.txt"], "a.txt", "a"),
        (offsets["d/b.txt"], "d/b.txt", "b\u00e9"),
        (offsets["../../up.txt"], "../../up.txt", "up"),
        (offsets["/etc/absolute.txt"], "/etc/absolute.txt", "absolute"),
        (offsets["./here.txt"], "here.txt", "here"),
    ]
    assert lost == [(offsets["empty.txt"], "empty", b""), (offsets["bad.txt"], "utf8", b"\xff")]
    assert [path.name for path in tmp_path.iterdir()] == ["a" + suffix]


def test_members_of_a_zip(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    members = [
        ("a.txt", "a"),
        ("d/", ""),
        ("d/b.py", "b"),
        (link, "/etc/passwd"),
        ("../up.txt", "up"),
        ("e.txt", ""),
    ]
    content = zip_of(*members)
    kept, lost = read(tmp_path, "a.zip", content, "code")
    assert [path for _, path, _ in kept] == ["a.txt", "d/b.py", "../up.txt"]
    assert [text for *_, text in kept] == ["a", "b", "up"]
    assert all(content[at : at + 4] == b"PK\x03\x04" for at, *_ in kept)
    assert [reason for _, reason, _ in lost] == ["empty"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_language_and_members(tmp_path):
    members = [
        ("src/a.py", b"1"),
        ("src/d/b.rs.gz", gzip.compress(b"2")),
        ("src/README.md", b"3"),
        ("a.py", b"4"),
    ]
    for name, content in (("a.tar", tar_of(*members)), ("a.zip", zip_of(*members))):
        kept, lost = read(tmp_path, name, content, "code", members=("src/**/*.rs.gz", "src/*.py"))
        assert [(path, text) for _, path, text in kept] == [("src/a.py", "1"), ("src/d/b.rs.gz", "2")]
        assert not lost
        piece = Piece(0, str(tmp_path / name), name, 7, len(content))
        rows = list(archives.rows(piece, ReadSettings("code")))
        assert [row.columns["language"] for row in rows] == ["Python", "Rust", "Markdown", "Python"]


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_every_kind_of_tar(tmp_path, format_):
    long = "d" * 90 + "/" + ("e" * 300 if format_ != tarfile.USTAR_FORMAT else "e" * 60)
    names = ["a", long, "\u00e4\u4e2d" if format_ != tarfile.USTAR_FORMAT else "x", "a" * 100]
    kept, _ = read(tmp_path, "a.tar", tar_of(*((name, b"t") for name in names), format_=format_))
    assert [path for _, path, _ in kept] == names


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.text("ab/. \u00e4", min_size=1, max_size=120), st.binary(max_size=1500))),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 2000),
)
def test_members_are_those_that_tarfile_sees(files, format_, block):
    content = tar_of(*files, format_=format_)
    stream = tar_stream.Stream(content[i : i + block] for i in range(0, len(content), block))
    found = [(m.offset, m.name, stream.read(m.size)) for m in tar_stream.members(stream) if m.is_file]
    expected = [
        (m.offset_data - 512, m.name.rstrip("/"), content[m.offset_data : m.offset_data + m.size])
        for m in seen_by_tarfile(content)
    ]
    assert [(at, name.rstrip("/"), data) for at, name, data in found] == expected


def test_large_numbers_archives_in_a_row_and_what_lies_behind(tmp_path):
    pax = tarfile.TarInfo("pax")
    pax.pax_headers = {"comment": "x" * 100_000, "path": "never-seen"}
    one, two = tar_of((pax, b"1"), ("b", b"2")), tar_of(("c", b"3"))
    kept, _ = read(tmp_path, "a.tar", one + two + b"junk" * 1000)
    assert [(path, text) for _, path, text in kept][1:] == [("b", "2"), ("c", "3")]
    base256 = resized(tarfile.TarInfo("base256").tobuf(), b"\x80" + (5).to_bytes(11, "big"))
    kept, _ = read(tmp_path, "b.tar", base256 + b"12345".ljust(512, b"\0") + bytes(1024))
    assert [(path, text) for _, path, text in kept] == [("base256", "12345")]
    sized = tarfile.TarInfo("sized")
    sized.pax_headers = {"size": "3"}
    content = tar_of((sized, b"123"), ("b", b"2"))
    content = content[:1024] + resized(content[1024:1536], b"0" * 11 + b"\0") + content[1536:]
    kept, _ = read(tmp_path, "c.tar", content)
    assert [(path, text) for _, path, text in kept] == [("sized", "123"), ("b", "2")]


def resized(header, size):
    """A header that says another size."""
    changed = header[:124] + size + header[136:148] + b" " * 8 + header[156:512]
    return changed[:148] + b"%06o\0 " % sum(changed) + changed[156:]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                                  tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.AREGTYPE])  # fmt: skip
@pytest.mark.parametrize("name", ["x", "x/"])
def test_what_has_no_data_hides_no_member(tmp_path, kind, name):
    if (kind, name) == (tarfile.AREGTYPE, "x"):
        return  # a file
    header = resized(special(name, kind, "a").tobuf(tarfile.USTAR_FORMAT), b"%011o\0" % 1500)
    one, two = (tar_of((n, n.encode() * 300), format_=tarfile.USTAR_FORMAT) for n in "ab")
    content = one[:1024] + header + two
    kept, lost = read(tmp_path, "a.tar", content)
    assert [(at, path) for at, path, _ in kept] == [
        (m.offset, m.name) for m in seen_by_tarfile(content) if m.name in "ab"
    ]
    assert ([path for _, path, _ in kept], lost) == (["a", "b"], [])


@pytest.mark.parametrize("more", [0, 1, 2])
def test_the_map_of_gnus_old_sparse_files_is_passed_over(tmp_path, more):
    parts = more * 21 + 3
    number = b"%011o\0".__mod__
    entries = [number(i * 1000) + number(10) for i in range(parts)]
    info = special("s", tarfile.GNUTYPE_SPARSE)
    info.size = parts * 10
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:482] = b"".join(entries[:4]).ljust(96, b"\0")
    header[482], header[483:495] = more > 0, number(parts * 1000)
    rest = entries[4:]
    blocks = [b"".join(rest[i * 21 : i * 21 + 21]).ljust(504, b"\0") for i in range(more)]
    maps = [(block + bytes([i < more - 1])).ljust(512, b"\0") for i, block in enumerate(blocks)]
    data = b"d" * info.size
    content = (
        resized(bytes(header), header[124:136])
        + b"".join(maps)
        + data.ljust(-(-len(data) // 512) * 512, b"\0")
    ) + tar_of(("b", b"2"))
    assert [m.name for m in seen_by_tarfile(content)] == ["s", "b"]
    kept, lost = read(tmp_path, "a.tar", content)
    assert [path for _, path, _ in kept] == ["b"]
    assert [(reason, raw) for _, reason, raw in lost] == [("unsupported", b"s")]
    cut = content[: 512 + 512 * len(maps) // 2]
    with pytest.raises(InputError, match="ends too early"):
        read(tmp_path, "b.tar", cut)


def test_a_sparse_file_is_not_guessed_at(tmp_path):
    info = tarfile.TarInfo("s")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    kept, lost = read(tmp_path, "a.tar", tar_of((info, b"1"), ("b", b"2")))
    assert [path for _, path, _ in kept] == ["b"]
    assert [(reason, raw) for _, reason, raw in lost] == [("unsupported", b"s")]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("cut", [0, 1, 300, 512, 700, 1536, 1537, 2600])
def test_a_cut_tar(tmp_path, suffix, cut):
    whole = tar_of(("a", b"a" * 100), ("b", b"b" * 600), format_=tarfile.USTAR_FORMAT)[:3072]
    content = PACKED[suffix](whole)
    content = content[:cut] if suffix == ".tar" else content[: len(content) * cut // 3072]
    if content or suffix == ".tar":
        with pytest.raises(InputError, match=r"ends too early"):
            read(tmp_path, "a" + suffix, content)
    kept, lost = read(tmp_path, "a" + suffix, content, on_truncated="keep")
    assert not lost
    expected = [("a", "a" * 100), ("b", "b" * 600)]
    got = [(path, text) for _, path, text in kept]
    assert got == expected[: len(got)]
    if suffix == ".tar":
        assert len(got) == (cut >= 612) + (cut >= 2136)


def test_a_broken_tar(tmp_path):
    content = bytearray(tar_of(("a", b"a"), ("b", b"b"), format_=tarfile.USTAR_FORMAT))
    content[1024 + 3] ^= 1
    with pytest.raises(InputError, match=r"^a\.tar: .*no tar header at byte 1024"):
        read(tmp_path, "a.tar", bytes(content), on_truncated="keep")
    with pytest.raises(InputError, match=r"^b\.tar: .*no tar header at byte 0"):
        read(tmp_path, "b.tar", b"text" * 1000)


def test_members_that_cannot_be_read(tmp_path):
    packed = gzip.compress(b"0123456789" * 100)
    members = [
        ("large.txt", b"x" * 1001),
        ("fits.txt", b"x" * 1000),
        ("large.txt.gz", gzip.compress(b"x" * 1001)),
        ("fits.txt.gz", packed),
        ("cut.txt.gz", packed[:-9]),
        ("broken.txt.bz2", b"no bz2"),
        ("inner.tar.gz", packed),
        ("inner.7z", b"7z"),
    ]
    for name, content in (("a.tar", tar_of(*members)), ("a.zip", zip_of(*members))):
        kept, lost = read(tmp_path, name, content, max_document_bytes=1000)
        assert [path for _, path, _ in kept] == ["fits.txt", "fits.txt.gz"]
        assert [(reason, raw[:4]) for _, reason, raw in lost] == [
            ("too-large", b"xxxx"), ("too-large", b"xxxx"), ("corrupt-member", b"0123"), ("corrupt-member", b""),
            ("nested-archive", b"inne"), ("nested-archive", b"inne"),
        ]  # fmt: skip


def test_members_of_a_zip_that_cannot_be_read(tmp_path):
    content = bytearray(
        zip_of(("a", b"a" * 50), ("b", b"b" * 50), ("c", b"c"), compression=zipfile.ZIP_STORED)
    )
    content[content.index(b"a" * 50)] ^= 1  # its sum is wrong
    second = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
    content[second + 8] |= 1  # it is encrypted
    kept, lost = read(tmp_path, "a.zip", bytes(content))
    assert [path for _, path, _ in kept] == ["c"]
    assert [reason for _, reason, _ in lost] == ["corrupt-member", "encrypted"]
    kept, lost = read(tmp_path, "b.zip", zip_of(("a", b"a" * 50), compression=zipfile.ZIP_BZIP2))
    assert not kept
    assert [reason for _, reason, _ in lost] == ["unsupported"]


def test_a_zip_whose_members_share_their_data(tmp_path):
    """A member that holds another with its header, both with the right sums: what makes a small file large."""
    one = zip_of(("b", b"b" * 200), compression=zipfile.ZIP_STORED)
    record, entry = one[: one.index(b"PK\x01\x02")], one[one.index(b"PK\x01\x02") : one.index(b"PK\x05\x06")]
    two = zip_of(("a", record), compression=zipfile.ZIP_STORED)
    end = two.rindex(b"PK\x05\x06")
    entry = entry[:42] + struct.pack("<I", two.index(record)) + entry[46:]
    size = end + len(entry) - two.index(b"PK\x01\x02", two.index(record) + len(record))
    tail = two[end : end + 8] + struct.pack("<HHI", 2, 2, size) + two[end + 16 :]
    kept, lost = read(tmp_path, "a.zip", two[:end] + entry + tail)
    assert [(path, text) for _, path, text in kept] == [("b", "b" * 200)]
    assert [(at, reason) for at, reason, _ in lost] == [(0, "corrupt-member")]


def test_a_zip_whose_headers_are_broken(tmp_path):
    content = zip_of(("\u00e9.txt", b"hello"), ("b.txt", b"world"))
    broken = content.replace("\u00e9".encode(), b"\xff\xff", 1)
    kept, lost = read(tmp_path, "a.zip", broken)
    assert [path for _, path, _ in kept] == ["b.txt"]
    assert [(at, reason) for at, reason, _ in lost] == [(0, "corrupt-member")]
    # Members whose headers are said to lie in the directory, or beyond what an id can hold.
    content = zip_of(*((name, b"hello") for name in "abcd"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.start_dir
    for info, offset in ((1, start + 3), (2, (1 << 64) - 1), (3, 1 << 63)):
        at = content.rfind(b"PK\x01\x02" + content[start + 4 : start + 20])
        assert at > 0
        at = [i for i in range(len(content)) if content.startswith(b"PK\x01\x02", i)][info]
        extra = struct.pack("<HHQ", 1, 8, offset)
        entry = content[at : at + 30] + struct.pack("<H", len(extra)) + content[at + 32 : at + 42]
        name = content[at + 46 : at + 47]
        content = content[:at] + entry + b"\xff" * 4 + name + extra + content[at + 47 :]
    end = content.rfind(b"PK\x05\x06")
    content = content[: end + 12] + struct.pack("<I", end - start) + content[end + 16 :]
    kept, lost = read(tmp_path, "b.zip", content)
    assert [path for _, path, _ in kept] == ["a"]
    assert [reason for _, reason, _ in lost] == ["corrupt-member"] * 3
    assert len({at for at, *_ in lost}) == 3


@pytest.mark.parametrize("declared", [10, 1_000_000])
def test_a_zip_that_lies_about_a_size(tmp_path, declared):
    """A member gives what it declares at most; its sum is wrong then."""
    content = bytearray(zip_of(("bomb", bytes(200_000)), ("b", b"b")))
    first = content.index(b"PK\x01\x02")
    content[first + 24 : first + 28] = struct.pack("<I", declared)
    content[22:26] = struct.pack("<I", declared)
    kept, lost = read(tmp_path, "a.zip", bytes(content), max_document_bytes=100_000)
    assert [path for _, path, _ in kept] == ["b"]
    assert [reason for _, reason, _ in lost] == ["corrupt-member" if declared == 10 else "too-large"]


def test_a_zip_without_its_end(tmp_path, monkeypatch):
    content = zip_of(("a", b"a" * 1000), ("b", b"b"))
    for damaged in (content[:-30], content[:50], b""):
        with pytest.raises(InputError, match=r"^a\.zip: .*ends too early"):
            read(tmp_path, "a.zip", damaged)
    with pytest.raises(InputError, match=r"^a\.zip: .*not a zip"):
        read(tmp_path, "a.zip", b"text" * 100)
    end = content.rindex(b"PK\x05\x06")
    lying = content[: end + 16] + struct.pack("<I", len(content) * 2) + content[end + 20 :]
    with pytest.raises(InputError, match=r"^a\.zip: "):
        read(tmp_path, "a.zip", lying)
    monkeypatch.setattr(archives, "ZIP_DIRECTORY", 50)
    with pytest.raises(InputError, match=r"^a\.zip: a zip of too many files"):
        read(tmp_path, "a.zip", content)


def test_a_bomb_in_a_tar_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "BOMB_BYTES", 1 << 20)
    content = tar_of(("zeros", bytes(1 << 24)))
    with pytest.raises(InputError, match=r"^a\.tar\.bz2: .*bomb.*exclude"):
        read(tmp_path, "a.tar.bz2", bz2.compress(content))


def test_formats_that_read_no_archives(tmp_path):
    for name in ("a.tar.gz", "b.zip", "c.tgz"):
        file = inputs.InputFile(name, str(tmp_path / name), 1, "")
        assert cut("s", [file], "text", 100)
        with pytest.raises(
            InputError, match=rf"'s': {name}: archives are read with format: text or code, not jsonl"
        ):
            cut("s", [file], "jsonl", 100)
