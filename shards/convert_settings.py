"""What may a recipe say of how a document's own format becomes plain text?"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Conversion(BaseModel):
    """What every conversion is bounded by. Documents are converted in a process of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    max_bytes: int = Field(16 << 20, ge=1 << 10, le=1 << 30)
    """Of a document before it is converted; a larger one is quarantined (`too-large`)."""
    max_seconds: float = Field(30.0, gt=0, le=3600)
    """Of CPU for one document; one that takes longer is quarantined (`too-slow`)."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Those that decide the text, by the names they are installed by."""
        return ()


class Html(Conversion):
    """The text of a web page."""

    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """Resiliparse's main content (DCLM's choice, arXiv:2406.11794), or Trafilatura (RefinedWeb's, arXiv:2306.01116)."""

    @property
    def packages(self) -> tuple[str, ...]:
        # Resiliparse also tells the encoding; Trafilatura reads the tree that lxml makes.
        return ("resiliparse",) if self.extractor == "resiliparse" else ("resiliparse", "trafilatura", "lxml")


class Notebook(Conversion):
    """A Jupyter notebook as a script: Markdown cells are comments."""

    outputs: Literal["drop", "keep"] = "drop"
    """Text that cells printed: left out, or kept as comments behind their cell."""


class Latex(Conversion):
    """A LaTeX source as RedPajama cleans arXiv's: macros expanded, preamble, comments and bibliography removed."""


class Wikitext(Conversion):
    """The plain text of MediaWiki markup."""

    @property
    def packages(self) -> tuple[str, ...]:
        return ("mwparserfromhell",)


CONVERSIONS: dict[str, type[Conversion]] = {
    "html": Html,
    "notebook": Notebook,
    "latex": Latex,
    "wikitext": Wikitext,
}
"""By the name a recipe has for them."""
