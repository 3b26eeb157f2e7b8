"""The documentation says what the program does: keys, filters and examples are checked against it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel
from winnow.filters.catalogue import FILTERS
from winnow.pipelines.dedup_settings import STEPS
from winnow.pipelines.recipe import Recipe, Settings, read

ROOT = Path(__file__).resolve().parents[1]
RECIPE_PAGE = (ROOT / "docs" / "recipe.md").read_text()


def keys(model: type[BaseModel]) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        for kind in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(kind, type) and issubclass(kind, Settings) and kind is not model:
                found |= keys(kind)
    return found


def test_every_key_and_filter_is_described() -> None:
    from winnow.pipelines import classifier_settings, recipe

    sections = (recipe.Source, recipe.Read, recipe.Heldout, recipe.SourceDedup, recipe.Dedup)
    sections += (recipe.Classifier, recipe.EmbeddingClassifier, recipe.Quality)
    sections += (classifier_settings.Examples, classifier_settings.ScoredExamples)
    others = (classifier_settings.TrainingOptions, classifier_settings.HeadOptions, recipe.Embedding)
    wanted = keys(Recipe).union(*(keys(s) for s in sections), *(o.model_fields for o in others))
    assert len(wanted) > 40
    assert {k for k in wanted if not re.search(rf"\b{re.escape(k)}\b", RECIPE_PAGE)} == set()


def test_the_readmes_recipe_is_a_recipe() -> None:
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    recipe = read(text, "README.md")
    assert recipe.mixture.tokens == 20_000_000_000
    assert set(recipe.sources) == {"web", "code"}


def test_the_page_of_filters_is_what_the_filters_say() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "docs" / "describe_filters.py"], capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / "docs" / "filters.md").read_text(), (
        "python docs/describe_filters.py > docs/filters.md"
    )
    for name, settings in FILTERS.items():
        part = made.stdout.split(f"## `{name}`\n", 1)[1].split("\n## ", 1)[0]
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*)", part, re.MULTILINE)
        assert {key for key, _, _ in rows} == {f.alias or n for n, f in settings.model_fields.items()}
        assert all(meaning.strip() for _, _, meaning in rows), f"{name} has a setting without a description"


def test_the_page_of_dedup_is_what_the_steps_say() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "docs" / "describe_dedup.py"], capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / "docs" / "dedup_settings.md").read_text(), (
        "python docs/describe_dedup.py > docs/dedup_settings.md"
    )
    page = (ROOT / "docs" / "dedup.md").read_text()
    for name, settings in STEPS.items():
        part = made.stdout.split(f"## `{name}`\n", 1)[1].split("\n## ", 1)[0]
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*)", part, re.MULTILINE)
        assert {key for key, _, _ in rows} >= set(settings.model_fields)
        assert all(meaning.strip() for _, _, meaning in rows), f"{name} has a setting without a description"
        assert f"| `{name}` |" in page


def test_the_example_of_dedup_is_a_recipe() -> None:
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "dedup.md").read_text(), re.DOTALL).group(1)
    recipe = read(f"name: x\ntokenizer: {{name: t}}\n{text}", "dedup.md")
    assert [step.name for step in recipe.dedup_steps()] == ["exact", "lines", "minhash", "decontaminate"]


def test_the_example_of_a_classifier_is_a_recipe() -> None:
    from winnow.pipelines.recipe import load

    recipe = load(str(ROOT / "docs" / "examples" / "quality.yaml"))
    assert set(recipe.classifiers) == {"dclm"}
