"""The recipes that ship: do they say what was published, and do they run?"""

from __future__ import annotations

import copy
import importlib
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from winnow.pipelines import plan, plan_dedup, plan_report, run
from winnow.pipelines.planned_mixture import printed_findings
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import load, read, shipped
from winnow.tokenize.chat import Conversation

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted(set(shipped()) - {"quickstart"})
NUMBER = re.compile(r"\b(weight|printed|epochs|tokens|share|keep_fraction|min_score): *[\d{]")
each_recipe = pytest.mark.parametrize("name", PUBLISHED)

MPT_7B = """\
mc4-en                   417.99B  0.33   330B  0.14
c4-semdedup              100.42B  0.299  299B  2.98
redpajama-cc             878.45B  0.10   100B  0.11
stack-code               463.78B  0.10   100B  0.22
redpajama-wiki             4.87B  0.04    40B  8.21
stack-markdown           107.07B  0.035   35B  0.33
s2orc                     48.85B  0.033   33B  0.68
books                     26.02B  0.03    30B  1.15
redpajama-arxiv           28.10B  0.019   19B  0.68
redpajama-stackexchange   20.54B  0.014   14B  0.68
"""
"""The table of MPT-7B's model card: tokens in the source, proportion, effective tokens, epochs."""

UNFIT = {
    "mpt-7b": {"epochs of mc4-en"},
    "pints-1.5": {"tokens", "batch_tokens"},
    "cosmo-1b": {"steps"},
    "dclm-1b": {"tokens"},
    "dclm-1b-it": set(),
    "phi-1.5": {"source_tokens"},
}
"""Printed numbers that contradict others: that these are found, and no more."""


@each_recipe
def test_it_is_a_recipe_of_its_own_name(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    weights = [source.weight for source in recipe.sources.values()]
    if recipe.mixture.weights == "proportions":
        assert sum(weights) == pytest.approx(1, abs=1e-9)
    if recipe.mixture.groups:
        assert sum(group.weight for group in recipe.mixture.groups.values()) == pytest.approx(1, abs=1e-9)


@each_recipe
def test_it_says_where_numbers_are_from_and_what_is_not_known(name: str) -> None:
    text = shipped()[name].read_text()
    assert re.search(r"#.*H high, M medium, L low", text)
    assert "# not published:" in text
    for paragraph in text.split("\n\n"):
        said = False
        for line in paragraph.splitlines():
            said |= "#" in line
            assert said or not NUMBER.search(line), f"whose number is this? {line}"


@each_recipe
def test_it_has_a_page(name: str) -> None:
    table = (ROOT / "docs" / "recipes.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
    page = ROOT / "docs" / re.search(r"\((recipes/[\w.-]+\.md)\)", row).group(1)
    text = page.read_text()
    assert f"`{name}`" in text
    for heading in ("Reproduced", "Substituted", "Not published", "From your own copy", "What it would cost"):
        assert f"\n## {heading}" in text, f"{page.name} has no part {heading!r}"


def test_mpt_7b_has_the_cards_table() -> None:
    recipe = load("mpt-7b")
    rows = [line.split() for line in MPT_7B.splitlines()]
    assert [row[0] for row in rows] == list(recipe.sources)
    for name, *figures in rows:
        source = recipe.sources[name]
        printed = source.printed
        given = (printed.tokens, printed.proportion, printed.effective_tokens, printed.epochs)
        assert [number(figure) for figure in given] == pytest.approx([number(f) for f in figures])
        assert source.weight == pytest.approx(float(figures[1]))
    assert recipe.mixture.tokens == 10**12
    assert recipe.tokenizer.model_vocab == 50432
    languages = {path.split("/")[1] for path in recipe.sources["stack-code"].read.path}
    assert languages == {
        "c", "c-sharp", "c++", "common-lisp", "f-sharp", "fortran", "go", "haskell", "java", "ocaml", "perl", "python",
        "ruby", "rust", "scala", "scheme", "shell", "tex",
    }  # fmt: skip
    semantic = recipe.sources["c4-semdedup"].dedup.semantic
    assert (semantic.keep_fraction, semantic.clusters, semantic.order) == (0.8, 11000, "hard")


def number(written: object) -> float:
    text = str(written)
    return float(text.removesuffix("B")) * (1e9 if text.endswith("B") else 1)


@pytest.mark.parametrize("name", UNFIT)
def test_contradictions_in_print_are_found(name: str) -> None:
    found = {finding.what for finding in printed_findings(load(name))}
    assert found == UNFIT[name]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub.constants", reason="pip install 'winnow[hub]'")
    pytest.importorskip("s3fs", reason="pip install 'winnow[hub]'")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "none",
               "AWS_SECRET_ACCESS_KEY": "none", "AWS_MAX_ATTEMPTS": "1"}  # fmt: skip
    for variable, value in nowhere.items():
        monkeypatch.setenv(variable, value)


@each_recipe
@pytest.mark.usefixtures("no_network")
def test_it_can_be_planned_where_there_is_no_network(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(load(name))
    plan_dedup.check(made)
    facts = plan_report.plan_facts(made)
    assert [source["name"] for source in facts["sources"]] == list(made.recipe.sources)
    assert not any(source.files for source in made.sources)
    # What a card prints is no size of what is read.
    of_sizes = [step[key] for step in facts["dedup"] for key in step if key.endswith("_estimate")]
    of_sizes += [e[key] for e in facts["embeddings"] for key in e if key.endswith("_estimate")]
    assert {*of_sizes, facts["disk_bytes_estimate"]} == {None}
    plan_report.print_plan(facts)
    shown = capsys.readouterr().out
    assert "~ 0 " not in shown
    assert "of a core" not in shown


@pytest.mark.usefixtures("no_network")
def test_sizes_are_of_what_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": "word " * 2000}] * 40)

    def facts_of(**reads: str) -> dict:
        across = f"across: [{', '.join(reads)}]"
        lines = ["name: p", "tokenizer: {name: mistral-7b-v0.1}", "dedup:", f"  minhash: {{{across}}}",
                 f"  semantic: {{{across}, clusters: 2, keep_fraction: 0.5}}", "sources:"]  # fmt: skip
        for name, settings in reads.items():
            lines += [f"  {name}:", f"    read: {{format: jsonl, {settings}}}"]
        if "away" in reads:
            lines.append("    printed: {tokens: 90B}")
        return plan_report.plan_facts(plan(read("\n".join(lines), "r.yaml")))

    local = {name: f"path: '{tmp_path}/{name}.jsonl'" for name in ("a", "b")}
    alone = facts_of(**local)
    facts = facts_of(**local, away="root: 'hf://datasets/org/none', path: '*.jsonl'")
    for part in ("dedup", "embeddings"):
        for mine, expected in zip(facts[part], alone[part], strict=True):
            assert mine["left_out"] == ["away"]
            sizes = [key for key in expected if key.endswith("_estimate")]
            assert [mine[key] for key in sizes] == [expected[key] for key in sizes]
    assert (facts["disk_bytes_estimate"], facts["sources"][2]["tokens_estimate"]) == (None, 90 * 10**9)
    plan_report.print_plan(facts)
    shown = capsys.readouterr().out
    assert shown.count("; without away, whose size is not known") == 3
    assert "tokens of away: published, not measured: after the publisher's filters and dedup" in shown


def test_dclm_from_warc_goes_through_dclms_steps_in_order() -> None:
    source = load("dclm-1b-from-warc").sources["common-crawl"]
    used = [use.settings for use in source.filters]
    order = ["url", "dclm-urls", "language", "dclm-page", "dclm-repetition", "dclm-lines"]
    assert [settings.name for settings in used] == order
    assert (used[1].quirks, used[2].keep, used[2].min_score) == (True, ("en",), 0.65)
    bloom = source.dedup.bloom
    assert (bloom.ngram, bloom.threshold, bloom.remove, bloom.false_positive_rate, bloom.shards) == (
        13, 0.8, "both", 0.01, 100,
    )  # fmt: skip
    assert [use.keep_fraction for use in source.quality] == [0.1]


@pytest.mark.parametrize(
    "asked", ["Write a dialogue.\n\nHuman: Hi.\n\nAssistant: Hello.", "Who is the Assistant: here?"]
)
def test_a_question_of_nectar_stays_whole(asked: str) -> None:
    answers = [{"answer": "worse", "rank": 2.0}, {"answer": "best", "rank": 1.0}]
    row = {"prompt": f"\n\nHuman: {asked}\n\nAssistant: ", "answers": answers, "turns": 1}
    text, _ = Conversation(load("dclm-1b-it").sources["nectar"].read.chat)(row)
    assert text.endswith(f"\n\n### Instruction:\n{asked}\n\n### Response:best<|endoftext|>")


# ---- what benchmarks/recipes.py holds against them -----------------------------------------------------------


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("recipes")


def cosmo(epochs: float) -> tuple[dict, dict]:
    """(facts, epoch) of a run of cosmo-1b that reads its sources so often, each of 1,000 samples."""
    weights = {name: int(source.weight or 1) for name, source in load("cosmo-1b").sources.items()}
    train = {"rows": 1000, "sample_tokens": 2_048_000}
    sources = [
        {"name": n, "tokens": 2_050_000, "train": train, "epochs": epochs * w} for n, w in weights.items()
    ]
    drawn = {name: round(1000 * epochs * weight) for name, weight in weights.items()}
    rows = sum(drawn.values())
    facts = {"sources": sources, "epoch_rows": rows, "budget_tokens": 2048 * rows, "sequence_length": 2048}
    return facts, {"drawn": drawn, "different": dict.fromkeys(drawn, 1000)}


def short_of_one(facts: dict, epoch: dict) -> None:
    epoch["different"]["wikihow"] -= 1


def moved(facts: dict, epoch: dict) -> None:
    """4 % of a share of 6.7 %: less than 0.5 % of all."""
    epoch["drawn"]["wikihow"] -= 240
    epoch["drawn"]["openstax"] += 240


def shorter(facts: dict, epoch: dict) -> None:
    facts["budget_tokens"] *= 0.99


@pytest.mark.parametrize(
    ("change", "misses"),
    [
        (short_of_one, ["wikihow: of 1000 samples 999 came, 6000 were drawn"]),
        (moved, ["wikihow: 6.400% of the tokens", "openstax: 6.933% of the tokens"]),
        (shorter, ["182,476,800 tokens were planned, not 184,320,000"]),
    ],
)
def test_the_runner_sees_what_misses(runner: ModuleType, change: Callable, misses: list[str]) -> None:
    recipe, made = load("cosmo-1b"), cosmo(6)
    assert runner.judge(recipe, *made) == []
    facts, epoch = copy.deepcopy(made)
    change(facts, epoch)
    found = runner.judge(recipe, facts, epoch)
    assert len(found) == len(misses)
    for one, expected in zip(sorted(found), sorted(misses), strict=True):
        assert one.startswith(expected)


def test_the_runner_takes_passes_from_the_recipe(runner: ModuleType) -> None:
    recipe = load("cosmo-1b")
    found = runner.judge(recipe, *cosmo(5))
    assert sum("tokens were" in one for one in found) == 2
    assert sum("epochs, by its weight" in one for one in found) == len(recipe.sources)
    assert runner.judge(load("cosmo-1b", ["mixture.epochs=5"]), *cosmo(5)) == []


def test_the_runner_wants_every_planted_document(runner: ModuleType, tmp_path: Path) -> None:
    dropped = [{"id": b"1", "filter": "field.lang.keep", "survivor": None},
               {"id": b"2", "filter": "no-answer", "survivor": None}]  # fmt: skip
    write_parquet(tmp_path / "dropped/a/0.parquet", dropped)
    case = runner.Case("r", planted={"a": {"field": 1}}, lost={"a": {"no-answer": 1}})
    marked = {"a": runner.Planted({b"1": "field"}, {b"1": b"1"}), "b": runner.Planted({}, {})}
    assert runner.funnel(tmp_path, case, marked) == []
    unmarked = {"a": runner.Planted({}, {}), "b": runner.Planted({}, {})}
    assert runner.funnel(tmp_path, case, unmarked) == ["a: 0 documents are planted for field, not 1"]
    elsewhere = runner.Case("r", planted={"a": {"field": 1}}, lost={"b": {"no-answer": 1}})
    assert runner.funnel(tmp_path, elsewhere, marked) == ["b: 1 rows planted for no-answer were not lost"]
    two = {**marked, "a": runner.Planted({b"1": "field", b"3": "field"}, {})}
    assert runner.funnel(tmp_path, case, two) == [
        "a: 2 documents are planted for field, not 1",
        "a: 1 planted for field did not go by it",
    ]


# ---- two of them run, on text that every Python has ----------------------------------------------------------

WORDS = sorted(set(re.findall(r"[a-z]{2,}", " ".join(topics.values()).lower())))


def documents(seed: int, n: int) -> Iterator[str]:
    """Six paragraphs of a hundred words each, none of them frequent."""
    draw = random.Random(seed)
    for _ in range(n):
        yield "\n\n".join(" ".join(draw.choices(WORDS, k=100)) for _ in range(6))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def run_small(name: str, hub: Path, out: Path, *overrides: str) -> dict:
    recipe = load(
        name,
        [f"mirrors={{'hf://datasets': '{hub}'}}", "tokenizer.name=mistral-7b-v0.1", "tokenizer.model_vocab=null",
         "mixture.tokens=1M", *overrides],
    )  # fmt: skip
    return run(recipe, str(out), inline=True, progress=Progress(stream=None)).mixture


def test_mpt_7b_runs_from_rows_to_samples_of_the_cards_shares(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    pages = [{"text": text, "url": f"https://example.org/{n}"} for n, text in enumerate(documents(1, 160))]
    short = {"text": " ".join(WORDS[:150]), "url": "https://example.org/short"}
    c4 = hub / "allenai/c4"
    write_jsonl(c4 / "multilingual/c4-en.0.json", [*pages[:80], short])
    write_jsonl(c4 / "multilingual/c4-de.0.json", [{"text": "Wird nicht gelesen."}])
    write_jsonl(c4 / "en/c4-train.0.json", pages[80:])
    red = hub / "togethercomputer/RedPajama-Data-1T"
    meta = {"url": "https://example.org", "language": "en", "arxiv_id": "2208.1"}
    for n, part in enumerate(("common_crawl/2019-30/a.jsonl", "arxiv/a.jsonl", "stackexchange/a.jsonl")):
        write_jsonl(red / part, [{"text": text, "meta": meta} for text in documents(10 + n, 30)])
    articles = [
        {"text": t, "meta": json.dumps(meta) if n % 2 else meta} for n, t in enumerate(documents(2, 20))
    ]
    write_jsonl(
        red / "wikipedia/wiki.jsonl", [*articles, {"text": "Deutsch", "meta": {**meta, "language": "de"}}]
    )
    for n, language in enumerate(("python", "c++", "php", "markdown")):
        rows = [
            {"hexsha": f"{n}-{i}", "content": t, "lang": language}
            for i, t in enumerate(documents(20 + n, 20))
        ]
        write_parquet(hub / f"bigcode/the-stack-dedup/data/{language}/data-0.parquet", rows)
    papers = [
        {"id": str(n), "source": "s2orc/train", "text": text} for n, text in enumerate(documents(3, 30))
    ]
    write_jsonl(hub / "allenai/peS2o/data/v2/train-0.json", [*papers, papers[0] | {"source": "s2ag/train"}])
    write_parquet(
        hub / "emozilla/pg19/data/train-0.parquet", [{"text": t, "url": "u"} for t in documents(4, 20)]
    )

    plain = {"mc4-en": "multilingual/c4-en.*.json", "c4-semdedup": "en/c4-train.*.json",
             "redpajama-cc": "common_crawl/**/*.jsonl", "s2orc": "data/v2/train-*.json"}  # fmt: skip
    uncompressed = [f"sources.{source}.read.path={path}" for source, path in plain.items()]
    facts = run_small(
        "mpt-7b", hub, tmp_path / "run", *uncompressed, "sources.c4-semdedup.dedup.semantic=null"
    )

    by_name = {source["name"]: source for source in facts["sources"]}
    for line in MPT_7B.splitlines():
        name, _, proportion, *_ = line.split()
        realised = by_name[name]["realised"]["rows"] / facts["epoch_rows"]
        assert realised == pytest.approx(float(proportion), abs=0.005)
    assert by_name["mc4-en"]["dropped"] == {"mpt-mc4.min_words": 1}
    assert by_name["redpajama-wiki"]["dropped"] == {"field.meta.language.keep": 1}
    assert by_name["s2orc"]["dropped"] == {"field.source.keep": 1}
    assert by_name["stack-code"]["rows"] == 40, "PHP is not among the languages"
    assert by_name["redpajama-wiki"]["epochs"] > 1


def test_dclm_1b_runs_from_rows_to_samples_by_size(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    shards = hub / "mlfoundations/dclm-baseline-1.0"
    for n in range(2):
        # The published files have a text here, or nothing.
        rows = [{"text": text, "url": f"u{i}", "metadata": None if i % 2 else {"a": "b"}}
                for i, text in enumerate(documents(30 + n, 60))]  # fmt: skip
        write_jsonl(shards / f"global-shard_0{n + 1}_of_10/local-shard_{n}_of_10/shard_0.jsonl", rows)
    code = [{"id": str(n), "content": text} for n, text in enumerate(documents(40, 20))]
    write_parquet(hub / "bigcode/starcoderdata/python/train-0.parquet", code)
    proofs = [{"text": text, "meta": "{}"} for text in documents(41, 20)]
    write_jsonl(hub / "EleutherAI/proof-pile-2/arxiv/train/0.jsonl", proofs)
    write_jsonl(hub / "EleutherAI/proof-pile-2/arxiv/test/0.jsonl", proofs)

    plain = [
        "sources.dclm-baseline.read.path='**/*.jsonl'",
        "sources.proof-pile-2.read.path='*/train/*.jsonl'",
    ]
    facts = run_small("dclm-1b", hub, tmp_path / "run", *plain)

    whole = sum(source["train"]["sample_tokens"] for source in facts["sources"])
    for source in facts["sources"]:
        share = source["train"]["sample_tokens"] / whole
        assert source["realised"]["rows"] / facts["epoch_rows"] == pytest.approx(share, abs=0.005)
        assert source["epochs"] == pytest.approx(facts["budget_tokens"] / whole, rel=1e-6)
    assert [source["rows"] for source in facts["sources"]] == [120, 20, 20]
