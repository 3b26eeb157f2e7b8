"""The column `loss_mask`: is it beside every token what the template said, whatever the packing, and 0 in padding?

Shards are compared with MDSWriter's, and read by mosaicml-streaming. Runs are over a few conversations and plain texts;
what a document's tokens are, and which of them are trained on, is encoded here anew.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from winnow.pipelines import tokens as tokens_module
from winnow.pipelines.corpus import run
from winnow.pipelines.export import export
from winnow.pipelines.finished import FinishedRun, open_run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.stream import ROWS
from winnow.pipelines.tokens import load_vocabulary, spelling
from winnow.pipelines.tracing import Tracer
from winnow.pipelines.train_corpus import Tokens, flagged_row, spelled_bytes
from winnow.pipelines.verifying import verify
from winnow.shards import loss_mask, mds
from winnow.shards.feed import import_streaming
from winnow.tokenize.chat import Conversation
from winnow.tokenize.encoder import Encoder
from winnow.tokenize.templated import Marks, Spelling, TemplatedEncoder

LENGTH, MOST = 24, 60
RECIPE = """
name: masked
tokenizer: {{name: mistral-7b-v0.1, rename: {{"</s>": "<|im_end|>"}}, add: ["<|pad|>", "<|im_start|>"],
            pad_token: "<|pad|>"}}
sequence: {{{sequence}}}
mixture: {{{mixture}}}
shards: {{columns: [loss_mask], size_limit: 4KiB{shards}}}
limits: {{partition_bytes: 4KiB}}
sources:
  chat:
    read: {{format: jsonl, path: "{root}/chat.jsonl", chat: {{format: chatml, column: messages, max_tokens: 60}}}}
    {chat}
  web: {{read: {{format: jsonl, path: "{root}/web.jsonl"}}, heldout: {{fraction: 0.2}}}}
"""
WORDS = ["the", "tokens", "of", "café", "中文", "stream,", "</s>", "<|im_end|>", "3.14\n", "train’s"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(7)

    def say(most: int) -> str:
        return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(1, most)))

    rows = []
    for _ in range(60):
        roles = ("user", "assistant") * int(rng.integers(1, 4))
        rows.append({"messages": [{"role": role, "content": say(14)} for role in roles]})
    rows.append(
        {"messages": [{"role": "user", "content": say(15) * 40}, {"role": "assistant", "content": "no"}]}
    )
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "web.jsonl").write_text("".join(json.dumps({"text": say(40)}) + "\n" for _ in range(60)))
    return folder


def made(
    root: Path,
    sequence: str,
    mixture: str = "",
    chat: str = "",
    shards: str = "",
    out: str = "run",
) -> FinishedRun:
    """A run; those of one directory share what does not depend on the packing."""
    text = RECIPE.format(root=root, sequence=sequence, mixture=mixture, chat=chat, shards=shards)
    run(read(text, "r.yaml"), str(root / out), inline=True, progress=Progress(stream=None))
    return open_run(str(root / out))


def documents(made: FinishedRun, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, row) of a source's file."""
    lines = (
        (Path(made.recipe.sources[source].read.root or "") / f"{source}.jsonl").read_bytes().splitlines(True)
    )
    half = next(iter(made.file_ranks(source)))
    for offset, line in zip(itertools.accumulate(map(len, lines), initial=0), lines, strict=False):
        yield f"{half:016x}{offset:016x}", json.loads(line)


def expected(made: FinishedRun) -> dict[str, tuple[list[int], list[int]]]:
    """By document, its tokens and its mask."""
    vocabulary = load_vocabulary(made.tokenizer)
    sizes, prefix = spelling(made.tokenizer)
    assert sizes is not None
    chat = made.recipe.sources["chat"].read.chat
    assert chat is not None
    write = Conversation(chat)
    encoder = TemplatedEncoder(
        vocabulary, "tokenizers", append="eos", max_tokens=MOST, spelling=Spelling(sizes, prefix)
    )
    found = {}
    for id_, row in documents(made, "chat"):
        text, meta = write(row)
        marks = Marks(*(meta["winnow_chat"][key] for key in ("control", "trained", "turns")))
        one = encoder.encode(pa.array([text], pa.large_string()), [marks])
        assert one.trained is not None
        found[id_] = (one.ids.tolist(), one.trained.astype(int).tolist())
    plain = Encoder(vocabulary, "tokenizers")
    for id_, row in documents(made, "web"):
        ids, _ = plain.encode(pa.array([row["text"]], pa.large_string()))
        found[id_] = (ids.tolist(), [1] * len(ids))
    return found


def streams(
    made: FinishedRun,
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray, list[dict[str, Any]]]]:
    """(facts, tokens, mask, pieces) of all published streams."""
    for facts in made.manifest["streams"]:
        place = Path(made.location) / "stages" / facts["directory"]
        rows, masks, pieces = [], [], []
        for entry in mds.read_index((place / facts["split"] / "index.json").read_bytes()):
            stored = (
                place / facts["split"] / (entry["zip_data"] or entry["raw_data"])["basename"]
            ).read_bytes()
            assert mds.check_shard(stored, entry, made.mixture["tokenizer"]["max_id"]) == []
            raw = mds.raw_shard(stored, entry)
            rows.append(mds.read_rows(raw, entry, 0, entry["samples"]))
            mask = mds.read_mask(raw, entry, 0, entry["samples"])
            assert mask is not None
            masks.append(mask)
        for file in sorted((place / "provenance").glob(f"{facts['split']}-*.parquet")):
            pieces += pq.read_table(file).to_pylist()
        yield facts, np.concatenate(rows), np.concatenate(masks), pieces


def check(made: FinishedRun, pad_id: int | None) -> dict[str, int]:
    """Every piece of every sample against its document; returns the tokens that are trained on, by stream."""
    right, trained = expected(made), {}
    assert list(verify(made)) == []
    for facts, rows, masks, pieces in streams(made):
        numbers = {n: i for i, n in enumerate(sorted({p["sample"] for p in pieces}))}
        assert len(numbers) == len(rows) == facts["rows"]
        open_ = np.ones(rows.shape, bool)
        for piece in pieces:
            at = numbers[piece["sample"]], slice(piece["offset"], piece["offset"] + piece["tokens"])
            ids, mask = right[piece["id"].hex()]
            given = list(zip(rows[at].tolist(), masks[at].tolist(), strict=True))
            whole = list(zip(ids, mask, strict=True))
            assert any(whole[i : i + len(given)] == given for i in range(len(whole) - len(given) + 1))
            open_[at] = False
        assert not masks[open_].any()
        assert pad_id is not None or not open_.any()
        assert (rows[open_] == pad_id).all()
        trained[f"{facts['name']}/{facts['split']}/{facts['packing']}"] = int(masks.sum())
    return trained


def test_concat_and_a_further_length(root: Path) -> None:
    run_ = made(root, f"length: {LENGTH}, also: [16]")
    trained = check(run_, None)
    assert trained.keys() == {
        f"{s}/{p}" for s in ("chat/train", "web/train", "web/val") for p in (str(LENGTH), "16")
    }
    facts = {source["name"]: source for source in run_.mixture["sources"]}
    right = expected(run_)
    ids = {name: [right[id_] for id_, _ in documents(run_, name)] for name in facts}
    for name, source in facts.items():
        assert source["trained_tokens"] == sum(sum(mask) for _, mask in ids[name])
        assert source["tokens"] == sum(len(tokens) for tokens, _ in ids[name])
    assert facts["chat"]["too_long_chats"] == sum(not tokens for tokens, _ in ids["chat"]) > 0
    assert 0 < facts["chat"]["trained_tokens"] < facts["chat"]["tokens"]
    assert any("conversations give no token" in warning for warning in run_.mixture["warnings"])
    # Which of them are held out goes by the text that was read, not by the one text that all of them have.
    hashes = dict(
        itertools.chain.from_iterable(
            zip(table["id"].to_pylist(), table["text_hash"].to_pylist(), strict=True)
            for table in map(read_arrow, Path(run_.stage("chat", "tokens")).glob("index-*.arrow"))
        )
    )
    chat = run_.recipe.sources["chat"].read.chat
    assert chat is not None
    for id_, row in documents(run_, "chat"):
        if not right[id_][0]:
            whole = xxhash.xxh3_128_digest(Conversation(chat)(row)[0].encode())
            assert hashes[bytes.fromhex(id_)] == int.from_bytes(whole[:8], "big")
    gone = pq.read_table(Path(run_.location) / "dropped" / "chat").to_pylist()
    assert {row["id"].hex() for row in gone if row["filter"] == "max_tokens"} == {
        id_ for id_, _ in documents(run_, "chat") if not right[id_][0]
    }
    assert all(row["text"] for row in gone)
    check_traces(run_, "chat")


def read_arrow(file: Path) -> pa.Table:
    with pa.ipc.open_file(file) as opened:
        return opened.read_all()


def test_best_fit_mixed_with_a_takedown(root: Path) -> None:
    listed = root / "gone.txt"
    listed.write_text(next(documents(made(root, f"length: {LENGTH}"), "chat"))[0] + "\n")
    run_ = made(
        root,
        f"length: {LENGTH}, pack: best-fit",
        "output: mixed",
        f"exclude: {listed}",
        ", compression: zstd",
    )
    trained = check(run_, load_vocabulary(run_.tokenizer).pad_id)
    assert trained.keys() == {f"mixed/train/{LENGTH}", f"web/val/{LENGTH}"}
    assert any(stage["name"] == "takedown-mixed" for stage in run_.manifest["stages"])
    check_traces(run_, "mixed")


def test_pad_with_a_curriculum(root: Path) -> None:
    phases = "curriculum: [{length: 16, share: 50%}, {length: 32, share: 50%}], pack: pad"
    trained = check(made(root, phases), load_vocabulary(open_run(str(root / "run")).tokenizer).pad_id)
    assert {name.rpartition("/")[2] for name in trained} == {"phase-1", "phase-2"}


def check_traces(run_: FinishedRun, stream: str) -> None:
    """Bytes of conversations in samples, against the text and the names of control tokens."""
    tracer = Tracer(run_)
    chat = run_.recipe.sources["chat"].read.chat
    assert chat is not None
    texts = {id_: Conversation(chat)(row)[0].encode() for id_, row in documents(run_, "chat")}
    right, spans = expected(run_), 0
    for sample in range(next(f["rows"] for f in run_.manifest["streams"] if f["name"] == stream))[::3]:
        ids = tracer.tokens(stream, "train", sample)
        for piece in tracer.sample(stream, "train", sample):
            mine = ids[piece.offset : piece.offset + piece.tokens].tolist()
            if piece.source != "chat":
                continue
            spans += 1
            assert piece.byte_start is not None
            assert piece.byte_end is not None
            spelled = texts[piece.document][piece.byte_start : piece.byte_end].decode("utf-8", "ignore")
            whole, mask = right[piece.document]
            if mine == whole:
                assert piece.byte_start == 0
                assert piece.trained == sum(mask)
            shown = run_.decode(np.array(mine)).replace("\N{REPLACEMENT CHARACTER}", "")
            assert "".join(shown.split()) in "".join(f"{spelled}<|im_end|>".split())
    assert spans


def test_an_export_has_plain_ids(root: Path, tmp_path: Path) -> None:
    run_ = made(root, f"length: {LENGTH}")
    export(run_, "parquet", str(tmp_path / "out"))
    right = {id_: ids for id_, (ids, _) in expected(run_).items() if ids}
    table = pa.concat_tables([pq.read_table(f) for f in sorted((tmp_path / "out").rglob("*.parquet"))])
    assert table.schema.field("tokens").type.value_type == pa.uint16()
    assert dict(zip(*table.to_pydict().values(), strict=True)) == right


def test_without_the_column_nothing_is_masked(root: Path) -> None:
    text = RECIPE.format(root=root, sequence="length: 24", mixture="", chat="", shards="")
    plain = read(text.replace("columns: [loss_mask], ", ""), "r.yaml")
    run(plain, str(root / "run"), inline=True, progress=Progress(stream=None))
    made_ = open_run(str(root / "run"))
    right = expected(made_)
    assert "trained_tokens" not in made_.mixture["sources"][0]
    flat = [
        np.fromfile(file, np.uint16) for file in sorted((Path(made_.stage("chat", "tokens"))).glob("*.bin"))
    ]
    assert np.concatenate(flat).tolist() == [t for id_, _ in documents(made_, "chat") for t in right[id_][0]]


# ---- the shards ------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 12), st.sampled_from(["uint16", "uint32"]), st.randoms())
def test_rows_come_back(length: int, n: int, dtype: str, random: Any) -> None:
    layout = mds.Layout(dtype=dtype, length=length, loss_mask=True, hashes=("sha1",))
    rows = np.array([[random.randrange(60_000) for _ in range(length)] for _ in range(n)], dtype)
    mask = np.array([[random.randrange(2) for _ in range(length)] for _ in range(n)], np.uint8)
    blank = mds.blank_shard(n, layout)
    blank.put(slice(None), loss_mask.flagged(rows, mask))
    shard = mds.finish_shard(blank, layout, 0)
    ((_, stored),) = shard.files
    ((_, again),) = mds.write_shard(rows, layout, 0, mask).files
    assert bytes(stored) == bytes(again)
    (entry,) = mds.read_index(mds.index_json([shard.entry]))
    assert mds.check_shard(stored, entry, 60_000) == []
    np.testing.assert_array_equal(mds.read_rows(stored, entry, 1, n), rows[1:])
    np.testing.assert_array_equal(mds.read_mask(stored, entry, 1, n), mask[1:])


def test_shards_are_mdswriters(tmp_path: Path) -> None:
    import_streaming()
    from streaming import MDSWriter, StreamingDataset

    rng = np.random.default_rng(3)
    rows, mask = (
        rng.integers(0, 50_000, (50, 33)).astype(np.uint16),
        rng.integers(0, 2, (50, 33)).astype(np.uint8),
    )
    columns = {"tokens": "ndarray:uint16:33", "loss_mask": "ndarray:uint8:33"}
    settings: dict[str, Any] = {"hashes": ["sha1", "xxh64"], "size_limit": 3000}
    with MDSWriter(out=str(tmp_path / "theirs"), columns=columns, **settings) as writer:
        for tokens, trained in zip(rows, mask, strict=True):
            writer.write({"tokens": tokens, "loss_mask": trained})
    layout = mds.Layout(dtype="uint16", length=33, hashes=("sha1", "xxh64"), size_limit=3000, loss_mask=True)
    step = mds.rows_per_shard(layout)
    entries = []
    for number, first in enumerate(range(0, 50, step)):
        shard = mds.write_shard(rows[first : first + step], layout, number, mask[first : first + step])
        ((name, data),) = shard.files
        assert bytes(data) == (tmp_path / "theirs" / name).read_bytes()
        entries.append(shard.entry)
    assert len(entries) > 1
    assert mds.index_json(entries) == (tmp_path / "theirs" / "index.json").read_bytes()
    dataset = StreamingDataset(local=str(tmp_path / "theirs"), shuffle=False, batch_size=1)
    for i in (0, 17, 49):
        np.testing.assert_array_equal(dataset[i]["loss_mask"], mask[i])
        np.testing.assert_array_equal(
            flagged_row(dataset[i]), rows[i] | np.where(mask[i], 0, 1 << 31).astype(np.uint32)
        )


def test_a_mask_of_other_values_is_found() -> None:
    layout = mds.Layout(dtype="uint16", length=2, loss_mask=True)
    shard = mds.write_shard(np.zeros((1, 2), np.uint16), layout, 0, np.array([[1, 3]], np.uint8))
    ((_, stored),) = shard.files
    (problem,) = mds.check_shard(stored, shard.entry, 0)
    assert "its loss mask has the value 3" in problem


@pytest.mark.parametrize("encodings", [["ndarray:uint8:9", "ndarray:uint16:8"], ["ndarray:uint16:8"] * 2])
def test_an_index_of_other_columns_is_refused(encodings: list[str]) -> None:
    entry = mds.settings(mds.Layout(dtype="uint16", length=8, loss_mask=True))
    with pytest.raises(ValueError, match="column_encodings"):
        mds.layout_of(entry | {"column_encodings": encodings})


# ---- the trainer -----------------------------------------------------------------------------------------


def test_the_loss_leaves_out_prompts_and_padding() -> None:
    tokens = Tokens("", 9, None, 1, 2, "eos", 0)
    ids, mask = np.array([[5, 6, 7, 2, 5, 0]], np.uint16), np.array([[0, 0, 1, 1, 0, 0]], np.uint8)
    rows = loss_mask.flagged(ids, mask)
    assert tokens.predicted(rows).tolist() == [[False, True, True, False, False]]
    assert tokens.predicted(ids).tolist() == [[True, True, True, True, False]]
    assert tokens.count(rows) == tokens.count(ids) == 5
    np.testing.assert_array_equal(tokens.documents(rows), tokens.documents(ids))
    tokens.check(rows)
    sizes = np.array([0, 0, 0, 1, 1, 3, 4, 8, 1, 1])
    # The answer 7, in the middle of a text, and its EOS; of the unmasked row also 6, and 5 behind an EOS with a space.
    assert spelled_bytes(rows, tokens, sizes, 1) == 8
    assert spelled_bytes(ids, tokens, sizes, 1) == 8 + 4 + 3 - 1


def test_a_chats_control_tokens_must_be_the_tokenizers(root: Path) -> None:
    text = RECIPE.format(root=root, sequence="length: 24", mixture="", chat="", shards="")
    recipe = read(text.replace(', "<|im_start|>"]', "]"), "r.yaml")
    with pytest.raises(
        RecipeError, match=r"r.yaml:1\d:.*'<\|im_start\|>' is no control token.*tokenizer.add"
    ):
        run(recipe, str(root / "refused"), inline=True, progress=Progress(stream=None))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("chatml", "vicuna", r"r.yaml:1\d:.*'</s>' is no control token.*read.chat.eos_token.*tokenizer.add"),
        ('pad_token: "<|pad|>"', 'pad_token: "<|im_start|>"', r"r.yaml:4:.*padding token '<\|im_start\|>' is a con"),
        ("max_tokens: 60", "max_tokens: 2",
         r"of 61 conversations not one exchange fits read.chat.max_tokens; take it out, or raise that"),
    ],
)  # fmt: skip
def test_chats_that_cannot_be(root: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    sequence = "length: 24, pack: best-fit"
    text = RECIPE.format(root=root, sequence=sequence, mixture="", chat="weight: 0.5", shards="")
    text = text.replace("heldout: {fraction: 0.2}", "weight: 0.5")
    assert old in text
    recipe = read(text.replace(old, new), "r.yaml")
    with pytest.raises(RecipeError, match=message):
        run(recipe, str(tmp_path / "refused"), inline=True, progress=Progress(stream=None))


# ---- published ways ------------------------------------------------------------------------------------------

NEOX = Path(__file__).parents[2] / "shared" / "tokenizers" / "gpt-neox-20b" / "tokenizer.json"
WAYS = {
    "pints": (
        'mistral-7b-v0.1, append: none, rename: {"</s>": "<|im_end|>"}, add: ["<|pad|>", "<|im_start|>", "</s>"], '
        'pad_token: "<|pad|>"',
        "chatml",
        "pad",
    ),
    "cosmo": ("mistral-7b-v0.1, append: both", "llama-inst", "concat"),
    "dclm-it": (f"{NEOX}, append: eos", "dclm-it", "concat"),
}


@pytest.mark.parametrize("way", WAYS)
def test_published_ways_from_rows_to_shards(way: str, root: Path, tmp_path: Path) -> None:
    """The tokens are those that the library makes of the templated text: no BOS or EOS is there twice."""
    tokenizer, format_, pack = WAYS[way]
    if way == "dclm-it" and not NEOX.is_file():
        pytest.skip("needs the shared corpora beside the checkout")
    rows = [
        {"messages": [{"role": r, "content": f"{r} {i} says é"} for r in ("user", "assistant")]}
        for i in range(9)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"""
name: {way}
tokenizer: {{name: {tokenizer}}}
sequence: {{length: 16, pack: {pack}}}
shards: {{columns: [loss_mask]}}
sources:
  chat:
    read: {{format: jsonl, path: "{tmp_path}/chat.jsonl", chat: {{format: {format_}, column: messages}}}}
"""
    run(read(text, "r.yaml"), str(tmp_path / "run"), inline=True, progress=Progress(stream=None))
    run_ = open_run(str(tmp_path / "run"))
    vocabulary = load_vocabulary(run_.tokenizer)
    library = tokenizers.Tokenizer.from_str(vocabulary.tokenizer_json.decode())
    chat = run_.recipe.sources["chat"].read.chat
    assert chat is not None
    right = sorted(library.encode(Conversation(chat)(row)[0], add_special_tokens=False).ids for row in rows)
    tokens, ends = [
        np.concatenate([np.fromfile(f, dtype) for f in sorted(Path(run_.stage("chat", "stream")).glob(kind))])
        for kind, dtype in (("stream-*.bin", np.uint32), ("stream-*.rows", ROWS))
    ]
    found = np.split(tokens, ends["end"][:-1].astype(int))
    assert sorted(loss_mask.ids_of(part).tolist() for part in found) == right
    for part in found:
        answer = library.decode(loss_mask.ids_of(part)[loss_mask.mask_of(part).astype(bool)].tolist())
        assert answer.strip().startswith("assistant")
        assert answer.strip().endswith("says é")
    assert list(verify(run_)) == []


def test_a_recipe_without_them_has_the_stages_it_had() -> None:
    done: Any = SimpleNamespace(location="place", stage=SimpleNamespace(directory="tokenizer-0"))
    plain = tokens_module.Tokenizing(done, "tokenizers", "eos", {"other": tokens_module.Chats(None)})
    stage = tokens_module.request("web", [], ["filters-0"], plain).stage
    assert stage.settings == {"append": "eos"}
    layout = mds.Layout(dtype="uint16", length=8)
    assert layout.facts.keys() == {"dtype", "length", "hashes", "compression", "size_limit"}
    chats = tokens_module.request("other", [], ["filters-0"], plain).stage
    masked = tokens_module.request("web", [], ["filters-0"], replace(plain, masked=True)).stage
    assert len({stage.directory, chats.directory, masked.directory}) == 3
