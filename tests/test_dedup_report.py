"""What `winnow stats` says of dedup."""

from __future__ import annotations

import io

from rich.console import Console
from winnow.pipelines.dedup_report import matrix, print_dedup, step_lines

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
    assert "minhash buckets by number of documents: 2-3: 70, 4-7: 2; the largest has 6" in said
    assert "minhash clusters by number of documents: 2-3: 40, 16-31: 1; the largest has 17" in said
    assert "minhash: 3 documents of very large clusters stay" in said
    assert "gsm8k: 2 of 1,319 items (4 too short to look for) found, in 5 documents" in said


def test_steps_that_compare_vectors_tell_of_clusters_and_other_cuts():
    assert list(step_lines(STEPS[3])) == [
        "semantic clusters by number of documents: 1: 5, 32-63: 20; the largest has 60",
        "semantic: 25 of 28 clusters have documents; the cut is at eps 0.298",
        "semantic would keep, at least, 80% at eps 0.298, 50% at eps 0.45",
        "semantic cluster 7: 60 documents, 31 go, mean cosine to the centroid 0.707: reef, \\x1bcoral",
        "semantic cluster 2: 32 documents, 0 go, mean cosine to the centroid 0.500: (no word tells it from others)",
    ]
    assert list(step_lines(STEPS[4])) == ["prototypes: 0 of 0 clusters have documents"]
    assert list(step_lines(STEPS[5]))[1:] == [
        "semantic: 3 of 3 clusters have documents; the cut is at eps 0.1"
    ]


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
