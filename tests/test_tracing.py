"""Samples to documents and back, over whole small runs: each way is checked against all provenance there is."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import xxhash
from winnow.pipelines import corpus, open_run, tracing
from winnow.pipelines.finished import NotFinishedError, UnknownError
from winnow.pipelines.pack import SPLITS
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.stream import ROWS
from winnow.pipelines.tracing import MIXED, PARTITIONS, Piece, Tracer
from winnow.shards import mds, storage

NEOX = Path(__file__).resolve().parents[2] / "shared" / "tokenizers" / "gpt-neox-20b"
WORDS = [
    "sea",
    "wind",
    "stone",
    "Öl",
    "light",
    "中文字",
    "metal",
    "garden",
    "ж",
    "\u2603 snow",
    "letter",
    "🧡",
]
LISTED = (3, 40, 41)
"""Documents of `web` that its list names; the second by its key."""
TWIN = 42
"""The document that has the same key."""

WAYS = {
    "streams": "sequence: {length: 64, also: [40]}\nmixture: {}\n",
    "phases": (
        "sequence: {pack: best-fit, curriculum: [{length: 32, share: 0.4}, {length: 96, share: 0.6}]}\nmixture: {}\n"
    ),
    "mixed": "sequence: {length: 64, pack: pad}\nmixture: {output: mixed, epochs: 2.5}\n",
}


@dataclass(frozen=True)
class Made:
    root: Path
    run: corpus.Corpus
    texts: dict[str, str]
    """By id."""
    keys: dict[str, str | None]
    listed: set[str]

    @property
    def tracer(self) -> Tracer:
        return Tracer(open_run(self.run.location))


def write(root: Path, source: str, n: int, seed: int) -> dict[int, tuple[str, int, dict]]:
    """(file, position, row) of documents of 1 to 120 words, by number."""
    rng = np.random.default_rng(seed)
    (root / source).mkdir(parents=True)
    found = {}
    for k in range(2):
        position = 0
        with open(root / source / f"{k}.jsonl", "wb") as file:
            for i in range(k, n, 2):
                words = rng.choice(WORDS, int(rng.integers(1, 120) if i % 4 else rng.integers(1, 6)))
                url = f"https://a.example/ü?{LISTED[1] if i == TWIN else i}"
                row = {"text": f"{source} {i}: {' '.join(words)}\n", "url": url}
                line = json.dumps(row).encode() + b"\n"
                file.write(line)
                found[i] = (f"{k}.jsonl", position, row)
                position += len(line)
    return found


def make(root: Path, way: str, tokenizer: str = "mistral-7b-v0.1") -> Made:
    inputs = {source: write(root, source, n, n) for source, n in (("web", 60), ("books", 12))}
    recipe = f"""
name: tracing
tokenizer: {{name: {tokenizer}, pad_token: {'"<unk>"' if tokenizer.startswith("mistral") else '"<|padding|>"'}}}
sources:
  web:
    read: {{format: jsonl, path: "{root}/web/*.jsonl", key: url}}
    heldout: {{fraction: 0.2}}
    exclude: "{root}/list.txt"
  books:
    read: {{format: jsonl, path: "{root}/books/*.jsonl"}}
shards: {{size_limit: 4KiB{", compression: zstd:1" if "best-fit" in way else ""}}}
limits: {{split_bytes: 20KiB, partition_bytes: 4KiB}}
"""
    texts, keys, of_web = {}, {}, {}
    for source, found in inputs.items():
        for i, (file, position, row) in found.items():
            half = xxhash.xxh3_64_intdigest(f"{source}\0{file}")
            document = f"{half:016x}{position:016x}"
            texts[document], keys[document] = row["text"], row["url"] if source == "web" else None
            if source == "web":
                of_web[i] = document
    by_id, by_key, another = LISTED
    (root / "list.txt").write_text(f"{of_web[by_id]}\n{keys[of_web[by_key]]}\n{of_web[another]}\n")
    run = corpus.run(
        read(recipe + way, "tracing.yaml"), str(root / "run"), inline=True, progress=Progress(stream=None)
    )
    return Made(root, run, texts, keys, {of_web[i] for i in (*LISTED, TWIN)})


@pytest.fixture(scope="module", params=WAYS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp(request.param), WAYS[request.param])


def streams_of(made: Made) -> list[tuple[str, str, str]]:
    """(stream, split, packing) of all that is published."""
    tracer = made.tracer
    is_mixed = made.run.recipe.mixture.output == "mixed"
    found = []
    for way in tracer.packings:
        for source in tracer.run.places:
            found += [(source, split, way.name) for split in SPLITS if not (is_mixed and split == "train")]
        if is_mixed:
            found.append((MIXED, "train", way.name))
    return found


def published(
    tracer: Tracer, stream: str, split: str, packing: str
) -> tuple[list[np.ndarray], list[list[dict]]]:
    """Every sample of a stream in the index's order: its tokens, and the provenance of its pieces."""
    samples = tracer.samples(stream, split, packing)
    index = Path(samples.location, split, "index.json")
    rows, pieces = [], []
    for entry in mds.read_index(index.read_bytes()) if index.exists() else []:
        stored = Path(
            samples.location, split, (entry["zip_data"] or entry["raw_data"])["basename"]
        ).read_bytes()
        raw = mds.raw_shard(stored, entry)
        rows += list(np.array(mds.read_rows(raw, entry, 0, entry["samples"])))
        number = int(entry["raw_data"]["basename"].split(".")[1])
        by_row = defaultdict(list)
        for piece in pq.read_table(
            Path(samples.location, f"provenance/{split}-{number:08d}.parquet")
        ).to_pylist():
            by_row[piece["sample"]].append(piece)
        assert len(by_row) == entry["samples"]
        pieces += [by_row[row] for row in sorted(by_row)]
    return rows, pieces


def in_streams(made: Made) -> dict[str, tuple[str, str, int]]:
    """(source, split, tokens) of every document in a source's stream."""
    found = {}
    for source in made.run.sources.values():
        for split in SPLITS:
            for record in source.shuffled.split(split):
                place = storage.join(source.shuffled.done.location, f"stream-{record.index:08d}.rows")
                rows = np.fromfile(place, ROWS)
                sizes = np.diff(rows["end"].astype(np.int64), prepend=0)
                for row, tokens in zip(rows, sizes.tolist(), strict=True):
                    found[f"{int(row['high']):016x}{int(row['low']):016x}"] = (source.name, split, tokens)
    return found


def test_every_sample_is_traced_to_what_its_provenance_says(made):
    tracer, bytes_of = made.tracer, spelled(made.run)
    total = 0
    for stream, split, packing in streams_of(made):
        rows, pieces = published(tracer, stream, split, packing)
        assert tracer.samples(stream, split, packing).n_samples == len(rows)
        total += len(rows)
        for sample, (row, expected) in enumerate(zip(rows, pieces, strict=True)):
            np.testing.assert_array_equal(tracer.tokens(stream, split, sample, packing), row)
            found = tracer.sample(stream, split, sample, packing)
            assert [(p.offset, p.tokens, p.document, p.byte_start, p.byte_end) for p in found] == [
                (e["offset"], e["tokens"], e["id"].hex(), e["byte_start"], e["byte_end"]) for e in expected
            ]
            check_pieces(made, row, found, bytes_of)
            for piece in found:
                assert piece.sample == sample
                assert piece.key == made.keys[piece.document]
                assert made.texts[piece.document].startswith(f"{piece.source} ")
                line = (made.root / piece.source / piece.path).read_bytes()[piece.position :].split(b"\n")[0]
                assert json.loads(line)["text"] == made.texts[piece.document]
                assert piece.document not in made.listed, "an excluded document is in a sample"
    assert total > 100


def test_documents_to_samples_is_the_inverse(made):
    tracer = made.tracer
    where: dict[tuple[str, str], list[int]] = defaultdict(list)
    in_stream = {}
    for stream, split, packing in streams_of(made):
        for sample, pieces in enumerate(published(tracer, stream, split, packing)[1]):
            for document in {p["id"].hex() for p in pieces}:
                where[packing, document].append(sample)
                in_stream[packing, document] = (stream, split)
    documents = in_streams(made)
    assert set(documents) == set(made.texts)
    dropped = unused = copies = 0
    for document, (source, split, tokens) in documents.items():
        of_phases = 0
        for way in tracer.packings:
            found = tracer.document(document, way.name)
            assert found == tracer.document(document.upper(), way.name)
            assert (found.source, found.split, found.tokens, found.key) == (
                source,
                split,
                tokens,
                made.keys[document],
            )
            assert list(found.samples) == where[way.name, document]
            if found.samples:
                assert (found.stream, found.split) == in_stream[way.name, document]
            assert found.excluded == (document in made.listed)
            if found.excluded:
                assert not found.samples
            dropped += found.samples_dropped
            unused += found.unused_tokens
            of_phases += tokens - found.unused_tokens
            copies += len(set(found.samples)) > 1
        if made.run.recipe.sequence.curriculum and split == "train":
            assert of_phases == tokens, "best-fit: a document is whole in one of the phases"
    assert dropped > 0
    assert copies > 0
    if made.run.recipe.sequence.pack == "concat":
        assert unused > 0


def test_sizes_in_one_file_or_from_the_records_are_the_same(made):
    found = {}
    for source in made.run.sources.values():
        place = Path(source.shuffled.done.location, PARTITIONS)
        place.unlink(missing_ok=True)
        tracer = made.tracer
        without = [tracer._sizes(source.name, split) for split in SPLITS]
        tracing.put_partitions(source.shuffled.done)
        tracer = made.tracer
        for split, sizes in zip(SPLITS, without, strict=True):
            np.testing.assert_array_equal(tracer._sizes(source.name, split), sizes)
        found[source.name] = sum(len(s) for s in without)
    assert max(found.values()) > 3, "several partitions"


def test_a_document_is_found_with_few_reads_where_partitions_are_long(made, monkeypatch):
    monkeypatch.setattr(tracing, "READ_ROWS", 2)
    monkeypatch.setattr(tracing, "isqrt", lambda n: 0)
    tracer = made.tracer
    for document, (source, split, tokens) in in_streams(made).items():
        begin, end = tracer._in_stream(source, split, int(document[:16], 16), int(document[16:], 16))
        assert end - begin == tokens


def test_what_there_is_not(made):
    tracer = made.tracer
    document = sorted(made.texts)[0]
    absent = f"{document[:16]}{7:016x}"
    assert tracer.document(absent).split is None
    for ask, message in (
        (lambda: tracer.document("abc"), "no document id"),
        (lambda: tracer.document("0" * 32), "from no file of this run"),
        (lambda: tracer.document(document, "7"), "there is no packing '7'; the run has"),
        (lambda: tracer.samples("web", "test"), "there is no split 'test'; there are train, val"),
        (lambda: tracer.samples("wob", "val"), "there is no stream 'wob'; the run has web, books"),
        (
            lambda: tracer.sample("web", "val", 10_000),
            r"web val has \d+ samples, 0 to \d+; there is no 10000",
        ),
        (lambda: tracer.sample("books", "val", 0), "books val has 0 samples; there is no 0"),
    ):
        with pytest.raises(UnknownError, match=message):
            ask()
    if made.run.recipe.mixture.output == "mixed":
        with pytest.raises(
            UnknownError, match="all training samples are in the stream 'mixed', those of 'web' too"
        ):
            tracer.samples("web", "train")


def test_a_lost_file_is_said(made):
    tracer = made.tracer
    stream, split, packing = streams_of(made)[-1]
    stream, split = (stream, split) if stream == MIXED else ("web", "train")
    samples = tracer.samples(stream, split, packing)
    place = Path(samples.provenance(samples.locate(0)[0]))
    place.rename(place.with_suffix(".away"))
    with pytest.raises(NotFinishedError, match="is not there; `winnow run` makes it again"):
        tracer.sample(stream, split, 0, packing)
    place.with_suffix(".away").rename(place)


# ---- what samples spell -----------------------------------------------------------------------------------


def spelled(run: corpus.Corpus) -> list[bytes]:
    """The bytes of every token, from the tokenizer's own file; of control tokens none."""
    location = Path(run.tokenizer.location)
    vocabulary = orjson.loads((location / "tokenizer.json").read_bytes())
    control = {t["id"] for t in vocabulary["added_tokens"] if t["special"]}
    pieces = {i: piece for piece, i in vocabulary["model"]["vocab"].items()}
    pieces |= {t["id"]: t["content"] for t in vocabulary["added_tokens"] if t["id"] not in pieces}
    if run.recipe.tokenizer.name.startswith("mistral"):

        def spell(piece: str) -> bytes:
            if len(piece) == 6 and piece.startswith("<0x"):
                return bytes.fromhex(piece[3:5])
            return piece.replace("\u2581", " ").encode()
    else:
        # GPT-2's letters for bytes: those that print are themselves, the others follow from 256 on.
        plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        letters = {chr(b): b for b in plain}
        letters |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)}

        def spell(piece: str) -> bytes:
            return bytes(letters[c] for c in piece) if set(piece) <= set(letters) else piece.encode()

    return [b"" if i in control else spell(pieces[i]) for i in range(max(pieces) + 1)]


def check_pieces(made: Made, ids: np.ndarray, pieces: list[Piece], bytes_of: list[bytes]) -> None:
    """Whether a sample's tokens spell the bytes of documents that its pieces say."""
    prefix = b" " if made.run.recipe.tokenizer.name.startswith("mistral") else b""
    for p in pieces:
        said = b"".join(bytes_of[i] for i in ids[p.offset : p.offset + p.tokens].tolist())
        if p.byte_start == 0:
            said = said.removeprefix(prefix)
        assert said == made.texts[p.document].encode()[p.byte_start : p.byte_end]


def test_samples_spell_the_bytes_they_are_said_to_with_neox(tmp_path):
    if not (NEOX / "tokenizer.json").exists():
        pytest.skip("needs the shared corpora beside the checkout")
    made = make(tmp_path, WAYS["phases"], str(NEOX))
    bytes_of, tracer = spelled(made.run), made.tracer
    for stream, split, packing in streams_of(made):
        for sample in range(0, tracer.samples(stream, split, packing).n_samples, 3):
            ids = tracer.tokens(stream, split, sample, packing)
            check_pieces(made, ids, tracer.sample(stream, split, sample, packing), bytes_of)
