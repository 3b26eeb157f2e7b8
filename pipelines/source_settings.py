"""What may a recipe say of the files that it reads, and of the filters behind a reader?

The parts of the schema that sources and the examples of classifiers share.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from winnow.filters.catalogue import FILTERS
from winnow.pipelines.dedup_settings import filled
from winnow.pipelines.located import shown
from winnow.pipelines.numbers import parse_bytes, parse_count, parse_fraction
from winnow.shards.convert_settings import CONVERSIONS, Conversion, Html, Latex, Notebook, Wikitext
from winnow.tokenize.chat_settings import Chat

SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def number(value: Any) -> Any:
    """Refuses a boolean where a number is wanted."""
    if isinstance(value, bool):  # pydantic would take true for 1
        raise ValueError(f"a number is wanted, not {shown(value)}")
    return value


Count = Annotated[int, BeforeValidator(parse_count)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Fraction = Annotated[float, BeforeValidator(parse_fraction)]
Number = Annotated[float, BeforeValidator(number)]
Text = Annotated[str, Field(min_length=1)]


class Settings(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def as_list(value: Any) -> Any:
    """One string is a list of it."""
    return [value] if isinstance(value, str) else value


Patterns = Annotated[list[Text], BeforeValidator(as_list)]


def _conversion(value: Any) -> Any:
    """`html`, `{html: null}` and `{html: settings}` are one conversion."""
    given = {value: {}} if isinstance(value, str) else value
    if not isinstance(given, dict) or len(given) != 1 or not set(given) <= set(CONVERSIONS):
        raise ValueError(
            f"one of {', '.join(CONVERSIONS)} is wanted, alone or with its settings, not {shown(value)}"
        )
    ((name, settings),) = given.items()
    return {name: filled(CONVERSIONS[name], settings) if isinstance(settings, dict) else settings or {}}


class Convert(Settings):
    """One conversion, with its settings."""

    html: Html | None = None
    notebook: Notebook | None = None
    latex: Latex | None = None
    wikitext: Wikitext | None = None

    @property
    def settings(self) -> Conversion:
        """Those of the conversion that is named."""
        return getattr(self, next(iter(self.model_fields_set)))


def _chat(value: Any) -> Any:
    return filled(Chat, value) if isinstance(value, dict) else value


class Read(Settings):
    format: Literal[
        "jsonl", "parquet", "text", "code", "warc", "wet", "mediawiki", "stackexchange", "arxiv", "dataset"
    ]
    """`text` and `code`: a file, or a file in a tar or zip archive, is a document; `code` adds the language its name
    tells to `meta`. `warc`: web pages; `wet`: text of web pages; `mediawiki`: the pages of an XML dump;
    `stackexchange`: questions with their answers, of a `Posts.xml`; `arxiv`: papers of arXiv's tar files; `dataset`: a
    data set of the hub by its id, through the `datasets` library."""
    root: Text | None = None
    """Directory or URL that ids are relative to; default: the part of the paths before the first wildcard.
    `hf://datasets/org/name` is a data set's repository on the hub."""
    path: Annotated[Patterns, Field(min_length=1)]
    """Globs below the root; `**` is any number of directories. `{stdlib}` and `{site-packages}` stand for
    the running Python's own directories. Of a `dataset`: its id."""
    exclude: Patterns = []
    """Globs of files to leave out."""
    members: Patterns = []
    """Globs of the files in an archive that are read; default: all."""
    config: Text | None = None
    split: Text | None = None
    """Of a `dataset`; defaults: its own default, `train`."""
    revision: Text | None = None
    """Branch, tag or commit on the hub; default: `main`. The run keeps the commit it finds."""
    text: Text = "text"
    """The column that holds the text, or what is converted to it; keys with dots between for one inside another."""
    key: Text | None = None
    """The column with the publisher's own id or URL; keys with dots between for one inside another."""
    parse: Patterns = []
    """Columns that hold JSON as a string (RedPajama's `meta`): it is parsed, so that filters see its fields."""
    convert: Annotated[Convert, BeforeValidator(_conversion)] | None = None
    """How a document's own format becomes text: `html`, `notebook`, `latex`, `wikitext`. A format that always
    needs one (`warc`: html, `mediawiki`: wikitext, `arxiv`: latex) has it without being asked."""
    chat: Annotated[Chat, BeforeValidator(_chat)] | None = None
    """How a row's turns become text."""
    template: Text | None = None
    """A Jinja template that makes the text of a row's columns, in place of `text`."""
    on_truncated: Literal["fail", "keep"] = "fail"
    """A compressed file that ends too early: stop the run (a cut download looks the same), or use what is
    before the cut and list the file in the manifest."""

    @model_validator(mode="after")
    def _goes_together(self) -> Read:
        if self.chat is not None and self.template is not None:
            raise ValueError("`chat` and `template` both make the text; one of them")
        if self.convert is not None and (self.chat is not None or self.template is not None):
            raise ValueError(
                "`convert` makes the text of one column, `chat` and `template` of several; one of them"
            )
        for key in ("config", "split"):
            if getattr(self, key) is not None and self.format != "dataset":
                raise ValueError(f"`{key}` is for the format `dataset`")
        return self


def _filter_use(value: Any) -> Any:
    """`name`, `{name: null}` and `{name: settings}` are one filter; numbers may be written as elsewhere."""
    if isinstance(value, str):
        return {value: {}}
    if not isinstance(value, dict):
        raise ValueError(f"a filter's name, or a name with its settings, is wanted, not {shown(value)}")
    return {name: _filter_settings(name, given) for name, given in value.items()}


def _filter_settings(name: str, given: Any) -> Any:
    if given is None:
        return {}
    if not isinstance(given, dict) or name not in FILTERS:
        return given
    return filled(FILTERS[name], given)  # type: ignore[arg-type]


class _OneFilter(Settings):
    @model_validator(mode="after")
    def _exactly_one(self) -> _OneFilter:
        if len(self.model_fields_set) != 1:
            raise ValueError("an item is one filter: a name, or a name with its settings")
        return self

    @property
    def settings(self) -> Any:
        """The settings of the filter that is named."""
        return getattr(self, next(iter(self.model_fields_set)))


FilterUse = pydantic.create_model(
    "FilterUse",
    __base__=_OneFilter,
    **{
        name.replace("-", "_"): (settings | None, Field(default=None, alias=name))
        for name, settings in FILTERS.items()
    },  # type: ignore[call-overload]
)


def _source_name(name: str) -> str:
    if not SOURCE_NAME.fullmatch(name):
        allowed = "at most 64 lower-case letters, digits, '-' and '_', beginning with a letter or digit"
        raise ValueError(f"{shown(name)} is no name for a source: {allowed}")
    return name


SourceName = Annotated[str, AfterValidator(_source_name)]


Filters = list[Annotated[FilterUse, BeforeValidator(_filter_use)]]  # type: ignore[valid-type]
