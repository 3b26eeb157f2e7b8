"""Where do workers find the models, and the lists, that filters go by?

A file named by a path, or a model by the name under which it is published, is copied into the run once, so that
every node has it and the run keeps what it was made with; a classifier of the recipe is in the run already
(training.py). Stages depend on a file's sha256, never on its path.

On an object store a worker keeps a copy on its own disk, by sha256, for all its tasks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winnow.filters.length import TokenCounter
from winnow.filters.model_files import ModelError, ModelFile, find, sha256_of
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.recipe import Recipe, lists_of_filters
from winnow.pipelines.records import Outputs, Stage
from winnow.shards import scratch, storage

VERSION = 1
FILE = "model"
"""A model's name inside its stage."""

Models = dict[str, ModelFile]
"""What a recipe calls a model, or a list -> its file in the run."""


def files_of(settings: Any) -> tuple[str, ...]:
    """The files that a filter goes by, as the recipe names them: its model, or its lists."""
    if hasattr(settings, "with_files"):
        return settings.files
    if hasattr(settings, "with_file") and getattr(settings, "wants_file", True):
        return (settings.model,)
    return ()


def with_files(settings: Any, files: Mapping[str, ModelFile]) -> Any:
    """The settings of a filter that knows its files."""
    if hasattr(settings, "with_files"):
        return settings.with_files(files)
    file = files[settings.model]
    return settings.with_file(file.path, file.sha256)


def fetch(engine: Engine, recipe: Recipe) -> dict[str, Done]:
    """Bring every file that filters and `quality` go by, and the recipe does not train, into RUN; its stage by name.

    The driver's own work. Raises RecipeError, at the filter's place, for one that cannot be found.
    """
    models: dict[str, Done] = {}
    for place, used in lists_of_filters(recipe):
        for i, use in enumerate(used):
            try:
                if hasattr(use.settings, "settled"):
                    use.settings.settled()
                for wanted in files_of(use.settings):
                    if wanted not in recipe.classifiers and wanted not in models:
                        models[wanted] = _keep(engine, find(wanted))
            except ValueError as error:
                raise recipe.located((*place, "filters", i, use.settings.name), str(error)) from error
    for name, source in recipe.sources.items():
        for i, judged in enumerate(source.quality):
            if judged.model is not None and judged.model not in models:
                try:
                    models[judged.model] = _keep(engine, find(judged.model))
                except ValueError as error:
                    raise recipe.located(("sources", name, "quality", i, "model"), str(error)) from error
    return models


def _keep(engine: Engine, found: ModelFile) -> Done:
    stage = Stage(f"model.{found.sha256[:16]}", VERSION, {"sha256": found.sha256})
    return engine.perform(stage, [Task(0, copy_task, found)])


def file_of(done: Done) -> ModelFile:
    """The model that a finished stage keeps."""
    return ModelFile(storage.join(done.location, FILE), done.records[0].counts["sha256"])


def copy_task(found: ModelFile, outputs: Outputs) -> dict[str, Any]:
    """Copy a model's file into its stage. Raises ModelError where it is not what it was a moment ago."""
    with outputs.file(FILE) as target:
        shutil.copyfile(found.path, target)
        if sha256_of(target) != found.sha256:
            raise ModelError(f"{found.path} changed while it was copied")
    return {"sha256": found.sha256}


def complete(
    filters: tuple[Any, ...], models: Mapping[str, ModelFile], counter: TokenCounter
) -> tuple[Any, ...]:
    """The settings of filters, each with the model it goes by, and with what counts tokens."""

    def with_all(settings: Any) -> Any:
        if getattr(settings, "wants_counter", False):
            return settings.with_counter(counter)
        if hasattr(settings, "settled"):
            return settings.settled()
        return with_files(settings, models) if files_of(settings) else settings

    return tuple(with_all(s) for s in filters)


def at_hand(filters: tuple[Any, ...], models: Mapping[str, ModelFile]) -> tuple[Any, ...]:
    """The same settings with their files on this machine's disk. Called by a worker before it filters."""
    wanted = {name for settings in filters for name in files_of(settings)}
    local = {name: _local(models[name]) for name in sorted(wanted)}
    return tuple(with_files(s, local) if files_of(s) else s for s in filters)


def _local(file: ModelFile) -> ModelFile:
    if storage.is_local(file.path):
        return ModelFile(storage.local_path(file.path), file.sha256)
    place = scratch.kept() / file.sha256
    keep_copy(file.path, place)  # its sha256 is checked where it is loaded
    return ModelFile(str(place), file.sha256)


def keep_copy(location: str, place: Path) -> None:
    """Copy a file of the run to this node's disk, unless it is there; only a whole one is ever moved into place."""
    if place.exists():
        return
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with scratch.folder() as folder:
        whole = str(folder / place.name)
        storage.copy(location, whole)
        os.replace(whole, place)
