"""What can be said of places on the hub that nobody asks: which places are there, and what does a plan know of them?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from winnow.pipelines import run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.plan_report import plan_facts, print_plan
from winnow.pipelines.planning import plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.shards import hub_requests
from winnow.shards.inputs import InputError

RECIPE = """
name: hub
seed: 3
tokenizer: {name: mistral-7b-v0.1}
sequence: {length: 64}
sources:
  lines: {read: {format: jsonl, root: "hf://datasets/org/corpus", path: "en/*.jsonl.gz"}, weight: 0.4}
  table: {read: {format: parquet, path: "hf://datasets/org/corpus/table/*.parquet", key: url}, weight: 0.6}
mixture: {tokens: 30K}
"""
PRINTED = ("sources.lines.printed={tokens: 20K}",)


@pytest.mark.parametrize(
    ("location", "repository", "revision", "path"),
    [
        ("hf://datasets/a/b", "a/b", None, ""),
        ("hf://datasets/a/b/", "a/b", None, ""),
        ("hf://datasets/a/b.c@v1.0/d/e f", "a/b.c", "v1.0", "d/e f"),
        ("hf://datasets/a/b@refs/convert/parquet/d", "a/b", "refs/convert/parquet", "d"),
        ("hf://datasets/a/b@refs%2Fpr%2F7", "a/b", "refs/pr/7", ""),
        ("hf://datasets/a/b/x@y", "a/b", None, "x@y"),
    ],
)
def test_locations(location: str, repository: str, revision: str | None, path: str) -> None:
    assert hub_requests.place(location) == hub_requests.Place(repository, revision, path)


@pytest.mark.parametrize(
    "location", ["hf://datasets/a", "hf://a/b", "hf://spaces/a/b", "hf://datasets/a/b@/c"]
)
def test_no_locations(location: str) -> None:
    with pytest.raises(InputError, match="hf://datasets/ORG/NAME"):
        hub_requests.place(location)


def test_a_plan_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    asked = []
    real = hub_requests.silence
    monkeypatch.setattr(hub_requests, "silence", lambda: asked.append(1) or real())
    made = plan(read(RECIPE, "hub.yaml", PRINTED))
    assert len(asked) == 1
    facts = plan_facts(made)
    lines, table = facts["sources"]
    for source in (lines, table):
        assert [source[k] for k in ("files", "stored_bytes", "splits", "text_bytes_estimate")] == [None] * 4
    assert (lines["tokens_estimate"], lines["epochs_estimate"]) == (20_000, pytest.approx(0.6))
    assert (table["tokens_estimate"], table["epochs_estimate"]) == (None, None)
    assert [s["proportion"] for s in facts["sources"]] == pytest.approx([0.4, 0.6])
    assert [s["effective_tokens"] for s in facts["sources"]] == pytest.approx([12_000, 18_000])
    assert facts["budget_tokens"] == 30_000
    assert facts["disk_bytes_estimate"] is None
    assert [(u["name"], u["tokens_said"], u["from"]) for u in facts["unknown"]] == [
        ("lines", 20_000, "printed"),
        ("table", None, None),
    ]
    assert json.loads(json.dumps(facts)) == facts
    print_plan(facts)
    shown = capsys.readouterr().out
    assert (
        "http://127.0.0.1:9 does not answer; so files, bytes and splits are not known of: lines, table"
        in shown
    )
    assert "hf download ORG/NAME --repo-type dataset" in shown
    assert "tokens of lines: published, not measured" in shown
    with pytest.raises(RecipeError, match=r"hub\.yaml:7:\d+: source 'lines': cannot be reached: http://127"):
        run(read(RECIPE, "hub.yaml"), str(tmp_path / "run"), inline=True, progress=Progress(stream=None))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sets", "proportions", "effective"),
    [
        (["mixture.tokens="], [0.4, 0.6], [None, None]),
        (["mixture={weights: tokens}", "sources.lines.weight=3K", "sources.table.weight=9K"], [0.25, 0.75], [3e3, 9e3]),
        (["mixture={weights: epochs}"], [None, None], [None, None]),
        (["mixture={weights: epochs, max_epochs: 1}", "sources.table.tokens=1K"], [8 / 8.6, 0.6 / 8.6], [8e3, 600.0]),
        (["mixture.max_epochs=0.5"], [0.4, 0.6], [12e3, 18e3]),
    ],
)  # fmt: skip
def test_what_follows_without_counts(sets: list[str], proportions: list, effective: list) -> None:
    facts = plan_facts(plan(read(RECIPE, "hub.yaml", [*PRINTED, *sets])))
    assert [s["proportion"] for s in facts["sources"]] == pytest.approx(proportions)
    assert [s["effective_tokens"] for s in facts["sources"]] == pytest.approx(effective)
