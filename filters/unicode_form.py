"""Is text that looks equal also equal in bytes: Unicode's composed form, NFC.

"é" is one code point or two, and nobody sees which; a tokenizer, a hash and an n-gram do. NFC (Unicode
Standard Annex #15) writes it as one, changes nothing a reader could see, and is what most of the web has
already. The compatibility forms NFKC and NFKD are not offered: they rewrite "x²" to "x2" and "ﬁ" to "fi".

The running Python's Unicode version decides (``unicodedata.unidata_version``). Letters: n documents.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa


class NFC(BaseModel):
    """Rewrites text to Unicode's composed form. It has no settings, and drops nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "nfc"
    columns: ClassVar[dict[str, str]] = {}

    def rules(self) -> tuple[Rule, ...]:
        """None."""
        return ()

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The texts in NFC.

        A count is negative for the few characters that NFC takes apart, and may be 0 for a text that changed
        (characters put into another order). Where nothing changes, the very same array comes back. ASCII is
        never looked at twice; other documents become Python strings one at a time. Memory: the changed
        documents as Python strings, and one more copy of the whole array if there are any.

        Raises
        ------
        ValueError
            A text is null.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = documents.column("text")
        if texts.null_count:
            raise ValueError(f"texts must have no nulls; {texts.null_count} of {len(texts)} are null")
        shorter_by = np.zeros(len(texts), np.int64)
        changed = np.zeros(len(texts), bool)
        replacements = []
        for i in np.flatnonzero(~pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)):
            text = texts[i].as_py()
            if not unicodedata.is_normalized("NFC", text):
                composed = unicodedata.normalize("NFC", text)
                shorter_by[i] = len(text) - len(composed)
                changed[i] = True
                replacements.append(composed)
        if not replacements:
            return Rewritten(texts, shorter_by)
        new = pc.replace_with_mask(texts, pa.array(changed), pa.array(replacements, texts.type))
        return Rewritten(new, shorter_by)
