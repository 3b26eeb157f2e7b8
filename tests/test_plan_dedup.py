"""What `plan` says of dedup: sizes, and what cannot be done, before any work."""

from __future__ import annotations

import re

import pytest
from winnow.pipelines.located import RecipeError
from winnow.pipelines.plan_dedup import DOCUMENT_BYTES, check, dedup_facts
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
