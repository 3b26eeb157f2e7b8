"""What would a run read, do and need? Starts no work.

`plan` lists every source's files and cuts them into splits; the run goes by the same plan. Estimates of disk are
rules of thumb (stated beside them), for the decision whether to start. A place that cannot be reached is no error
here: what is not known of a source is left out, and `need_all` says before a run that it has to be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from winnow.filters.classifier_training import TrainingOptions
from winnow.pipelines.classifier_settings import EXAMPLES, Classifier, EmbeddingClassifier
from winnow.pipelines.embedding_cost import DOCUMENT_BYTES
from winnow.pipelines.located import RecipeError
from winnow.pipelines.mirrors import Mirrors, read_mirrors
from winnow.pipelines.mixture_settings import figure
from winnow.pipelines.places import Place, Places, is_network_error, with_benchmarks
from winnow.pipelines.recipe import Recipe, Source
from winnow.pipelines.sampling import Choice, expected
from winnow.pipelines.source_settings import Read
from winnow.shards import exchange, sandbox, storage
from winnow.shards.convert_settings import Conversion, Html, Latex, Wikitext
from winnow.shards.inputs import InputError, InputFile, Split, list_source
from winnow.shards.readers import ReadSettings
from winnow.shards.rows import Compose
from winnow.shards.splits import cut

EXPANSION = {
    ".gz": 3.5, ".tgz": 3.5, ".zst": 4.0, ".bz2": 4.3, ".xz": 4.6, ".lz4": 2.0, ".zip": 3.1, ".parquet": 2.2,
}  # fmt: skip
"""Bytes of content per stored byte, of web text (ours, from this project's corpora); 1 for plain files."""
TEXT_OF: dict[type[Conversion], float] = {Html: 0.07, Wikitext: 0.45}
"""Bytes of text per byte of what it is converted from; 1 for the others. Ours: 319 web pages of readability's and
Trafilatura's test sets (36.3 MB of HTML, 2.46 MB of main content; of whole web archives, pictures and all, the same
within a factor of two) and an excerpt of the English Wikipedia's dump (6.1 MB of XML, 2.9 MB of text)."""
BYTES_PER_TOKEN = 4.3
"""English text with the Mistral or NeoX tokenizer (ours, same corpora)."""
STREAM_ROW_BYTES = 40
"""What goes with a document's tokens through the shuffle (stream.py)."""

OFFLINE_HINT = (
    "of a repository on the hub a copy will do: `hf download ORG/NAME --repo-type dataset --local-dir DIR` "
    "where there is a network, and DIR in `mirrors`"
)
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
    """Where it is read: as the recipe names it, or the mirror of that; without a revision."""
    files: list[InputFile]
    splits: Sequence[Split]
    """In order: all, or of a source that is read in part those that are read."""
    read: ReadSettings
    expected: Choice | None = None
    """Of a source with `sample` or `tokens` the splits that are likely to be read."""
    part: tuple[int, ...] | None = None
    """Numbers of the splits that are read; None: all."""
    named: str = ""
    """As the recipe names the root, mirrored or not: what ids are relative to."""
    commit: str | None = None
    """Of the hub's repository."""
    unknown: str | None = None
    """Why it could not be listed; it has no files and no splits then."""

    @property
    def indices(self) -> Sequence[int]:
        """The numbers of the splits, in order."""
        return range(len(self.splits)) if self.part is None else self.part

    @property
    def said_where(self) -> Literal["printed", "tokens"] | None:
        """The recipe's key that says how many tokens a source has that could not be listed."""
        printed, asked = self._printed_tokens, self.source.tokens
        if self.unknown is None or (printed is None and asked is None):
            return None
        return "printed" if asked is None or (printed is not None and printed < asked) else "tokens"

    @property
    def said_tokens(self) -> int | None:
        """The tokens that the recipe says such a source has."""
        where = self.said_where
        return None if where is None else self._printed_tokens if where == "printed" else self.source.tokens

    @property
    def _printed_tokens(self) -> int | None:
        printed = self.source.printed
        return None if printed is None or printed.tokens is None else round(figure(printed.tokens).value)

    @property
    def stored_bytes(self) -> int:
        """Of all files."""
        return sum(f.size for f in self.files)

    @property
    def text_estimate(self) -> float:
        """Bytes of text that are likely to be read, by rule of thumb; 0 where nothing is known."""
        if self.unknown is not None:
            return (self.said_tokens or 0) * BYTES_PER_TOKEN
        share = (
            self.expected.bytes / self.expected.of_bytes if self.expected and self.expected.of_bytes else 1.0
        )
        return share * text_estimate(self.files, self.read)

    @property
    def token_estimate(self) -> float:
        return self.text_estimate / BYTES_PER_TOKEN


def text_estimate(files: Iterable[InputFile], read: ReadSettings) -> float:
    """Bytes of text in files, by rule of thumb."""
    total = 0.0
    for file in files:
        suffix = next((s for s in EXPANSION if file.path.endswith(s)), "")
        total += file.size * EXPANSION.get(suffix, 1.0)
    return total * (TEXT_OF.get(type(read.convert), 1.0) if read.convert else 1.0)


def reading_memory(recipe: Recipe, read: ReadSettings) -> int:
    """Bytes a task that reads a source holds, with the child that converts its documents."""
    child = sandbox.memory(read.convert) if read.convert else 0
    return 4 * recipe.limits.max_document_bytes + child


@dataclass(frozen=True)
class Plan:
    """A recipe with its inputs."""

    recipe: Recipe
    sources: list[SourcePlan] = field(default_factory=list)
    examples: dict[str, dict[str, list[SourcePlan]]] = field(default_factory=dict)
    """Of each classifier, its `positive` and its `negative` examples."""
    embedding_examples: dict[str, dict[str, list[SourcePlan]]] = field(default_factory=dict)
    """Of each classifier on embeddings, its examples by their kind."""
    commits: dict[str, str] = field(default_factory=dict)
    """Of the hub's repositories, by `hf://datasets/ORG/NAME@REVISION` as the recipe names it."""
    mirrors: Mirrors = field(default_factory=lambda: Mirrors({}))
    """As they were when the plan was made."""
    unreached: dict[str, str] = field(default_factory=dict)
    """Benchmarks that cannot be asked for, and why."""

    @property
    def everything(self) -> list[SourcePlan]:
        """The sources, and those of classifiers' examples."""
        of_classifiers = (*self.examples.values(), *self.embedding_examples.values())
        examples = [s for kinds in of_classifiers for sources in kinds.values() for s in sources]
        return [*self.sources, *examples]

    def disk_estimate(self, drawn: float) -> float:
        """Bytes below RUN: text once (LZ4, about 0.6), tokens flat, in every round's runs and as the stream; shards.

        drawn : tokens of the training run, which a mixed stream holds; other shards hold each source once.
        """
        tokens = sum(s.token_estimate for s in self.sources)
        times = sum(s.token_estimate * (2 + len(self.shuffle(s).fanouts)) for s in self.sources)
        in_shards = drawn if self.recipe.mixture.output == "mixed" else tokens
        text = sum(s.text_estimate for s in self.sources)
        return 0.6 * text + self.token_bytes * times + 2 * in_shards * (1 + len(self.recipe.sequence.also))

    @property
    def task_memory(self) -> int:
        """Bytes the largest task holds, by the stages' stated bounds: exchange, shards, readers."""
        limits = self.recipe.limits
        reading = [reading_memory(self.recipe, source.read) for source in self.everything]
        return max(3 * limits.partition_bytes, 2 * self.recipe.shards.size_limit, *reading)

    def shuffled_bytes(self, source: SourcePlan) -> int:
        """What goes through the source's shuffle, for the estimated tokens and documents."""
        documents = source.text_estimate / DOCUMENT_BYTES
        return int(self.token_bytes * source.token_estimate + STREAM_ROW_BYTES * documents)

    @property
    def token_bytes(self) -> int:
        """Of a token before it is in a shard: 4 where the loss mask goes with it.

        Four, too, with a tokenizer of more than 65,536 ids; the plan does not open it, and says 2.
        """
        return 4 if "loss_mask" in self.recipe.shards.columns else 2

    def shuffle(self, source: SourcePlan) -> exchange.Rounds:
        """Partitions and rounds of that."""
        return exchange.plan_rounds(self.shuffled_bytes(source), self.recipe.limits.partition_bytes)


def plan(
    recipe: Recipe,
    say: Callable[[str], None] | None = None,
    roots: Mapping[str, str] | None = None,
    commits: Mapping[str, str] | None = None,
) -> Plan:
    """Resolve every source, and the benchmarks that it is compared with.

    roots : those of an earlier run, kept where the recipe names none: ids are relative to the root, so it must not
        move when a pattern is added.
    commits : those that the earlier run keeps of the hub's repositories, as `Plan.commits`.

    Raises RecipeError (located) for a source that matches nothing or cannot be listed, and for mirrors that are not
    there.
    """
    places = Places(read_mirrors(recipe), dict(commits or {}))
    sources = []
    for name, source in recipe.sources.items():
        if say:
            say(f"listing {name}")
        earlier = (roots or {}).get(name)
        sources.append(_plan_source(recipe, places, name, source, ("sources", name), earlier))
    examples = {
        name: _plan_examples(recipe, places, ("classifiers", name), classifier, EXAMPLES)
        for name, classifier in recipe.classifiers.items()
    }
    embedding_examples = {
        name: _plan_examples(recipe, places, ("embedding_classifiers", name), classifier, classifier.kinds)
        for name, classifier in recipe.embedding_classifiers.items()
    }
    _check_ids(recipe, sources)
    recipe, unreached = with_benchmarks(recipe, places)
    return Plan(recipe, sources, examples, embedding_examples, places.commits, places.mirrors, unreached)


def need_all(plan: Plan) -> None:
    """Raises RecipeError for a source, examples or a benchmark that could not be reached."""
    for source in plan.everything:
        if source.unknown is not None:
            own = source.name in plan.recipe.sources
            place = ("sources", source.name) if own else _place_of_examples(plan, source.name)
            message = f"source {source.name!r}: cannot be reached: {source.unknown}; {OFFLINE_HINT}"
            raise plan.recipe.located((*place, "read"), message)
    for name, why in plan.unreached.items():
        message = f"benchmark {name!r}: cannot be reached: {why}; {OFFLINE_HINT}"
        raise plan.recipe.located(("dedup", "decontaminate", "benchmarks", name), message)


def _place_of_examples(plan: Plan, name: str) -> tuple[str, ...]:
    classifier, kind, part = name.split(".", 2)
    key = "classifiers" if classifier in plan.recipe.classifiers else "embedding_classifiers"
    return key, classifier, kind, part


def _plan_examples(
    recipe: Recipe,
    places: Places,
    place: tuple[str, str],
    classifier: Classifier | EmbeddingClassifier,
    kinds: Sequence[str],
) -> dict[str, list[SourcePlan]]:
    """The sources of a classifier's examples, by the examples' kind."""
    return {
        kind: [
            _plan_source(
                recipe,
                places,
                f"{place[1]}.{kind}.{part}",
                Source.model_construct(read=e.read, filters=e.filters),
                (*place, kind, part),
            )
            for part, e in getattr(classifier, kind).items()
        ]
        for kind in kinds
    }


def _plan_source(
    recipe: Recipe,
    places: Places,
    name: str,
    source: Source,
    place: tuple[str, ...],
    earlier: str | None = None,
) -> SourcePlan:
    read = source.read
    try:
        found = places.find(read, earlier)
        files = _files(name, read, found)
        splits = cut(name, files, read.format, recipe.limits.split_bytes)
    except InputError as error:
        raise recipe.located((*place, "read", "path"), str(error)) from error
    except Exception as error:  # some clients' network errors are of no common class
        if is_network_error(error):
            return _unknown(recipe, name, source, str(error))
        if not isinstance(error, OSError | ImportError | ValueError) or isinstance(error, RecipeError):
            raise
        message = f"source {name!r}: cannot be listed: {error}"
        raise recipe.located((*place, "read"), message) from error
    settings = read_settings(recipe, source)
    choice = expected(source, splits, recipe.seed, text_estimate(files, settings) / BYTES_PER_TOKEN)
    root = found.name if found.commit else found.root
    return SourcePlan(
        name, source, root, files, splits, settings, choice, named=found.name, commit=found.commit
    )


def _files(name: str, read: Read, place: Place) -> list[InputFile]:
    if read.format == "dataset":
        from winnow.shards.hub_dataset import list_shards

        files = list_shards(name, place.root, read.config, read.split)
    else:
        files = list_source(name, place.root, place.patterns, place.exclude)
    if place.commit is not None and files and files[0].location.startswith(storage.HUB):
        from winnow.shards import hub

        hub.facts(files[0].location)  # what is gated can be listed by anybody
    return files


def _unknown(recipe: Recipe, name: str, source: Source, why: str) -> SourcePlan:
    root = source.read.root or ", ".join(source.read.path)
    return SourcePlan(name, source, root, [], [], read_settings(recipe, source), named=root, unknown=why)


def read_settings(recipe: Recipe, source: Source) -> ReadSettings:
    """What the readers must know of a source."""
    read = source.read
    return ReadSettings(
        read.format,
        read.text,
        read.key,
        read.on_truncated,
        recipe.limits.max_document_bytes,
        tuple(read.parse),
        tuple(read.members),
        read.config,
        read.split,
        _conversion(read),
        _compose(read),
    )


ALWAYS_CONVERTED: dict[str, Conversion] = {
    "warc": Html.model_validate({}),
    "mediawiki": Wikitext.model_validate({}),
    "arxiv": Latex.model_validate({}),
}
"""By format: how its documents become text where the recipe does not say."""


def _conversion(read: Read) -> Conversion | None:
    return read.convert.settings if read.convert is not None else ALWAYS_CONVERTED.get(read.format)


def _compose(read: Read) -> Compose | None:
    if read.chat is None and read.template is None:
        return None
    from winnow.tokenize.chat import Conversation, RowText

    if read.chat is not None:
        return Conversation(read.chat)
    assert read.template is not None
    return RowText(read.template)


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
