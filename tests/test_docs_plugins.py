"""The examples of docs/plugins.md run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from winnow.pipelines import run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "plugins.md").read_text()
SILENT = Progress(stream=None)


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """The working directory of the examples, with their package on the path."""
    (tmp_path / "pages").mkdir()
    calm = (
        "The river rises in the hills and reaches the sea after a hundred miles, past towns and mills. " * 6
    )
    doubt = "Why? Who? When? Where? What? " * 30
    (tmp_path / "pages" / "calm.txt").write_text(calm + "\nWrite to somebody@example.org about it.")
    (tmp_path / "pages" / "plain.txt").write_text(" ".join(f"word{i} of {i * i}" for i in range(200)))
    (tmp_path / "pages" / "doubt.txt").write_text(doubt)
    (tmp_path / "our_filters.py").write_text(examples("python")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("our_filters", None)
    yield tmp_path
    sys.modules.pop("our_filters", None)


def test_a_function_of_a_users_package_filters(pages):
    corpus = run(read(examples("yaml")[0], "r.yaml"), "out", inline=True, progress=SILENT)
    facts = corpus.mixture["sources"][0]
    assert facts["dropped"] == {"function.question_marks.max": 1}
    assert facts["kept_documents"] == 2
    looser = read(examples("yaml")[0], "r.yaml", ["sources.pages.filters.0.function.max=2000"])
    again = run(looser, "out", inline=True, progress=SILENT)
    assert again.redone["documents.pages"] == 0
    assert again.mixture["sources"][0]["kept_documents"] == 3


def test_a_function_that_is_not_there_is_located(pages):
    missing = examples("yaml")[0].replace("our_filters:question_marks", "our_filters:answers")
    with pytest.raises(RecipeError, match=r"^r\.yaml:\d+:\d+: .*answers"):
        run(read(missing, "r.yaml"), "out", inline=True, progress=SILENT)


@pytest.mark.slow
def test_blocks_of_datatrove_filter_and_format(pages):
    pytest.importorskip("datatrove", reason="needs the extra `datatrove`")
    corpus = run(read(examples("yaml")[1], "r.yaml"), "out", inline=True, progress=SILENT)
    facts = corpus.mixture["sources"][0]
    assert sum(facts["lost"].values()) == 2
    (rule,) = facts["details"]
    assert rule == "datatrove.GopherRepetitionFilter.dropped"
    assert sum(facts["details"][rule].values()) == 2
