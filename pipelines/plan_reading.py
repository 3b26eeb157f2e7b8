"""Are the libraries here that a recipe's readers need?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from winnow.pipelines.planning import Plan, SourcePlan

Place = tuple[str, ...]


def check(plan: Plan) -> None:
    """Raises RecipeError where text is to be converted by a library that is not installed. Nothing has been started."""
    for place, source in _readers(plan):
        for package in source.read.convert.packages if source.read.convert else ():
            if importlib.util.find_spec(package) is None:
                message = f"this needs the package {package}, which is not here: pip install 'winnow[web]'"
                raise plan.recipe.located((*place, "read"), message)


def _readers(plan: Plan) -> Iterator[tuple[Place, SourcePlan]]:
    """Every source, and the sources of every classifier's examples, with its place in the recipe."""
    for source in plan.sources:
        yield ("sources", source.name), source
    for kind, classifiers in (
        ("classifiers", plan.examples),
        ("embedding_classifiers", plan.embedding_examples),
    ):
        for name, examples in classifiers.items():
            for label, sources in examples.items():
                for source in sources:
                    yield (kind, name, label, source.name.rsplit(".", 1)[-1]), source
