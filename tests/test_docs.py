"""The documentation says what the program does: keys, filters and examples are checked against it."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel
from winnow.filters.catalogue import FILTERS
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
    from winnow.pipelines import recipe

    sections = (recipe.Source, recipe.Read, recipe.Heldout, recipe.SourceDedup, recipe.ExactAcross)
    wanted = keys(Recipe).union(*(keys(s) for s in sections))
    for settings in FILTERS.values():
        wanted |= set(settings.model_fields) | {settings.name}
    assert len(wanted) > 40
    assert {k for k in wanted if not re.search(rf"\b{re.escape(k)}\b", RECIPE_PAGE)} == set()


def test_the_readmes_recipe_is_a_recipe() -> None:
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    recipe = read(text, "README.md")
    assert recipe.mixture.tokens == 20_000_000_000
    assert set(recipe.sources) == {"web", "code"}


def test_the_documented_defaults_of_gopher_are_the_programs() -> None:
    settings = FILTERS["gopher-quality"]()
    line = next(x for x in RECIPE_PAGE.splitlines() if x.startswith("| `gopher-quality`"))
    for name, value in settings.model_dump().items():
        assert re.search(rf"`{name}`[^0-9]*{value:g}\b", line), name
