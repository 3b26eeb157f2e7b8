"""Where do workers find the encoders that a recipe's embeddings name?

An encoder's files are copied into the run once, so that every node has them, a hub is asked once, and the run keeps
what it was made with. What depends on an encoder depends on its files' sha256, never on its name or path.

On an object store a worker keeps a copy on its own disk, by sha256, for all its tasks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from winnow.filters.embedding_settings import Embedding
from winnow.pipelines.cluster import Task
from winnow.pipelines.dedup_settings import WITH_VECTORS
from winnow.pipelines.device import TORCH_BYTES
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.models import keep_copy
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Outputs, Stage
from winnow.shards import scratch, storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from winnow.filters.embedding_tokens import TextTokens
    from winnow.filters.encoder import Encoder
    from winnow.filters.encoder_files import EncoderFiles

VERSION = 1
BESIDE_BYTES = 256 << 20
"""What a task holds beside the encoder: windows of text, their tokens and what a batch becomes on its way."""
NEEDED = ("torch", "transformers")
"""Packages of the extra `embed`, without which no vector is made (plan_vectors.py asks for them)."""


@dataclass(frozen=True, slots=True)
class EncoderPlace:
    """An embedding, with the place of its encoder's files in the run."""

    location: str
    """Of the encoder's stage."""
    files: EncoderFiles
    """What is in it; `folder` is where they were found."""
    settings: Embedding

    @property
    def pooling(self) -> str:
        return self.settings.pooling or self.files.pooling or "mean"

    @property
    def max_tokens(self) -> int:
        """Tokens of a document that are read."""
        return min(self.settings.max_tokens, self.files.max_tokens)

    @property
    def identity(self) -> dict[str, Any]:
        """What vectors depend on. The device is not in it: vectors that are stored are used as they are."""
        return {
            "sha256": self.files.sha256,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "dtype": self.settings.dtype,
            "batch_tokens": self.settings.batch_tokens,
        }

    @property
    def memory(self) -> int:
        """Bytes that a task on a CPU asks for: torch, texts on their way, and the weights twice: they are converted."""
        weights = sum(os.path.getsize(os.path.join(self.files.folder, file)) for file in self.files.names)
        return TORCH_BYTES + BESIDE_BYTES + 2 * weights

    def folder(self) -> str:
        """The files on this machine's disk."""
        if storage.is_local(self.location):
            return storage.local_path(self.location)
        place = scratch.kept() / self.files.sha256
        for file in self.files.names:
            keep_copy(storage.join(self.location, *file.split("/")), place / file)
        return str(place)

    def load_tokens(self) -> TextTokens:
        """What turns texts into the encoder's tokens; kept for further tasks of this process."""
        from winnow.filters import embedding_tokens

        return embedding_tokens.load(self.folder(), self.max_tokens)

    def load(self, device: str) -> Encoder:
        """The encoder on a device, in torch's words; kept for further tasks of this process."""
        from winnow.filters import encoder

        return encoder.load(self.folder(), self.pooling, device, self.settings.dtype)

    def vectors_of(self, texts: Iterable[pa.LargeStringArray], device: str) -> Iterator[np.ndarray]:
        """float16[n, d] of all texts in order, array by array (embed.py)."""
        from winnow.filters.embed import budget_of, vectors_of

        budget = budget_of(self.settings, device)
        return vectors_of(texts, self.load_tokens(), self.load(device), budget)


def wanted(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """The embeddings that something in the recipe needs, by name, with the place of the first that does."""
    found: dict[str, tuple[str, ...]] = {}
    for step in recipe.dedup_steps():
        for group in step.groups if step.name in WITH_VECTORS else ():
            alone = len(group.sources) == 1
            owner = ("sources", group.sources[0]) if alone else ()
            found.setdefault(group.settings.embedding, (*owner, "dedup", step.name))
    for name, classifier in recipe.embedding_classifiers.items():
        found.setdefault(classifier.embedding, ("embedding_classifiers", name))
    return found


def needed_by(recipe: Recipe, source: str) -> list[str]:
    """The embeddings whose vectors of a source's documents are needed."""
    named = [
        group.settings.embedding
        for step in recipe.dedup_steps()
        for group in step.groups
        if step.name in WITH_VECTORS and source in group.sources
    ]
    named += [
        recipe.embedding_classifiers[q.classifier].embedding
        for q in recipe.sources[source].quality
        if q.classifier in recipe.embedding_classifiers
    ]
    return list(dict.fromkeys(named))


def fetch(engine: Engine, recipe: Recipe) -> tuple[dict[str, EncoderPlace], list[Done]]:
    """Bring the encoders that are needed into the run: by the embedding's name, and their stages.

    The driver's own work. Raises RecipeError, at the embedding's place, for one that cannot be found or used.
    """
    places: dict[str, EncoderPlace] = {}
    stages: list[Done] = []
    for name, place in wanted(recipe).items():
        from winnow.filters.encoder_files import EncoderError, find

        settings = recipe.embedding(name)
        said = ("embeddings", name, "model") if name in recipe.embeddings else place
        try:
            files = find(settings.model, settings.revision)
        except EncoderError as error:
            raise recipe.located(said, str(error)) from error
        stage = Stage(f"encoder.{files.sha256[:16]}", VERSION, {"sha256": files.sha256})
        stages.append(engine.perform(stage, [Task(0, copy_task, files)]))
        places[name] = EncoderPlace(stages[-1].location, files, settings)
    return places, stages


def copy_task(files: EncoderFiles, outputs: Outputs) -> dict[str, Any]:
    """Copy an encoder's files into its stage."""
    for file in sorted(files.names):
        with outputs.file(file) as target:
            shutil.copyfile(os.path.join(files.folder, file), target)
    return {"sha256": files.sha256}
