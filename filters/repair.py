"""What was this text before it was broken: ftfy's repair of wrongly decoded text, and tidied white space.

Both are filters that rewrite and drop nothing. Letters: n documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa

# No mojibake that ftfy 6.3.1 looks for is longer than 6 characters, and each holds one beyond ASCII.
_CONTEXT = 16
# "&amp;amp;" comes down by one level in each of ftfy's passes over a line: a million levels would take hours.
_DEEP_ESCAPE = re.compile(r"&(?:(?:amp|AMP|#38|#[xX]26);){16,}")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_LONG_ASCII = re.compile(rf"([\0-\x7f]{{{_CONTEXT}}})[\0-\x7f]*([\0-\x7f]{{{_CONTEXT}}})")


class FTFY(BaseModel):
    """Repairs text with ftfy's ``fix_text``: wrongly decoded UTF-8 ("âœ”" for "✔"), HTML entities, controls.

    The settings are ftfy's, and so is what they do; the defaults are those of datatrove's FTFYFormatter
    (0.9.0): broken text is repaired, and no typographic style enforced. So the last five are off. Documents in
    which there is nothing to repair are found first, and are not given to ftfy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "ftfy"
    columns: ClassVar[dict[str, str]] = {}

    unescape_html: bool | Literal["auto"] = "auto"
    """Whether "&amp;" becomes "&"; auto: up to the first line with a "<"."""
    remove_terminal_escapes: bool = True
    """Whether ANSI sequences (colours of a terminal) go."""
    fix_encoding: bool = True
    """Whether mojibake is looked for and decoded again; the next three say how."""
    restore_byte_a0: bool = True
    """Whether a space may stand for a no-break space within mojibake."""
    replace_lossy_sequences: bool = True
    """Whether mojibake that has lost characters becomes "�"."""
    decode_inconsistent_utf8: bool = True
    """Whether mojibake is decoded where the line around it is sound."""
    fix_c1_controls: bool = True
    """Whether U+0080 to U+009F become what they are in Windows-1252."""
    fix_surrogates: bool = True
    """ftfy's, for completeness: valid UTF-8 has no surrogates."""
    remove_control_chars: bool = True
    """Whether control characters without effect go."""
    fix_latin_ligatures: bool = False
    """Whether "ﬁ" becomes "fi"."""
    fix_character_width: bool = False
    """Whether full-width letters and half-width katakana get their usual width."""
    uncurl_quotes: bool = False
    """Whether curly quotes become straight."""
    fix_line_breaks: bool = False
    """Whether "\\r\\n", "\\r", U+0085, U+2028 and U+2029 become "\\n"."""
    normalization: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = None
    """A Unicode form that every line is brought into; the filter `nfc` does that alone, and faster."""

    def rules(self) -> tuple[Rule, ...]:
        """None."""
        return ()

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The texts after ``ftfy.fix_text``.

        Where nothing changes, the very same array comes back. Memory: one document as a Python string at a
        time, those that changed, and one more copy of the array if there are any.

        Raises
        ------
        ValueError
            A text is null.
        ImportError
            ftfy is not installed.
        """
        import pyarrow.compute as pc

        repair = _repairer(self)
        texts = documents.column("text")
        # ftfy leaves printable ASCII alone, but for entities; of the rest, a document at a time is looked at.
        plain = pc.and_(
            pc.string_is_ascii(texts), pc.invert(pc.match_substring_regex(texts, _MAY_CHANGE_ASCII))
        )
        return _replaced(texts, plain, repair)


_MAY_CHANGE_ASCII = r"&#?[0-9A-Za-z]{1,24};|[\x00-\x08\x0b\x0d-\x1f\x7f]"


@lru_cache(4)
def _repairer(settings: FTFY) -> Callable[[str], str]:
    """The function from a text to what ``ftfy.fix_text`` makes of it."""
    html = settings.unescape_html
    mend = _mender(settings.model_copy(update={"unescape_html": bool(html)}))
    if html != "auto":
        return mend
    mend_markup = _mender(settings.model_copy(update={"unescape_html": False}))

    def repair(text: str) -> str:
        # From the line of the first "<" on, fix_text takes a text for HTML.
        markup = text.find("<")
        if markup < 0:
            return mend(text)
        line = text.rfind("\n", 0, markup) + 1
        return mend(text[:line]) + mend_markup(text[line:])

    return repair


def _mender(settings: FTFY) -> Callable[[str], str]:
    """``ftfy.fix_text`` that goes to ftfy with suspicious lines only: it mends each line by itself."""
    try:
        import ftfy
    except ModuleNotFoundError as missing:
        raise ImportError("the filter ftfy needs ftfy: pip install 'winnow[datatrove]'") from missing
    config = ftfy.TextFixerConfig(**settings.model_dump())
    suspicious = _suspicion(settings)

    def mend(text: str) -> str:
        # ftfy cuts a line that is too long for it, and what then begins a piece is beyond `suspicious`.
        if len(text) <= config.max_decode_length and not suspicious(text):
            return text
        if settings.unescape_html:
            text = _DEEP_ESCAPE.sub("&amp;", text)
        return "".join(
            ftfy.fix_text(line, config) if len(line) > config.max_decode_length or suspicious(line) else line
            for line in _LINE.findall(text)
        )

    return mend


def _suspicion(settings: FTFY) -> Callable[[str], bool]:
    """Whether some step of ftfy might find its pattern in a text; where none does, none changes it."""
    from unicodedata import is_normalized

    from ftfy import badness, chardata

    found = [r"\x1b"] * settings.remove_terminal_escapes
    if settings.unescape_html:
        found.append(chardata.HTML_ENTITY_RE.pattern)
    if settings.fix_c1_controls:
        found.append(chardata.C1_CONTROL_RE.pattern)
    if settings.remove_control_chars:
        found.append(_any_of(chardata.CONTROL_CHARS))
    if settings.fix_latin_ligatures:
        found.append(_any_of(chardata.LIGATURES))
    if settings.fix_character_width:
        found.append(_any_of(chardata.WIDTH_MAP))
    if settings.uncurl_quotes:
        found += [chardata.SINGLE_QUOTE_RE.pattern, chardata.DOUBLE_QUOTE_RE.pattern]
    if settings.fix_line_breaks:
        found.append(r"[\r\x85\u2028\u2029]")
    fixable = re.compile("|".join(found)) if found else None
    # Some mojibake is known by standing at the begin of a line.
    mojibake = re.compile(badness.BADNESS_RE.pattern, badness.BADNESS_RE.flags | re.MULTILINE)

    def suspicious(text: str) -> bool:
        if fixable is not None and fixable.search(text):
            return True
        if text.isascii():
            return False
        if settings.normalization and not is_normalized(settings.normalization, text):
            return True
        # Long ASCII between characters beyond it is cut short: no mojibake reaches across it.
        return settings.fix_encoding and bool(mojibake.search(_LONG_ASCII.sub(r"\1\n\2", text)))

    return suspicious


def _any_of(points: Any) -> str:
    """A pattern for any one of these code points."""
    return "[" + "".join(map(re.escape, map(chr, points))) + "]"


def _replaced(texts: pa.LargeStringArray, plain: pa.BooleanArray, repair: Callable[[str], str]) -> Rewritten:
    """The texts, those that are not `plain` after `repair`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if texts.null_count:
        raise ValueError(f"texts must have no nulls; {texts.null_count} of {len(texts)} are null")
    shorter_by = np.zeros(len(texts), np.int64)
    changed = np.zeros(len(texts), bool)
    replacements = []
    for i in np.flatnonzero(~plain.to_numpy(zero_copy_only=False)):
        text = texts[i].as_py()
        repaired = repair(text)
        if repaired != text:
            shorter_by[i] = len(text) - len(repaired)
            changed[i] = True
            replacements.append(repaired)
    if not replacements:
        return Rewritten(texts, shorter_by)
    new = pc.replace_with_mask(texts, pa.array(changed), pa.array(replacements, texts.type))
    return Rewritten(new, shorter_by)


class Whitespace(BaseModel):
    """Tidies white space; blanks.py says exactly how. The defaults leave indentation, and so code, as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "whitespace"
    columns: ClassVar[dict[str, str]] = {}

    line_ends: bool = True
    """Whether "\\r\\n", "\\r" and all else that ends a line become "\\n"."""
    control_chars: bool = True
    """Whether control characters go, all but tab and line ends."""
    zero_width: bool = False
    """Whether zero-width spaces and byte order marks go. Khmer and Thai may use them between words."""
    no_break_spaces: bool = False
    """Whether no-break spaces become spaces."""
    runs: bool = False
    """Whether runs of spaces and tabs become one space. This takes indentation away, and columns of tables."""
    trailing: bool = True
    """Whether whitespace at the end of lines goes."""
    max_newlines: int | None = Field(2, ge=1)
    """Newlines that may follow each other: 2 leave one blank line. None for any number."""

    def rules(self) -> tuple[Rule, ...]:
        """None."""
        return ()

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The tidied texts; where nothing changes, the very same array. Memory: one more copy of the texts.

        Raises
        ------
        TypeError
            The column `text` is not of the type large_string.
        ValueError
            A text is null.
        """
        import numpy as np
        import pyarrow.compute as pc
        from winnow.filters.blanks import tidy

        texts = documents.column("text")
        new = tidy(texts, **self.model_dump())
        if new.equals(texts):
            return Rewritten(texts, np.zeros(len(texts), np.int64))
        before, after = (pc.utf8_length(array).to_numpy() for array in (texts, new))
        return Rewritten(new, before - after)
