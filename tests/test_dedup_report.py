"""What `winnow stats` says of dedup."""

from __future__ import annotations

import io

from rich.console import Console
from winnow.pipelines import retention as retention_of
from winnow.pipelines.dedup_report import FINEST_EPS, matrix, named, print_dedup, shown_clusters, step_lines

STEPS = [
    {"step": "exact", "group": ["a", "b"], "compared": 1000, "survivors": 900, "dropped": 100,
     "pairs": {"b of a": 60, "a of a": 30, "b of old/a": 10}},
    {"step": "minhash", "group": ["b"], "compared": 900, "survivors": 810, "dropped": 90, "pairs": {"b of b": 90},
     "buckets": {"4": 2, "2": 70}, "largest_bucket": 6, "clusters": {"16": 1, "2": 40}, "largest_cluster": 17,
     "unverified": 3},
    {"step": "decontaminate", "group": ["a", "b"], "compared": 810, "survivors": 808, "dropped": 2, "pairs": {},
     "benchmarks": {"gsm8k": {"items": 1319, "too_short": 4, "items_found": 2, "documents": 5}}},
    {"step": "semantic", "group": ["a"], "compared": 808, "survivors": 646, "dropped": 162, "pairs": {"a of a": 162},
     "documents": 808, "most_clusters": 28, "empty_clusters": 3, "clusters": {"1": 5, "32": 20}, "largest_cluster": 60,
     "eps": 0.298, "retention": {"kept_at_eps": {"0.1": 800, "0.02": 808}, "eps_at_share": {"0.8": 0.298, "0.5": 0.45}},
     "shown_clusters": [
         {"cluster": 7, "documents": 60, "goes": 31, "similarity": 0.7071,
          "words": ["reef", "\x1bcoral"], "typical": []},
         {"cluster": 2, "documents": 32, "goes": 0, "similarity": 0.5, "words": [], "typical": []},
     ]},
    {"step": "prototypes", "group": ["a"], "compared": 0, "survivors": 0, "dropped": 0, "pairs": {},
     "documents": 0, "most_clusters": 0, "empty_clusters": 0, "clusters": {}, "largest_cluster": 0, "eps": None,
     "retention": {"kept_at_eps": {"0.1": 0}, "eps_at_share": {}}, "shown_clusters": []},
    {"step": "semantic", "group": ["b"], "compared": 9, "survivors": 9, "dropped": 0, "pairs": {}, "documents": 9,
     "most_clusters": 3, "empty_clusters": 0, "clusters": {"2": 3}, "largest_cluster": 3, "eps": 0.1, "retention": {},
     "shown_clusters": []},
]  # fmt: skip


def test_every_step_is_told_with_its_numbers():
    console = Console(width=200, record=True, file=io.StringIO())
    print_dedup({"dedup": STEPS}, console)
    said = " ".join(console.export_text().split())
    assert "exact a, b 1,000 100 10.0%" in said
    assert "minhash b 900 90 10.0%" in said
    assert "minhash (b) buckets by number of documents: 2-3: 70, 4-7: 2; the largest has 6" in said
    assert "minhash (b) clusters by number of documents: 2-3: 40, 16-31: 1; the largest has 17" in said
    assert "minhash (b): 3 documents of very large clusters stay" in said
    assert "gsm8k: 2 of 1,319 items (4 too short to look for) found, in 5 documents" in said


def test_steps_that_compare_vectors_tell_of_clusters_and_other_cuts():
    assert list(step_lines(STEPS[3])) == [
        "semantic (a) clusters by number of documents: 1: 5, 32-63: 20; the largest has 60",
        "semantic (a): 25 of 28 clusters have documents; the cut is at eps 0.298",
        "semantic (a) would keep at least 80% at eps 0.298, 50% at eps 0.45",
        "semantic (a) cluster 7: 60 documents, 31 go, mean cosine to the centroid 0.707: reef, \\x1bcoral",
        "semantic (a) cluster 2: 32 documents, 0 go, mean cosine to the centroid 0.500: (no word tells it from others)",
    ]
    assert list(step_lines(STEPS[4])) == ["prototypes (a): 0 of 0 clusters have documents"]
    assert list(step_lines(STEPS[5]))[1:] == [
        "semantic (b): 3 of 3 clusters have documents; the cut is at eps 0.1"
    ]


def test_where_documents_are_the_same_no_eps_leaves_more():
    retention = {
        "eps_at_share": {"0.5": 6.1e-05, "0.6": 0.0, "0.7": 0.0, "0.75": 0.0, "0.8": 0.0, "0.95": 0.0}
    }
    step = STEPS[3] | {"retention": retention, "clusters": {}, "shown_clusters": []}
    assert list(step_lines(step))[1:] == [
        "semantic (a) would keep at least 50% at eps 6.1e-05",
        "semantic (a) would keep less than 70% at any eps from 0.0001 on",
    ]
    assert 2 / retention_of.BINS < FINEST_EPS
    step["retention"] = {"eps_at_share": dict.fromkeys(retention["eps_at_share"], 0.0)}
    assert list(step_lines(step))[1:] == ["semantic (a) would keep less than 50% at any eps from 0.0001 on"]


def test_prototypes_have_a_cosine_and_no_eps():
    step = STEPS[3] | {"step": "prototypes", "clusters": {}, "shown_clusters": []}
    assert list(step_lines(step)) == [
        "prototypes (a): 25 of 28 clusters have documents; documents with a cosine to their centroid above 0.7020 go"
    ]


def test_the_largest_clusters_are_shown_and_then_those_that_lose_the_highest_share():
    described = [
        {"cluster": number, "documents": documents, "goes": goes}
        for number, documents, goes in
        [(0, 90, 10), (1, 80, 0), (2, 70, 69), (3, 60, 6), (4, 50, 0), (5, 40, 20), (6, 10, 5), (7, 9, 9), (8, 30, 15),
         (9, 8, 1)]
    ]  # fmt: skip
    assert [c["cluster"] for c in shown_clusters(described)] == [0, 1, 2, 7, 5, 8, 6, 9]
    assert [c["cluster"] for c in shown_clusters(described[:2])] == [0, 1]
    assert shown_clusters([]) == []


def test_of_a_large_group_some_sources_are_named():
    assert named("semantic", ["a", "b"]) == "semantic (a, b)"
    assert named("semantic", list("abcd")) == "semantic (a, b, c, d)"
    assert named("semantic", list("abcdef")) == "semantic (a, b, c, d and 2 more)"


def test_a_matrix_has_a_column_for_every_source_of_survivors():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(matrix(STEPS[0]))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["source", "a", "b", "old/a"] in rows
    assert ["a", "30", "0", "0"] in rows
    assert ["b", "60", "0", "10"] in rows


def test_a_run_without_dedup_says_nothing():
    console = Console(width=200, record=True, file=io.StringIO())
    print_dedup({"dedup": []}, console)
    assert console.export_text() == ""
    assert list(step_lines(STEPS[0])) == []
