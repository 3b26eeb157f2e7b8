"""Which bytes of a conversation are its tokens?

Provenance does not say: what a control token's name takes in the text is no bytes of its piece, and every text between
two of them may have a space put before it. So a conversation is encoded once more, from the text that the run keeps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
from winnow.pipelines import split_rows
from winnow.pipelines.chat_tokens import marks_of
from winnow.pipelines.documents import name
from winnow.pipelines.finished import FinishedRun, UnknownError
from winnow.pipelines.tokens import load_vocabulary, spelling
from winnow.shards import storage
from winnow.tokenize.encoder import Append
from winnow.tokenize.templated import Spelling, TemplatedEncoder


def byte_ends(run: FinishedRun, source: str, document: bytes) -> np.ndarray | None:
    """int64[t]: the bytes of a conversation's text up to the end of each of its tokens.

    None where the tokenizer's pieces do not spell bytes. Raises UnknownError for what is no document, and
    NotFinishedError where the run's texts are not there.
    """
    chat = run.recipe.sources[source].read.chat
    assert chat is not None
    encoder = _encoder(run.tokenizer, run.recipe.tokenizer.append, chat.max_tokens)
    if encoder is None:
        return None
    text, meta = _text_and_meta(run, source, document)
    return encoder.byte_ends(text, marks_of(pa.array([meta], pa.string()))[0])


@lru_cache(maxsize=2)
def _encoder(tokenizer: str, append: Append, max_tokens: int | None) -> TemplatedEncoder | None:
    sizes, prefix = spelling(tokenizer)
    if sizes is None:
        return None
    vocabulary, spelled = load_vocabulary(tokenizer), Spelling(sizes, prefix)
    return TemplatedEncoder(
        vocabulary, vocabulary.reference, append=append, max_tokens=max_tokens, spelling=spelled
    )


def _text_and_meta(run: FinishedRun, source: str, document: bytes) -> tuple[str, str | None]:
    documents = run.stage(source, "documents")
    splits = split_rows.splits_of(run, source)
    for split in split_rows.splits_to_search(documents, splits, run.file_ranks(source), document):
        place = storage.join(documents, name("rows", split, "parquet"))
        found = split_rows.find_rows(place, [document], ["meta"])
        if document in found:
            row, table = found[document]
            return split_rows.texts_of_rows(documents, split, [row])[row], table.column("meta")[0].as_py()
    raise UnknownError(f"{document.hex()} is no document of {source}")
