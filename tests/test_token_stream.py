"""Is every token of a range read, and is every one of them traced to the bytes of its document?"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines.stream import ROWS
from winnow.shards import storage, token_stream

IDS = 40
CONTROL = 0  # spells nothing
PIECE_BYTES = np.array([CONTROL, *np.random.default_rng(5).integers(0, 12, IDS - 1)], np.uint8)


def partition_of(directory, index, documents, dtype):
    """Write documents as the stage `stream` does; returns what `build` takes."""
    tokens = np.array([t for d in documents for t in d["tokens"]], dtype)
    rows = np.zeros(len(documents), ROWS)
    rows["high"], rows["low"] = [d["high"] for d in documents], [d["low"] for d in documents]
    rows["end"] = np.cumsum([len(d["tokens"]) for d in documents])
    rows["bytes"] = [sum(int(PIECE_BYTES[t]) for t in d["tokens"]) for d in documents]
    places = (f"{directory}/{index}.bin", f"{directory}/{index}.rows")
    for place, array in zip(places, (tokens, rows), strict=True):
        storage.put_bytes(place, array.tobytes())
    return (*places, len(tokens), len(documents))


def stream_of(directory, partitions, dtype="uint16"):
    parts = [partition_of(directory, i, documents, dtype) for i, documents in enumerate(partitions)]
    return token_stream.build(parts, dtype, ROWS)


@st.composite
def partition_lists(draw):
    """Partitions of documents: some without documents, some documents without tokens, all ids their own."""
    lengths = draw(st.lists(st.lists(st.integers(0, 12) | st.integers(0, 60), max_size=6), max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return [
        [
            {"high": p, "low": 2**63 + d, "tokens": rng.integers(0, IDS, n).tolist()}
            for d, n in enumerate(documents)
        ]
        for p, documents in enumerate(lengths)
    ]


def slow_pieces(partitions, start, stop, length, prefix_bytes, begin=0):
    """The definition read aloud: walk all tokens one by one, and close a piece where document or sample changes."""
    position, out = 0, []
    for documents in partitions:
        for d in documents:
            spelled, piece = 0, None
            for token in d["tokens"]:
                before = max(spelled - prefix_bytes, 0)
                spelled += int(PIECE_BYTES[token])
                after = max(spelled - prefix_bytes, 0)
                sample, offset = divmod(position - begin, length)
                if piece is None or piece["sample"] != sample:
                    id_ = d["high"].to_bytes(8, "big") + d["low"].to_bytes(8, "big")
                    piece = {"sample": sample, "offset": offset, "tokens": 0, "id": id_, "byte_start": before}
                    if start <= position < stop:
                        out.append(piece)
                piece["tokens"] += 1
                piece["byte_end"] = after
                position += 1
    return out


def found_pieces(stream, start, stop, length, prefix_bytes, begin=0):
    batches = list(token_stream.pieces(stream, start, stop, length, PIECE_BYTES, prefix_bytes, begin))
    assert all(b.schema == token_stream.PROVENANCE_SCHEMA for b in batches)
    return [row for b in batches for row in b.to_pylist()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("stream"))


@settings(deadline=None, max_examples=200)
@given(partition_lists(), st.integers(1, 25), st.integers(0, 2), st.data())
def test_pieces_agree_with_a_walk_over_all_tokens(directory, partitions, length, prefix_bytes, more):
    stream = stream_of(directory, partitions)
    tokens = [t for documents in partitions for d in documents for t in d["tokens"]]
    assert stream.n_tokens == len(tokens)
    begin = more.draw(st.just(0) | st.integers(0, len(tokens)))
    samples = (len(tokens) - begin) // length
    first = more.draw(st.integers(0, samples))
    last = more.draw(st.integers(first, samples))
    start, stop = begin + first * length, begin + last * length
    assert stream.tokens(start, stop).tolist() == tokens[start:stop]
    found = found_pieces(stream, start, stop, length, prefix_bytes, begin)
    assert found == slow_pieces(partitions, start, stop, length, prefix_bytes, begin)
    assert found == found_pieces(stream.narrowed(start, stop), start, stop, length, prefix_bytes, begin)
    covered = [begin + p["sample"] * length + p["offset"] + i for p in found for i in range(p["tokens"])]
    assert covered == list(range(start, stop)), "a token of the range is in no piece, or in two"


@settings(deadline=None, max_examples=50)
@given(partition_lists(), st.integers(0, 300), st.integers(0, 300))
def test_partitions_of_a_range_are_those_that_hold_a_token_of_it(directory, partitions, start, stop):
    stream = stream_of(directory, partitions)
    held = [range(p.start, p.start + p.n_tokens) for p in stream.partitions]
    wanted = [
        p for p, r in zip(stream.partitions, held, strict=True) if set(r).intersection(range(start, stop))
    ]
    assert list(stream.overlapping(start, stop)) == wanted


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=30))
def test_ranges_that_lie_near_each_other_are_read_at_once(directory, ranges):
    """Gaps of 10 tokens are read over, reads take 64 tokens: each range comes once, whole, in few reads."""
    gaps, sizes = np.array(ranges, np.int64).reshape(-1, 2).T
    stop = np.cumsum(gaps + sizes)
    start = stop - sizes
    documents = [{"high": 0, "low": 0, "tokens": (np.arange(stop[-1] if len(stop) else 1) % IDS).tolist()}]
    stream = stream_of(directory, [documents])
    seen, reads = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_stream, "GAP", 10)
        patch.setattr(token_stream, "BLOCK", 64)
        for a, b, base, tokens in stream.near(start, stop):
            assert base == start[a]
            assert len(tokens) == stop[b - 1] - base <= 64
            assert (start[a + 1 : b] - stop[a : b - 1] <= 10).all()
            assert tokens.tolist() == [t % IDS for t in range(base, base + len(tokens))]
            seen += range(a, b)
            reads.append((base, base + len(tokens)))
    assert seen == list(range(len(ranges)))
    for (first, last), (following, _) in itertools.pairwise(reads):
        end = stop[np.searchsorted(start, following)]
        assert following - last > 10 or end - first > 64, "two reads that could be one"


@settings(deadline=None)
@given(partition_lists(), st.integers(1, 25), st.integers(0, 2), st.integers(1, 4))
def test_shards_together_tell_what_the_whole_tells(directory, partitions, length, prefix_bytes, rows):
    stream = stream_of(directory, partitions)
    samples = stream.n_tokens // length
    whole = found_pieces(stream, 0, samples * length, length, prefix_bytes)
    shards = []
    for a in range(0, samples, rows):
        b = min(a + rows, samples)
        shards += found_pieces(stream, a * length, b * length, length, prefix_bytes)
    assert shards == whole


@settings(deadline=None)
@given(partition_lists(), st.integers(1, 25), st.data())
def test_without_piece_bytes_only_the_spans_are_unknown(directory, partitions, length, more):
    stream = stream_of(directory, partitions)
    samples = stream.n_tokens // length
    start, stop = length * more.draw(st.integers(0, samples)), length * samples
    blind = [r for b in token_stream.pieces(stream, start, stop, length, None, 1) for r in b.to_pylist()]
    unknown = {"byte_start": None, "byte_end": None}
    assert blind == [row | unknown for row in slow_pieces(partitions, start, stop, length, 1)]


@settings(deadline=None)
@given(partition_lists(), st.integers(0, 2))
def test_bytes_of_a_document_add_up(directory, partitions, prefix_bytes):
    stream = stream_of(directory, partitions)
    by_document = {}
    for piece in found_pieces(stream, 0, stream.n_tokens, 1, prefix_bytes):  # a sample a token: every border
        by_document.setdefault(piece["id"], []).append((piece["byte_start"], piece["byte_end"]))
    sizes = {
        d["high"].to_bytes(8, "big") + d["low"].to_bytes(8, "big"): sum(
            int(PIECE_BYTES[t]) for t in d["tokens"]
        )
        for documents in partitions
        for d in documents
        if d["tokens"]
    }
    assert by_document.keys() == sizes.keys()
    for id_, ranges in by_document.items():
        assert ranges[0][0] == 0
        assert ranges[-1][1] == max(sizes[id_] - prefix_bytes, 0)
        assert all(a <= b for a, b in ranges)
        assert all(this[1] == following[0] for this, following in itertools.pairwise(ranges))


def test_by_hand(tmp_path):
    """Two documents and an empty one, cut in samples of four; the tokenizer puts a space before each text."""
    five, three = [3, 1, 1, 1, CONTROL], [2, 2, CONTROL]
    documents = [
        {"high": 1, "low": 7, "tokens": five},
        {"high": 1, "low": 8, "tokens": []},
        {"high": 2, "low": 0, "tokens": three},
    ]
    sizes = np.zeros(IDS, np.uint8)
    sizes[[1, 2, 3]] = 2, 5, 4
    stream = stream_of(str(tmp_path), [documents])
    (batch,) = token_stream.pieces(stream, 0, 8, 4, sizes, 1)
    first, second = (bytes(7) + bytes([1]) + bytes(7) + bytes([7])), bytes(7) + bytes([2]) + bytes(8)
    names = ("sample", "offset", "tokens", "id", "byte_start", "byte_end")
    assert [tuple(row[n] for n in names) for row in batch.to_pylist()] == [
        (0, 0, 4, first, 0, 9),
        (1, 0, 1, first, 9, 9),
        (1, 1, 3, second, 0, 9),
    ]


def test_positions_beyond_32_bits(tmp_path):
    """A stream of 6 T tokens, of which two partitions are looked at."""
    documents = [{"high": 1, "low": i, "tokens": [i % IDS] * 10} for i in range(10)]
    far = 6 * 10**12
    near = stream_of(str(tmp_path), [documents, documents])
    parts = tuple(
        token_stream.Partition(p.tokens, p.rows, p.start + far, p.n_tokens, p.n_documents)
        for p in near.partitions
    )
    stream = token_stream.TokenStream(parts, near.dtype, near.row_dtype)
    shifted = [r | {"sample": r["sample"] + far // 8} for r in found_pieces(near, 8, 192, 8, 1)]
    assert found_pieces(stream, far + 8, far + 192, 8, 1) == shifted
    assert stream.tokens(far + 5, far + 150).tolist() == near.tokens(5, 150).tolist()


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_tokens_keep_their_type(tmp_path, dtype):
    largest = np.iinfo(dtype).max
    storage.put_bytes(str(tmp_path / "a.bin"), np.array([1, largest, 2], dtype).tobytes())
    stream = token_stream.build([(str(tmp_path / "a.bin"), "", 3, 0)], dtype, ROWS)
    found = stream.tokens(1, 3)
    assert found.dtype == dtype
    assert found.tolist() == [largest, 2]


def test_a_cut_partition_is_an_error(tmp_path):
    stream = stream_of(str(tmp_path), [[{"high": 1, "low": 1, "tokens": [1] * 20}]])
    with open(stream.partitions[0].tokens, "r+b") as file:
        file.truncate(39)
    assert len(stream.tokens(0, 19)) == 19
    with pytest.raises(OSError, match="bytes wanted"):
        stream.tokens(0, 20)
