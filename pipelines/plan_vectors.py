"""What would vectors cost, and those who compare them?

The encoder itself is not needed: where its files are not on this machine, it is taken for one of MiniLM's size.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from winnow.filters.embedding_settings import Embedding
from winnow.filters.encoder_files import EncoderError, EncoderFiles, find
from winnow.filters.encoder_files import read as read_encoder
from winnow.pipelines.dedup_settings import WITH_VECTORS
from winnow.pipelines.embedding_cost import (
    MINILM,
    ClusteringCost,
    clustering_cost,
    documents_estimate,
    embedding_cost,
    show_hours,
)
from winnow.pipelines.encoders import NEEDED, needed_by, wanted
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.planning import Plan
from winnow.pipelines.recipe import Recipe

DEFAULT_MODEL = Embedding.model_fields["model"].default
HEADS = "sklearn"
"""The package that trains classifiers on vectors."""


def check(recipe: Recipe) -> None:
    """Raises RecipeError where a package or the directory of an encoder is not there; loads neither."""
    for name, place in wanted(recipe).items():
        for package in NEEDED:
            _check_package(recipe, place, package)
        settings = recipe.embedding(name)
        if settings.model.startswith(("/", ".", "~")):
            try:
                if not Path(settings.model).expanduser().is_dir():
                    find(settings.model, settings.revision)
            except EncoderError as error:
                raise recipe.located(("embeddings", name, "model"), str(error)) from error
    for name in recipe.embedding_classifiers:
        _check_package(recipe, ("embedding_classifiers", name), HEADS)


def _check_package(recipe: Recipe, place: tuple[str, ...], package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise recipe.located(
            place, f"this needs the package {package}, which is not here: pip install 'winnow[embed]'"
        )


def documents_of(plan: Plan, embedding: str) -> int:
    """Documents that vectors are made of, by estimate: those of the listed sources, and of classifiers' examples."""
    sources = [s for s in plan.sources if s.unknown is None and embedding in needed_by(plan.recipe, s.name)]
    return sum(documents_estimate(s.text_estimate) for s in sources) + _examples(plan, embedding)


def embedding_facts(plan: Plan) -> list[dict[str, Any]]:
    """Per embedding that is needed: of what and for what, how many vectors, their bytes, and what they take.

    Estimates are None where nothing is listed that it makes vectors of.
    """
    found = []
    for name in wanted(plan.recipe):
        settings = plan.recipe.embedding(name)
        encoder = _encoder(settings.model, settings.revision)
        sources = [s for s in plan.sources if name in needed_by(plan.recipe, s.name)]
        documents = documents_of(plan, name)
        max_tokens = min(settings.max_tokens, encoder.max_tokens if encoder else settings.max_tokens)
        cost = embedding_cost(documents, encoder or MINILM, max_tokens, settings.dtype)
        estimates = {
            "documents_estimate": documents,
            "tokens_estimate": round(cost.tokens),
            "vector_bytes_estimate": cost.vector_bytes,
            "tokenize_core_seconds_estimate": cost.tokenize_core_seconds,
            "gpu_seconds_estimate": cost.gpu_seconds,
            "core_seconds_estimate": cost.core_seconds,
        }
        found.append(
            {
                "name": name,
                "model": settings.model,
                "device": settings.device,
                "sources": [s.name for s in sources],
                "used_by": _users(plan.recipe, name),
                "shape_is_assumed": encoder is None,
                **(estimates if documents else dict.fromkeys(estimates)),
            }
        )
    return found


def step_facts(recipe: Recipe, settings: Any, cost: ClusteringCost) -> dict[str, Any]:
    """What is said of such a step beside its exchange."""
    return {
        "embedding": settings.embedding,
        "device": recipe.embedding(settings.embedding).device,
        "documents_estimate": cost.documents,
        "clusters_estimate": cost.clusters,
        "gpu_seconds_estimate": cost.gpu_seconds,
        "core_seconds_estimate": cost.core_seconds,
    }


def step_cost(recipe: Recipe, step: str, settings: Any, text: float) -> ClusteringCost:
    """Of a step that clusters the vectors of so many bytes of text."""
    embedding = recipe.embedding(settings.embedding)
    encoder = _encoder(embedding.model, embedding.revision) or MINILM
    return clustering_cost(
        documents_estimate(text),
        encoder.dimensions,
        settings.clusters,
        settings.iterations,
        settings.sample_per_cluster,
        compared=step == "semantic",
    )


@lru_cache(maxsize=8)  # a model's directory is read, and its files are hashed, once for a plan
def _encoder(model: str, revision: str | None) -> EncoderFiles | None:
    """What is known of an encoder without a download; None: nothing."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model == DEFAULT_MODEL:
            return MINILM
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
            return None
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(model, "config.json", revision=revision)
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
    try:
        return read_encoder(folder.absolute())
    except EncoderError:
        return None


def _examples(plan: Plan, embedding: str) -> int:
    """Documents of classifiers' examples that get vectors."""
    documents = 0
    for name, kinds in plan.embedding_examples.items():
        classifier = plan.recipe.embedding_classifiers[name]
        if classifier.embedding == embedding:
            for kind, sources in kinds.items():
                for source, examples in zip(sources, getattr(classifier, kind).values(), strict=True):
                    there = documents_estimate(source.text_estimate)
                    documents += there if examples.sample is None else min(there, examples.sample)
    return documents


def _users(recipe: Recipe, embedding: str) -> list[str]:
    """What goes by its vectors: steps, and classifiers by name."""
    steps = [
        step.name
        for step in recipe.dedup_steps()
        if step.name in WITH_VECTORS and any(g.settings.embedding == embedding for g in step.groups)
    ]
    named = recipe.embedding_classifiers.items()
    return steps + [f"classifier {name}" for name, c in named if c.embedding == embedding]


def embedding_lines(facts: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each embedding."""
    for e in facts:
        line = f"embedding {e['name']} ({e['model']}) for {', '.join(e['used_by'])}"
        if e["documents_estimate"] is None:
            yield f"{line}; how many documents is not known"
            continue
        size = show_bytes(e["vector_bytes_estimate"])
        line += f"; ~ {show_count(e['documents_estimate'])} documents, {size} of vectors; {takes(e)}"
        if e["device"] != "cpu":
            line += f" and ~ {show_hours(e['tokenize_core_seconds_estimate'])} of a core for tokens"
        if e["shape_is_assumed"]:
            line += "; its files are not here: taken for one of MiniLM's size"
        yield line


def takes(facts: dict[str, Any]) -> str:
    """How long a core, or a GPU, has work."""
    core = f"~ {show_hours(facts['core_seconds_estimate'])} of a core"
    gpu = f"~ {show_hours(facts['gpu_seconds_estimate'])} of an H200"
    return {"cpu": core, "gpu": gpu}.get(facts["device"], f"{core}, or {gpu}")
