"""What can a finished run be asked?

`open_run` opens a published run: its statistics, where its stages are, which file an id is from, and what in it nobody
refers to any more. Reads only what it shows. What samples are made of: tracing.py; whether shards are whole:
verifying.py.
"""

from __future__ import annotations

import os
import re
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from winnow.pipelines import published
from winnow.pipelines.recipe import Recipe, read
from winnow.pipelines.tokens import load_vocabulary
from winnow.shards import storage
from winnow.tokenize.encoder import Encoder

DOCUMENT_ID = re.compile(r"[0-9A-Fa-f]{32}")
STAGE = re.compile(r".+-[0-9a-f]{16}")
"""The name of a stage's directory: nothing else below RUN/stages is Winnow's."""


class NotFinishedError(RuntimeError):
    """The directory holds no published run."""


class UnknownError(LookupError):
    """A stream, sample or document that the run does not have."""


class FinishedRun:
    """A published run."""

    def __init__(self, location: str):
        self.location = storage.absolute(location)
        if not storage.exists(storage.join(self.location, "manifest.json")):
            raise NotFinishedError(
                f"{self.location} has no manifest.json: the run has not finished (or it is no run); "
                "`winnow run` continues it"
            )
        self.manifest = published.read_json(self.location, "manifest.json")
        published.check_names(self.location, self.manifest)
        if changed := published.torn(self.location, self.manifest):
            raise NotFinishedError(
                f"{self.location}: publishing was interrupted ({', '.join(changed)} and manifest.json are of "
                "different runs); `winnow run` completes it"
            )
        self.mixture = published.read_json(self.location, "mixture.json")
        self.places = {s["name"]: s for s in self.manifest["sources"]}
        self._listings: dict[str, pa.Table] = {}

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with every default."""
        text = storage.read_bytes(storage.join(self.location, "recipe.yaml")).decode()
        return read(text, storage.join(self.location, "recipe.yaml"))

    def stage(self, source: str, kind: str) -> str:
        """Location of a source's stage. Raises UnknownError for a source that is not there."""
        if source not in self.places:
            raise UnknownError(f"there is no stream {source!r}; the run has {', '.join(self.places)}")
        return storage.join(self.location, "stages", self.places[source][kind])

    @property
    def tokenizer(self) -> str:
        """Location of the tokenizer's stage."""
        return self.stage_named("tokenizer")

    def stage_named(self, name: str) -> str:
        """Location of the stage of that name: its kind, and its source where it belongs to one."""
        directory = next(s["directory"] for s in self.manifest["stages"] if s["name"] == name)
        return storage.join(self.location, "stages", directory)

    def decode(self, ids: np.ndarray) -> str:
        """The text of token ids, control tokens by name."""
        return self._encoder.decode(ids)

    @cached_property
    def _encoder(self) -> Encoder:
        vocabulary = load_vocabulary(self.tokenizer)
        return Encoder(vocabulary, vocabulary.reference, append="none")

    def place_of(self, document: str) -> tuple[str, str, int]:
        """(source, path, position) that an id tells; whether a document begins there is not looked at.

        Raises UnknownError for an id that is not 32 hexadecimal digits or of no file of the run.
        """
        if not DOCUMENT_ID.fullmatch(document):
            raise UnknownError(f"{document!r} is no document id: 32 hexadecimal digits")
        half = pa.scalar(int(document[:16], 16), pa.uint64())
        for source in self.places:
            files = self._listing(source)
            at = pc.index(files.column("id_half"), half).as_py()
            if at >= 0:
                return source, files.column("path")[at].as_py(), int(document[16:], 16)
        raise UnknownError(f"document {document} is from no file of this run")

    def file_ranks(self, source: str) -> dict[int, int]:
        """First half of an id -> the file's place in the order of the source."""
        halves = self._listing(source).column("id_half").to_pylist()
        return {half: rank for rank, half in enumerate(halves)}

    def _listing(self, source: str) -> pa.Table:
        """The first half of the ids and the path of a source's files, in order."""
        if source not in self._listings:
            place = storage.join(self.stage(source, "documents"), "files.parquet")
            with storage.open_input(place) as handle:
                self._listings[source] = pq.ParquetFile(handle).read(["id_half", "path"], use_threads=False)
        return self._listings[source]

    @property
    def is_linked(self) -> bool:
        """Whether the stages are somewhere else, behind a symbolic link."""
        stages = storage.join(self.location, "stages")
        return storage.is_local(stages) and os.path.islink(storage.local_path(stages))

    def unreferenced(self) -> dict[str, int]:
        """Stage directories that the manifest does not name, and attempts a kill left: relative path -> bytes."""
        referenced = {s["directory"] for s in self.manifest["stages"]}
        stages = storage.join(self.location, "stages")
        sizes: dict[str, int] = {}
        for path, size in storage.list_files(stages).items():
            directory = path.split("/", 1)[0]
            if directory not in referenced and STAGE.fullmatch(directory):
                sizes[f"stages/{directory}"] = sizes.get(f"stages/{directory}", 0) + size
        for path, size in storage.list_files(stages, unfinished=True).items():
            if path.split("/", 1)[0] in referenced:
                sizes[f"stages/{path}"] = size
        return dict(sorted(sizes.items()))


def open_run(location: str) -> FinishedRun:
    """Open a published run. Raises NotFinishedError, SchemaError."""
    return FinishedRun(location)
