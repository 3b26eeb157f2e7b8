"""What makes two documents the same for exact dedup?"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Exact(BaseModel):
    """Drops documents that are the same as an earlier one, by a hash of 128 bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "exact"

    by: Literal["text", "normalised", "url"] = "text"
    """What has to be equal: every byte of the text; its words in lower case; or the URL in its normal form
    (text_keys.py says both). A document without a URL is compared with none."""
    url: str = Field("key", min_length=1)
    """Where the URL is, for `by: url`: `key`, or the path of a field of `meta`, with dots between its keys."""

    @model_validator(mode="after")
    def _url_is_asked_for(self) -> Exact:
        if self.url != "key" and self.by != "url":
            raise ValueError(
                f"url says where URLs are, and documents are compared by {self.by}: set by to url"
            )
        return self
