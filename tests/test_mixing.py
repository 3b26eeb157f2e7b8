"""Is what mixture.json says of a run what its shards hold, in every way of packing and mixing?"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from winnow.pipelines import open_run, run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.mixture_report import mixture_grid
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.records import SchemaError
from winnow.pipelines.verifying import verify
from winnow.shards import mds

SILENT = Progress(stream=None)
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
]
RECIPE = """
name: mixing
seed: 3
tokenizer: {{name: mistral-7b-v0.1, pad_token: <unk>}}
sequence: {sequence}
sources:
  long: {{read: {{format: jsonl, path: "{root}/long.jsonl", key: k}}, heldout: {{fraction: 0.2}}, weight: 0.7}}
  short: {{read: {{format: jsonl, path: "{root}/short.jsonl", key: k}}{short}, weight: 0.3}}
mixture: {mixture}
shards: {{size_limit: 4096}}
"""
WAYS = {
    "streams": ("{length: 32, also: [64]}", "{tokens: 20K}", ""),
    "streams-excluded": ("{length: 32}", "{tokens: 20K}", ', exclude: "{root}/gone.txt"'),
    "curriculum": (
        "{pack: pad, curriculum: [{length: 16, share: 0.25}, {length: 64, share: 0.75}]}",
        "{epochs: 1.5}",
        "",
    ),
    "mixed": ("{length: 32, also: [64]}", "{tokens: 20K, output: mixed}", ""),
    "mixed-best-fit": (
        "{length: 48, pack: best-fit}",
        "{tokens: 30K, output: mixed, group_by: k}",
        ', exclude: "{root}/gone.txt"',
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixing")
    for name, n, words in (("long", 80, 90), ("short", 120, 18)):
        rows = (
            {
                "k": f"{name}-{i}",
                "text": " ".join(WORDS[(i * j + j) % len(WORDS)] for j in range(words + i % 7)),
            }
            for i in range(n)
        )
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "gone.txt").write_text("short-3\nshort-90\nshort-nobody\n")
    return root


def recipe(root: Path, way: str, **changes: str):
    sequence, mixture, short = WAYS[way]
    text = RECIPE.format(root=root, sequence=sequence, mixture=mixture, short=short.format(root=root))
    return read(text, "mixing.yaml", [f"{k.replace('__', '.')}={v}" for k, v in changes.items()])


@pytest.fixture(scope="module", params=list(WAYS))
def made(request: pytest.FixtureRequest, root: Path):
    """(way, location, facts) of a finished run."""
    out = root / f"run-{request.param}"
    made = run(recipe(root, request.param), str(out), inline=True, progress=SILENT)
    assert made.mixture is not None
    return request.param, out, made.mixture


def counted(out: Path, facts: dict) -> dict[str, Counter]:
    """Rows and tokens by source of one published stream, from its shards and provenance."""
    opened = open_run(str(out))
    stage = out / "stages" / facts["directory"]
    entries = mds.read_index((stage / facts["split"] / "index.json").read_bytes())
    rows, tokens = Counter(), Counter()
    for entry in entries:
        number = entry["raw_data"]["basename"].split(".")[1]
        pieces = pq.read_table(stage / f"provenance/{facts['split']}-{int(number):08d}.parquet").to_pylist()
        owner = {p["sample"]: opened.place_of(p["id"].hex())[0] for p in pieces}
        assert len(owner) == entry["samples"]
        rows.update(owner.values())
        for piece in pieces:
            tokens[owner[piece["sample"]]] += piece["tokens"]
    assert len(entries) == facts["shards"]
    return {"rows": rows, "tokens": tokens}


def test_the_shards_hold_what_the_statistics_say(made):
    way, out, facts = made
    opened = open_run(str(out))
    assert list(verify(opened)) == []
    if facts["output"] == "mixed":
        cells = mixture_grid(facts).sections[-1][0]
        assert cells[-1] == str(facts["mixed"][0]["shards"]) != "0", "the shards of the whole"
    main = facts["packings"][0]["name"]
    sources = {s["name"]: s for s in facts["sources"]}
    by_stream: dict[tuple[str, str, str], dict[str, Counter]] = {}
    for stream in opened.manifest["streams"]:
        found = counted(out, stream)
        assert (found["rows"].total(), found["tokens"].total()) == (stream["rows"], stream["tokens"])
        by_stream[stream["name"], stream["split"], stream["packing"]] = found
    for name, source in sources.items():
        if source["val"]["rows"]:
            held = by_stream[name, "val", main]
            assert held["rows"] == {name: source["val"]["rows"]}
            assert held["tokens"] == {name: source["val"]["sample_tokens"]}
        if facts["output"] == "streams":
            own = [by_stream[name, "train", p["name"]] for p in facts["packings"]]
            own = own if way == "curriculum" else own[:1]
            assert sum(o["rows"][name] for o in own) == source["train"]["rows"]
            assert sum(o["tokens"][name] for o in own) == source["train"]["sample_tokens"]
    if facts["output"] == "mixed":
        mixed = by_stream["mixed", "train", main]
        assert mixed["rows"] == {n: s["realised"]["rows"] for n, s in sources.items()}
        assert mixed["rows"].total() == facts["epoch_rows"]
        for name, n in mixed["tokens"].items():
            # What is said of tokens is the mean of a source's samples; padding differs a little from one to another.
            assert n == pytest.approx(sources[name]["realised"]["tokens"], rel=0.02)


def test_the_arithmetic_of_the_table(made):
    _, out, facts = made
    assert sum(s["proportion"] for s in facts["sources"]) == pytest.approx(1)
    for source, weight in zip(facts["sources"], (0.7, 0.3), strict=True):
        train = source["train"]
        assert source["proportion"] == pytest.approx(weight)
        assert source["effective_tokens"] == pytest.approx(weight * facts["budget_tokens"], rel=1e-3)
        there = train["sample_tokens"]
        assert source["epochs"] == pytest.approx(source["effective_tokens"] / there, rel=0.02)
        assert source["realised"]["proportion"] == pytest.approx(weight, abs=0.01)
        split_tokens = train["tokens"] + source["val"]["tokens"]
        assert split_tokens == source["tokens"]
        if source["excluded"] is None:
            kept = train["sample_tokens"] + train["remainder_tokens"]
            assert kept == train["tokens"]
    block = yaml.safe_load((out / "streams.yaml").read_text())["train_loader"]["dataset"]
    assert block["epoch_size"] == facts["epoch_rows"]
    if facts["output"] == "streams":
        assert sum(s["proportion"] for s in block["streams"].values()) == pytest.approx(1)


def test_excluded_documents_are_in_no_shard(made):
    way, out, facts = made
    short = next(s for s in facts["sources"] if s["name"] == "short")
    if "exclude" not in WAYS[way][2]:
        assert short["excluded"] is None
        return
    excluded = short["excluded"]
    assert (excluded["documents"], excluded["not_found"]) == (2, 1)
    assert excluded["not_found_first"] == ["short-nobody"]
    assert any("short-nobody" in warning for warning in facts["warnings"])
    opened = open_run(str(out))
    gone = {
        row["id"].hex()
        for path in (out / "dropped" / "short").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
        if row["stage"] == "exclude"
    }
    assert len(gone) == 2
    name = "mixed" if facts["output"] == "mixed" else "shards.short"
    base = next(s["directory"] for s in opened.manifest["stages"] if s["name"] == name)
    tokens, own, rows = Counter(), Counter(), set()
    for path in (out / "stages" / base / "provenance").glob("train-*.parquet"):
        for piece in pq.read_table(path).to_pylist():
            tokens[piece["sample"]] += piece["tokens"]
            if piece["id"].hex() in gone:
                own[piece["sample"]] += piece["tokens"]
                rows.add(piece["sample"])
    assert rows
    assert excluded["rows"] == len(rows)
    assert excluded["tokens"] == own.total()
    assert excluded["other_tokens"] == sum(tokens[row] for row in rows) - own.total()
    for stream in opened.manifest["streams"]:
        stage = out / "stages" / stream["directory"]
        for path in (stage / "provenance").glob("*.parquet"):
            ids = {i.hex() for i in pq.read_table(path, columns=["id"]).column("id").to_pylist()}
            assert not ids & gone


def test_a_second_run_does_nothing(made, root):
    way, out, facts = made
    again = run(recipe(root, way), str(out), inline=True, progress=SILENT)
    assert not any(again.redone.values())
    assert again.mixture == facts


def test_partitions_and_splits_do_not_show(made, root, tmp_path):
    """Smaller pieces of work, the same shards."""
    way, out, facts = made
    other = run(
        recipe(root, way, limits__partition_bytes="4KiB"),
        str(tmp_path / "other"),
        inline=True,
        progress=SILENT,
    )

    def shards(where: Path) -> dict[tuple, bytes]:
        return {
            (s["name"], s["packing"], s["split"], path.name): path.read_bytes()
            for s in open_run(str(where)).manifest["streams"]
            for path in (where / "stages" / s["directory"] / s["split"]).iterdir()
        }

    assert shards(tmp_path / "other") == shards(out)
    assert other.mixture == facts


def test_another_list_rewrites_only_what_it_touches(root, tmp_path):
    out = tmp_path / "run"
    first = run(recipe(root, "streams"), str(out), inline=True, progress=SILENT)
    second = run(recipe(root, "streams-excluded"), str(out), inline=True, progress=SILENT)
    done = {name for name, n in second.redone.items() if n}
    assert done == {
        "exclude-list.short", "exclude-found.short", "exclude.short", "takedown.short", "dropped.short"
    } - ({"dropped.short"} - done)  # fmt: skip
    base, taken = first.sources["short"].shards[0].packed, second.sources["short"].shards[0].left
    assert taken is not None
    same = changed = 0
    for entry in taken.entries["train"]:
        file = f"train/{entry['raw_data']['basename']}"
        same += Path(base.done.location, file).samefile(Path(taken.done.location, file))
        changed += not Path(base.done.location, file).samefile(Path(taken.done.location, file))
    assert same
    assert 1 <= changed <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources__long__weight": "0.6"}, "0.1"),
        ({"mixture__max_epochs": "2"}, "more than 2 epochs"),
        (
            {"sequence__length": "30000", "shards__size_limit": "1MB"},
            "no source has the 30,000 tokens of one sample; the largest, .long., has",
        ),
        ({"tokenizer__model_vocab": "100"}, "largest id, 31,999"),
        (
            {"tokenizer__pad_token": "</s>", "sequence__pack": "pad"},
            "padding token is the one that ends documents",
        ),
    ],
)
def test_mixtures_that_cannot_be(root, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(recipe(root, "streams", **changes), str(tmp_path / "run"), inline=True, progress=SILENT)


@pytest.fixture(scope="module")
def taken_down(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without per-shard hashes, from which documents were taken out."""
    out = tmp_path_factory.mktemp("verify") / "run"
    run(recipe(root, "streams-excluded", shards__hashes="[]"), str(out), inline=True, progress=SILENT)
    return out


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "flip":
            data[len(data) // 2] ^= 1
        case "cut":
            del data[len(data) // 2 :]
        case "twice":
            index = json.loads(data)
            index["shards"][1] = index["shards"][0]
            data = bytearray(json.dumps(index, sort_keys=True).encode())
    path.write_bytes(data) if how != "gone" else path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "gone", "twice"])
@pytest.mark.parametrize(
    "pattern",
    ["train/index.json", "train/shard.00001.mds", "provenance/train-00000001.parquet", "provenance/train-rows.bin",
     "records/00000001.json"],
)  # fmt: skip
def test_verify_finds_damage_of_every_file(taken_down, tmp_path, pattern, how):
    if how == "twice" and "index" not in pattern:
        return
    shutil.copytree(taken_down, tmp_path / "run")
    opened = open_run(str(tmp_path / "run"))
    assert list(verify(opened)) == []
    stage = next(
        s["directory"] for s in opened.manifest["streams"] if (s["name"], s["split"]) == ("short", "train")
    )
    assert stage.startswith("takedown")
    file = tmp_path / "run" / "stages" / stage / pattern
    spoil(file, how)
    problems = list(verify(open_run(str(tmp_path / "run"))))
    assert problems
    assert all(p.startswith("short/") for p in problems)


def test_a_run_mends_what_follows_from_records(taken_down, root, tmp_path):
    shutil.copytree(taken_down, tmp_path / "run")
    for name in ("index.json", "train-rows.bin"):
        for file in (tmp_path / "run" / "stages").rglob(name):
            spoil(file, "cut")
    for file in (tmp_path / "run").glob("m*.json"):
        spoil(file, "cut")
    with pytest.raises(SchemaError, match=r"manifest.json is damaged .*`winnow run` writes it again"):
        open_run(str(tmp_path / "run"))
    again = run(
        recipe(root, "streams-excluded", shards__hashes="[]"),
        str(tmp_path / "run"),
        inline=True,
        progress=SILENT,
    )
    assert not any(again.redone.values())
    assert list(verify(open_run(str(tmp_path / "run")))) == []


def test_a_source_that_is_all_excluded(root, tmp_path):
    everything = "".join(f"{name}-{i}\n" for name, n in (("long", 80), ("short", 120)) for i in range(n))
    (tmp_path / "all.txt").write_text(everything)
    excluded = {"sources__short__exclude": str(tmp_path / "all.txt")}
    with pytest.raises(RecipeError, match="'short' has no sample without an excluded document"):
        run(recipe(root, "streams", **excluded), str(tmp_path / "a"), inline=True, progress=SILENT)
    made = run(recipe(root, "mixed", **excluded), str(tmp_path / "b"), inline=True, progress=SILENT)
    short = made.mixture["sources"][1]
    assert (short["realised"]["rows"], short["realised"]["tokens"]) == (0, 0)
    assert short["excluded"]["rows"] >= short["rows_drawn"] > 0
    assert any("no sample of short" in warning for warning in made.mixture["warnings"])
    excluded["sources__long__exclude"] = str(tmp_path / "all.txt")
    with pytest.raises(RecipeError, match="every sample of 32 holds an excluded document"):
        run(recipe(root, "mixed", **excluded), str(tmp_path / "b"), inline=True, progress=SILENT)


def test_lengths_that_a_source_or_no_document_reaches(root, tmp_path):
    """Longer than all of `short`, and than any document."""
    changes = {"sequence__also": "[3000]", "shards__size_limit": "64KB"}
    made = run(recipe(root, "streams", **changes), str(tmp_path / "run"), inline=True, progress=SILENT)
    assert made.mixture is not None
    warnings = made.mixture["warnings"]
    assert "short is not in 3000: it has no sample of 3,000 tokens" in warnings
    assert any(
        w.startswith("no document reaches the 3,000 tokens of a sample: the longest, of long, has ")
        for w in warnings
    )
