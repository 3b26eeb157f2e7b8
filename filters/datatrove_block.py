"""How does a block of datatrove run inside a recipe?

Any filter or formatter of datatrove 0.9.0 (a subclass of ``BaseFilter`` or ``BaseFormatter``, also somebody's own)
decides or rewrites documents as it would in a datatrove pipeline: by its own ``filter`` or ``format``. Each
document is a ``datatrove.data.Document`` with the text, the publisher's key as id (else Winnow's id), and `meta`
as metadata; where that has no `url` and the key is one, the key is it. What a block writes into metadata is lost.

A process has one block for the same settings, so a block that remembers documents (SamplerFilter draws on, the
replacements of PIIFormatter go round) gives results that depend on their order. Stored results are
known by the class, its arguments and datatrove's version: a class of your own needs another argument (or name)
when it decides otherwise. Letters: n documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator
from winnow.filters.field import document_id, rows
from winnow.filters.plugin import PluginError, imported
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import Rule, Signal

if TYPE_CHECKING:
    import pyarrow as pa

_ROOMS = ("datatrove.pipeline.filters", "datatrove.pipeline.formatters")
"""Where a class is looked for that is named without its module."""


class DatatroveBlock(BaseModel):
    """Runs a filter or formatter of datatrove, and drops what it drops.

    Signals: ``datatrove.<as>.dropped``, 0 or 1, and ``datatrove.<as>.reason``, what the block says of a document
    that it drops. The rule is ``datatrove.<as>.dropped``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    name: ClassVar[str] = "datatrove"

    block: str
    """A class: `GopherQualityFilter`, or with its module, `datatrove.pipeline.filters.GopherQualityFilter`."""
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the class."""
    as_: str | None = Field(None, alias="as", min_length=1)
    """The signals' name after `datatrove.`; None: the class's. A block that is used twice needs one."""

    @field_validator("block")
    @classmethod
    def _names_a_class(cls, block: str) -> str:
        if not all(part.isidentifier() for part in block.split(".")):
            raise ValueError(
                f"block is a class like GopherQualityFilter or package.module.Class, not {block!r}"
            )
        return block

    @property
    def signal(self) -> str:
        """What the names of its signals begin with."""
        return f"{self.name}.{self.as_ or self.block.rpartition('.')[2]}"

    @property
    def columns(self) -> Mapping[str, str]:
        return {f"{self.signal}.dropped": "uint32", f"{self.signal}.reason": "string"}

    def identity(self) -> Any:
        """The class, its arguments, datatrove's version. Raises PluginError where datatrove is not installed."""
        return [self.block, self._args, _version()]

    def rules(self) -> tuple[Rule, ...]:
        """One: the block does not drop the document."""
        score, detail = Signal(f"{self.signal}.dropped"), f"{self.signal}.reason"
        return (
            Rule(name=score.name, score=score, maximum=0, detail=detail, source=f"datatrove: {self.block}"),
        )

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """What the block makes of the texts, also of those it drops.

        Memory: the batch once more as Python strings.

        Raises
        ------
        PluginError
            There is no such block, it does not take the arguments, or it fails; the text names the document.
        """
        import numpy as np
        import pyarrow as pa

        block = _block(self.block, self._args)
        texts = documents.column("text")
        shorter_by = np.zeros(len(texts), np.int64)
        dropped = np.zeros(len(texts), np.uint32)
        reasons: list[str | None] = [None] * len(texts)
        new: list[str] = []
        changed = False
        for i, (text, key, row) in enumerate(
            zip(texts, documents.column("key"), rows(documents), strict=True)
        ):
            before = text.as_py()
            try:
                after, keep, reason = block.decide(before, key.as_py(), document_id(documents, i), row)
                after.encode()
            except Exception as error:
                raise PluginError(
                    f"datatrove's {self.block} failed at document {document_id(documents, i)}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if not keep:
                dropped[i], reasons[i] = 1, reason
            if after != before:
                shorter_by[i], changed = len(before) - len(after), True
            new.append(after)
        reason_column = pa.array(reasons, pa.string())
        signals = dict(zip(self.columns, (dropped, reason_column), strict=True))
        return Rewritten(pa.array(new, pa.large_string()) if changed else texts, shorter_by, signals)

    @property
    def _args(self) -> str:
        import json

        return json.dumps(self.args, sort_keys=True)


class _Filter:
    """A filter, one document at a time."""

    def __init__(self, block: Any) -> None:
        from datatrove.data import Document

        self._block, self._document = block, Document

    def decide(self, text: str, key: str | None, id_: str, row: Any) -> tuple[str, bool, str | None]:
        """The text after it, whether it is kept, and the reason if not."""
        metadata = row if isinstance(row, dict) else {}
        if key is not None and "://" in key:
            metadata.setdefault("url", key)
        document = self._document(text=text, id=id_ if key is None else key, metadata=metadata)
        (result,) = self._block.filter_batch([document])
        keep, reason = result if isinstance(result, tuple) else (result, None)
        return document.text, bool(keep), None if reason is None else str(reason)


class _Formatter:
    """A formatter, one text at a time."""

    def __init__(self, block: Any) -> None:
        self._block = block

    def decide(self, text: str, key: str | None, id_: str, row: Any) -> tuple[str, bool, None]:
        """The text after it, which is always kept."""
        return self._block.format(text), True, None


@cache
def _block(name: str, args: str) -> _Filter | _Formatter:
    """The block, made once per process. Raises PluginError."""
    import json

    _version()
    found = _class(name)
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.formatters.base import BaseFormatter

    if not isinstance(found, type) or not issubclass(found, BaseFilter | BaseFormatter):
        raise PluginError(
            f"{name} is neither a filter nor a formatter of datatrove (BaseFilter, BaseFormatter)"
        )
    try:
        block = found(**json.loads(args))
    except Exception as error:
        raise PluginError(f"datatrove's {name} cannot be made: {type(error).__name__}: {error}") from error
    return _Filter(block) if isinstance(block, BaseFilter) else _Formatter(block)


def _class(name: str) -> Any:
    import importlib

    module, _, short = name.rpartition(".")
    if module:
        return imported(f"{module}:{short}")
    for room in _ROOMS:
        if found := getattr(importlib.import_module(room), short, None):
            return found
    raise PluginError(f"datatrove has no filter or formatter {name!r}; name one of yours with its module")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("datatrove")
    except PackageNotFoundError:
        raise PluginError("the filter 'datatrove' needs datatrove: pip install 'winnow[datatrove]'") from None
