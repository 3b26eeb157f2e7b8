"""What `plan` says of dedup: sizes, and what cannot be done, before any work."""

from __future__ import annotations

import importlib.util
import json
import re
import sys

import pytest
from winnow.pipelines.embedding_cost import DOCUMENT_BYTES, MINILM
from winnow.pipelines.located import RecipeError
from winnow.pipelines.plan_dedup import check, dedup_facts
from winnow.pipelines.plan_report import plan_facts, print_plan
from winnow.pipelines.plan_vectors import embedding_facts, embedding_lines
from winnow.pipelines.planning import plan
from winnow.pipelines.recipe import read


def planned(tmp_path, dedup: str, more: str = "", megabytes: int = 8):
    """A plan over a file of so many (sparse) megabytes, and the recipe's text."""
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.truncate(megabytes * 10**6)
    text = (
        "name: p\ntokenizer: {name: mistral-7b-v0.1}\nlimits: {partition_bytes: 1MiB, task_memory: 1GiB}\nsources:\n"
        f"  a:\n    read: {{format: jsonl, path: '{tmp_path}/a.jsonl'}}\n    dedup: {dedup}\n{more}"
    )
    return plan(read(text, "r.yaml"))


def test_every_step_says_what_it_moves_and_keeps(tmp_path):
    made = planned(
        tmp_path,
        "{exact: true, lines: true, minhash: {bands: 20, rows: 5}, bloom: {shards: 2}, substrings: true}",
    )
    facts = {f["step"]: f for f in dedup_facts(made)}
    documents = 8e6 / DOCUMENT_BYTES
    assert facts["exact"]["exchange_bytes_estimate"] == 48 * documents
    assert facts["minhash"]["exchange_bytes_estimate"] == documents * 20 * 28
    assert facts["minhash"]["kept_bytes_estimate"] == documents * 100 * 4
    assert facts["bloom"]["exchange_bytes_estimate"] == 8e6
    assert (facts["bloom"]["partitions"], facts["bloom"]["rounds"], facts["bloom"]["shards"]) == (8, 3, 2)
    assert facts["substrings"]["partitions"] == 4


def test_a_filter_that_does_not_fit_is_refused_with_the_shards_that_do(tmp_path):
    made = planned(tmp_path, "{bloom: {memory: 900MiB}}", megabytes=10_000)
    with pytest.raises(RecipeError, match=r"^r.yaml:7:20: by estimate, .*`shards: (\d+)` would fit") as error:
        dedup_facts(made)
    shards = re.search(r"`shards: (\d+)`", str(error.value))[1]
    fits = planned(tmp_path, f"{{bloom: {{memory: 900MiB, shards: {shards}}}}}", megabytes=10_000)
    assert dedup_facts(fits)[0]["filter_bytes_estimate"] < 900 << 20
    fewer = planned(tmp_path, f"{{bloom: {{memory: 900MiB, shards: {int(shards) - 2}}}}}", megabytes=10_000)
    with pytest.raises(RecipeError, match="would fit"):
        dedup_facts(fewer)


@pytest.mark.parametrize(
    ("dedup", "more", "message"),
    [
        ("{}", "dedup: {decontaminate: {benchmarks: {b: {path: '/nowhere/*.jsonl', text: q}}}}\n",
         r"r.yaml:8:24: .*benchmark b.*/nowhere"),
        ("{exact: {against: /nowhere/run}}", "", r"r.yaml:7:20: against /nowhere/run: .*no manifest.json"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_before_any_work(tmp_path, dedup, more, message):
    with pytest.raises(RecipeError, match=message):
        check(planned(tmp_path, dedup, more))


D4 = "{semantic: {keep_fraction: 0.8}, prototypes: {keep_fraction: 0.9, clusters: 1K}}"
QUALITY = """\
    quality: [{{classifier: good}}]
embedding_classifiers:
  good:
    head: {head}
    scored:
      rated: {{read: {{format: jsonl, path: '{path}/a.jsonl'}}, score: s, sample: 500}}
    threshold: 3
"""


def test_vectors_and_who_compares_them_say_what_they_take(tmp_path, capsys):
    more = QUALITY.format(head="linear", path=tmp_path)
    made = planned(tmp_path, D4, more, megabytes=4_000)
    steps = {f["step"]: f for f in dedup_facts(made)}
    assert steps["semantic"]["exchange_bytes_estimate"] == 10**6 * (768 + 100)
    assert (steps["semantic"]["clusters_estimate"], steps["prototypes"]["clusters_estimate"]) == (1000, 1000)
    assert steps["prototypes"]["exchange_bytes_estimate"] == 0
    assert steps["prototypes"]["core_seconds_estimate"] < steps["semantic"]["core_seconds_estimate"]
    (vectors,) = embedding_facts(made)
    assert vectors["used_by"] == ["semantic", "prototypes", "classifier good"]
    assert vectors["documents_estimate"] == 10**6 + 500
    assert vectors["vector_bytes_estimate"] == (10**6 + 500) * (768 + 24)
    without = plan_facts(planned(tmp_path, "{}", megabytes=4_000))
    facts = plan_facts(made)
    json.dumps(facts)
    assert without["embeddings"] == []
    assert facts["disk_bytes_estimate"] - without["disk_bytes_estimate"] == vectors["vector_bytes_estimate"]
    print_plan(facts)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "embedding default (sentence-transformers/all-MiniLM-L6-v2) for semantic, prototypes, classifier good; "
        "~ 1.00M documents, 792.4 MB of vectors; ~ 11 h of a core, or ~ 22 s of an H200 and ~ 7 min of a core for "
        "tokens" in said
    )
    assert (
        "semantic dedup: a; exchange ~ 868.0 MB, 1,024 partitions in 10 rounds; ~ 1.00M documents in 1,000 clusters, "
        "~ 2 min of a core, or ~ 1 s of an H200" in said
    )


def of_model(tmp_path, model: str, **settings: str):
    more = "".join(f", {k}: {v}" for k, v in settings.items())
    made = planned(
        tmp_path, "{semantic: {eps: 0.1, embedding: e}}", f"embeddings: {{e: {{model: '{model}'{more}}}}}\n"
    )
    return embedding_facts(made)[0]


def test_an_encoder_that_is_not_here_is_taken_for_minilm_and_that_is_said(tmp_path):
    away = of_model(tmp_path, "nobody/has-this", max_tokens="128", device="cpu")
    assert away["shape_is_assumed"]
    (line,) = embedding_lines([away])
    assert line.endswith("of a core; its files are not here: taken for one of MiniLM's size")
    assert "H200" not in line


def test_an_encoder_that_is_here_is_taken_as_it_is(tmp_path, minilm):
    here = of_model(tmp_path, minilm, device="gpu")
    assert not here["shape_is_assumed"]
    default = of_model(tmp_path, "sentence-transformers/all-MiniLM-L6-v2", device="gpu")
    same = ("tokens_estimate", "vector_bytes_estimate", "gpu_seconds_estimate", "shape_is_assumed")
    assert {k: here[k] for k in same} == {k: default[k] for k in same}
    assert next(embedding_lines([here])).endswith("~ 1 s of an H200 and ~ 1 s of a core for tokens")


def test_minilms_shape_is_its_own(minilm):
    from winnow.filters.encoder_files import find

    found = find(minilm)
    for part in ("max_tokens", "dimensions", "parameters", "layers", "width"):
        assert getattr(found, part) == getattr(MINILM, part)


def test_packages_and_directories_that_vectors_need(tmp_path, monkeypatch):
    missing = planned(
        tmp_path,
        "{semantic: {eps: 0.1, embedding: e}}",
        "embeddings: {e: {model: /nowhere/encoder}}\n",
    )
    with pytest.raises(RecipeError, match=r"r.yaml:8:25: no encoder at /nowhere/encoder"):
        check(missing)
    real = importlib.util.find_spec
    for package, head in (("torch", "linear"), ("sklearn", "logistic")):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, gone=package: None if name == gone else real(name)
        )
        made = planned(tmp_path, D4, QUALITY.format(head=head, path=tmp_path))
        with pytest.raises(RecipeError, match=rf"needs the package {package}.*pip install 'winnow\[embed\]'"):
            check(made)
        check(planned(tmp_path, "{exact: true}"))


def test_a_plan_loads_no_torch(tmp_path):
    import subprocess

    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: p\ntokenizer: {name: mistral-7b-v0.1}\nsources:\n"
        f"  a: {{read: {{format: jsonl, path: '{tmp_path}/a.jsonl'}}, dedup: {D4}}}\n"
    )
    program = (
        "import sys; from winnow.pipelines import load, plan; from winnow.pipelines import plan_dedup, plan_report\n"
        f"made = plan(load({str(recipe)!r})); plan_dedup.check(made); plan_report.plan_facts(made)\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_benchmarks_may_be_named_relative_to_where_the_run_is_started(tmp_path, monkeypatch):
    items = tmp_path / "items"
    items.mkdir()
    (items / "i.jsonl").write_text(json.dumps({"q": "which of these"}) + "\n")
    monkeypatch.chdir(tmp_path)
    more = "dedup: {decontaminate: {benchmarks: {x: {path: 'items/*.jsonl', text: q}}}}\n"
    made = planned(tmp_path, "{exact: true}", more)
    check(made)
    assert made.recipe.dedup.decontaminate.benchmarks["x"].path == (f"{tmp_path}/items/*.jsonl",)
