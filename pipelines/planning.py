"""What would a run read, do and need? Starts no work.

`plan` lists every source's files and cuts them into splits; the run goes by the same plan. Estimates of disk are
rules of thumb (stated beside them), for the decision whether to start.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from winnow.filters.classifier_training import TrainingOptions
from winnow.pipelines.classifier_settings import EXAMPLES, Classifier, EmbeddingClassifier
from winnow.pipelines.located import RecipeError
from winnow.pipelines.recipe import Recipe, Source
from winnow.pipelines.sampling import Choice, expected
from winnow.shards import exchange, storage
from winnow.shards.inputs import (
    InputError,
    InputFile,
    Split,
    cut,
    default_root,
    list_source,
    relative_pattern,
)
from winnow.shards.readers import ReadSettings

EXPANSION = {".gz": 3.5, ".zst": 4.0, ".parquet": 2.2}
"""Bytes of text per stored byte, of web text (ours, from this project's corpora); 1 for plain files."""
BYTES_PER_TOKEN = 4.3
"""English text with the Mistral or NeoX tokenizer (ours, same corpora)."""


WORDS_ESTIMATE = 4_000_000
"""Distinct words of DCLM's 400,000 examples (its published model): what a classifier's training asks memory for."""


def training_memory(options: TrainingOptions) -> int:
    """Bytes fastText holds while it trains: its matrix, and its file beside it."""
    return 8 * options.dim * (options.buckets + WORDS_ESTIMATE)


@dataclass(frozen=True)
class SourcePlan:
    """One source, resolved."""

    name: str
    source: Source
    root: str
    files: list[InputFile]
    splits: list[Split]
    """In order: all, or of a source that is read in part those that are read."""
    read: ReadSettings
    expected: Choice | None = None
    """Of a source with `sample` or `tokens` the splits that are likely to be read."""
    part: tuple[int, ...] | None = None
    """Numbers of the splits that are read; None: all."""

    @property
    def stored_bytes(self) -> int:
        """Of all files."""
        return sum(f.size for f in self.files)

    @property
    def text_estimate(self) -> float:
        """Bytes of text that are likely to be read, by rule of thumb."""
        share = (
            self.expected.bytes / self.expected.of_bytes if self.expected and self.expected.of_bytes else 1.0
        )
        return share * text_estimate(self.files)

    @property
    def token_estimate(self) -> float:
        return self.text_estimate / BYTES_PER_TOKEN


def text_estimate(files: Iterable[InputFile]) -> float:
    """Bytes of text in files, by rule of thumb."""
    total = 0.0
    for file in files:
        suffix = next((s for s in EXPANSION if file.path.endswith(s)), "")
        total += file.size * EXPANSION.get(suffix, 1.0)
    return total


@dataclass(frozen=True)
class Plan:
    """A recipe with its inputs."""

    recipe: Recipe
    sources: list[SourcePlan] = field(default_factory=list)
    examples: dict[str, dict[str, list[SourcePlan]]] = field(default_factory=dict)
    """Of each classifier, its `positive` and its `negative` examples."""
    embedding_examples: dict[str, dict[str, list[SourcePlan]]] = field(default_factory=dict)
    """Of each classifier on embeddings, its examples by their kind."""

    def disk_estimate(self, drawn: float) -> float:
        """Bytes below RUN: text once (LZ4, about 0.6), tokens at 2 bytes three times (flat, runs, stream), and shards.

        drawn : tokens of the training run, which a mixed stream holds; other shards hold each source once.
        """
        tokens = sum(s.token_estimate for s in self.sources)
        in_shards = drawn if self.recipe.mixture.output == "mixed" else tokens
        text = sum(s.text_estimate for s in self.sources)
        return 0.6 * text + 6 * tokens + 2 * in_shards * (1 + len(self.recipe.sequence.also))

    @property
    def task_memory(self) -> int:
        """Bytes the largest task holds, by the stages' stated bounds: exchange, shards, readers."""
        limits = self.recipe.limits
        return max(
            3 * limits.partition_bytes, 2 * self.recipe.shards.size_limit, 4 * limits.max_document_bytes
        )

    def partitions(self, source: SourcePlan) -> int:
        """Partitions of the source's shuffle, for the estimated tokens."""
        return exchange.plan_rounds(
            int(2 * source.token_estimate), self.recipe.limits.partition_bytes
        ).partitions


def plan(
    recipe: Recipe, say: Callable[[str], None] | None = None, roots: Mapping[str, str] | None = None
) -> Plan:
    """Resolve every source; `roots` are those of an earlier run, kept where the recipe names none.

    Ids are relative to the root, so it must not move when a pattern is added. Raises RecipeError (located) for
    a source that matches nothing or cannot be listed.
    """
    sources = []
    for name, source in recipe.sources.items():
        if say:
            say(f"listing {name}")
        sources.append(_plan_source(recipe, name, source, ("sources", name), (roots or {}).get(name)))
    examples = {
        name: _plan_examples(recipe, ("classifiers", name), classifier, EXAMPLES)
        for name, classifier in recipe.classifiers.items()
    }
    embedding_examples = {
        name: _plan_examples(recipe, ("embedding_classifiers", name), classifier, classifier.kinds)
        for name, classifier in recipe.embedding_classifiers.items()
    }
    _check_ids(recipe, sources)
    return Plan(recipe, sources, examples, embedding_examples)


def _plan_examples(
    recipe: Recipe,
    place: tuple[str, str],
    classifier: Classifier | EmbeddingClassifier,
    kinds: Sequence[str],
) -> dict[str, list[SourcePlan]]:
    """The sources of a classifier's examples, by the examples' kind."""
    return {
        kind: [
            _plan_source(
                recipe,
                f"{place[1]}.{kind}.{part}",
                Source.model_construct(read=e.read, filters=e.filters),
                (*place, kind, part),
            )
            for part, e in getattr(classifier, kind).items()
        ]
        for kind in kinds
    }


def _plan_source(
    recipe: Recipe, name: str, source: Source, place: tuple[str, ...], root_before: str | None = None
) -> SourcePlan:
    patterns, exclude = [expand(p) for p in source.read.path], [expand(p) for p in source.read.exclude]
    try:
        if source.read.root:
            root = expand(source.read.root)
        else:
            patterns = [storage.absolute(p) for p in patterns]  # as a shell would take them
            root = _root(patterns, root_before)
        files = list_source(name, root, patterns, exclude)
        splits = cut(name, files, source.read.format, recipe.limits.split_bytes)
    except InputError as error:
        raise recipe.located((*place, "read", "path"), str(error)) from error
    except (OSError, ImportError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        message = f"source {name!r}: cannot be listed: {error}"
        raise recipe.located((*place, "read"), message) from error
    choice = expected(source, splits, recipe.seed, text_estimate(files) / BYTES_PER_TOKEN)
    return SourcePlan(name, source, root, files, splits, read_settings(recipe, source), choice)


def _root(patterns: list[str], earlier: str | None) -> str:
    """The earlier root while the patterns are below it, else the one they share."""
    if earlier is not None:
        try:
            for pattern in patterns:
                relative_pattern(earlier, storage.absolute(pattern))
        except InputError:
            pass
        else:
            return earlier
    return default_root(patterns)


def read_settings(recipe: Recipe, source: Source) -> ReadSettings:
    """What the readers must know of a source."""
    read = source.read
    return ReadSettings(read.format, read.text, read.key, read.on_truncated, recipe.limits.max_document_bytes)


def expand(text: str) -> str:
    """Put the running Python's directories in place of `{stdlib}` and `{site-packages}`."""
    return text.replace("{stdlib}", sysconfig.get_path("stdlib")).replace(
        "{site-packages}", sysconfig.get_path("purelib")
    )


def _check_ids(recipe: Recipe, sources: list[SourcePlan]) -> None:
    """No two files of the run may share the first half of their ids."""
    seen: dict[int, str] = {}
    for source in sources:
        for file in source.files:
            mine = f"{source.name}:{file.path}"
            other = seen.setdefault(file.id_half(source.name), mine)
            if other != mine:
                raise recipe.located(
                    ("sources", source.name, "read", "path"),
                    f"{mine!r} and {other!r} have the same id; rename one",
                )
