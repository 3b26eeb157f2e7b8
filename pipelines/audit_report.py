"""How is an audit shown?

Text of documents is somebody else's: it is printed as it is only where the whole of it is asked for, and not on a
terminal, and otherwise with everything that a terminal would obey written out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from winnow.pipelines import quality_step
from winnow.pipelines.audit import Dropped, Place
from winnow.pipelines.audit_document import DocumentStory, RuleStory, SegmentStory, StepStory
from winnow.pipelines.dedup_settings import WITH_VECTORS
from winnow.pipelines.dropped import TOO_LONG
from winnow.pipelines.numbers import show_bytes
from winnow.pipelines.report import new_table, output
from winnow.pipelines.terminal import for_output, printable

EXCERPT_LINES = 12
DETAILS_SHOWN = 5
"""What is shown of a rule's details: the most frequent ones."""
NO_EXCHANGE_FITS = f"{TOO_LONG}: not even its first exchange fits"


# ---- the table -----------------------------------------------------------------------------------------------


def print_audit(facts: dict[str, Any], console: Console | None = None) -> None:
    """The table source × rule, and what rewriting removed."""
    console = console or output()
    table = new_table(f"What {facts['name']} dropped, by first failing rule and by all")
    table.add_column("source", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    for column in ("dropped", "share", "bytes", "failing", "share", "only it"):
        table.add_column(column, justify="right", no_wrap=True)
    for source in facts["sources"]:
        rows = max(source["rows"], 1)
        table.add_row(source["name"], "rows read", f"{source['rows']:,}", *_share(1.0), "", "", "", "")
        for reason, n in sorted(source["no_documents"].items(), key=lambda item: -item[1]):
            table.add_row("", f"no document: {reason}", f"{n:,}", *_share(n / rows), "", "", "", "")
        for rule in source["rules"]:
            failing = f"{rule['failing']:,}", *_share(rule["failing_share"]), f"{rule['only']:,}"
            size = show_bytes(rule["bytes"])
            table.add_row("", rule["rule"], f"{rule['dropped']:,}", *_share(rule["share"]), size, *failing)
        for step in source["dedup"]:
            if n := step["dropped"]:
                size = show_bytes(step["dropped_bytes"])
                table.add_row("", step["step"], f"{n:,}", *_share(n / rows), size, "", "", "")
            if n := step["cut_documents"]:
                size = show_bytes(step["cut_bytes"])
                table.add_row("", f"cut by {step['step']}", f"{n:,}", *_share(n / rows), size, "", "", "")
        if n := source["too_long_chats"]:
            table.add_row("", TOO_LONG, f"{n:,}", *_share(n / rows), "", "", "", "")
        kept = source["kept"]
        table.add_row("", "kept", f"{kept:,}", *_share(kept / rows), "", "", "", "")
        table.add_section()
    console.print(table)
    _print_details(facts, console)
    _print_rewriting(facts, console)


def _share(share: float) -> tuple[str]:
    return (f"{share:.2%}",)


def _print_details(facts: dict[str, Any], console: Console) -> None:
    found = [
        (source["name"], rule["rule"], detail, n)
        for source in facts["sources"]
        for rule in source["rules"]
        for detail, n in list(rule["details"].items())[:DETAILS_SHOWN]
    ]
    if not found:
        return
    table = new_table("Details of what was dropped")
    for column in ("source", "rule", "detail"):
        table.add_column(column, no_wrap=True)
    table.add_column("documents", justify="right")
    for source, rule, detail, n in found:
        table.add_row(source, rule, _plain(printable(detail)), f"{n:,}")
    console.print(table)


def _print_rewriting(facts: dict[str, Any], console: Console) -> None:
    found = [(s["name"], *item) for s in facts["sources"] for item in s["rewritten_chars"].items()]
    if not found:
        return
    table = new_table("Rewriting")
    for column in ("source", "filter"):
        table.add_column(column, no_wrap=True)
    table.add_column("characters removed", justify="right")
    for source, rewriter, n in found:
        table.add_row(source, rewriter, f"{n:,}")
    console.print(table)


def _plain(text: str) -> str:
    """Text for a table's cell: rich reads what is in square brackets as styles."""
    return text.replace("[", "\\[")


# ---- dropped documents ---------------------------------------------------------------------------------------


def print_sample(wanted: str, documents: Sequence[Dropped]) -> None:
    """The documents one below the other."""
    if not documents:
        print(f"{wanted} dropped no document")
    for number, document in enumerate(documents, 1):
        for line in _dropped_lines(number, document):
            print(line)


def _dropped_lines(number: int, document: Dropped) -> Iterator[str]:
    key = f", key {printable(document.key)}" if document.key is not None else ""
    yield f"{number}. {shown_place(document.place)}{key}"
    if document.stage == "read":
        yield f"   no document: {document.filter}"
    elif document.filter in WITH_VECTORS:
        yield f"   {_by_vectors(document.filter, document.survivor, document.score, document.threshold, dropped=True)}"
    elif document.stage == "dedup":
        score = f" ({document.score:.3f})" if document.score is not None else ""
        whose = f" duplicate of {shown_place(document.survivor)}" if document.survivor is not None else ""
        yield f"   {document.filter}{whose}{score}{_said(document.detail)}"
    elif document.filter == TOO_LONG:
        yield f"   {NO_EXCHANGE_FITS}"
    else:
        yield f"   {document.filter}: {_against(document.score, document.threshold)}{_said(document.detail)}"
    others = [rule for rule in document.failing if rule != document.filter]
    if others:
        yield f"   also fails {', '.join(others)}"
    if document.signals:
        yield f"   signals: {_values(document.signals)}"
    for shown in document.evidence:
        yield f"   evidence: {shown}"
    yield from _excerpt_lines(document)
    yield ""


def _by_vectors(
    step: str, like: Place | None, score: float | None, cut: float | None, *, dropped: bool
) -> str:
    """What a step that compares vectors says of a document, and on which side of its cut that is."""
    if score is None:
        return step
    side = ""
    if cut is not None:
        side = f", {'above' if score > cut else 'below' if score < cut else 'at'} {cut:.4f}"
    if like is not None:
        # Not a survivor: of documents that are alike, each goes for the one before it.
        fate = ", which may be dropped itself" if dropped else ""
        return f"{step}: like {shown_place(like)} (cosine {score:.4f}{side}){fate}"
    if step == "semantic":
        return f"{step}: no document before it in its cluster"
    return f"{step}: cosine to its centroid {score:.4f}{side}"


def _excerpt_lines(document: Dropped) -> Iterator[str]:
    if document.excerpt:
        lines = printable(document.excerpt).split("\n")
        yield from (f"   | {line}" for line in lines[:EXCERPT_LINES])
        if len(lines) > EXCERPT_LINES or (document.characters or 0) > len(document.excerpt):
            whole = f", {document.characters:,} characters in all" if document.characters is not None else ""
            yield f"   | …{whole}"
    elif document.stage == "read":
        yield "   (nothing of the row is stored)"


def _against(score: float | None, threshold: float | None) -> str:
    if score is None:
        return "no score"
    if threshold is None:
        return _number(score)
    low = score < threshold
    return (
        f"{_number(score)}, {'below' if low else 'above' if score > threshold else 'at'} {_number(threshold)}"
    )


def _said(detail: str | None) -> str:
    return f" ({printable(detail)})" if detail is not None else ""


def _number(value: float) -> str:
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"


def _values(signals: Mapping[str, Any]) -> str:
    return ", ".join(f"{signal} {_value(value)}" for signal, value in signals.items())


def _value(value: Any) -> str:
    return _number(value) if isinstance(value, int | float) else printable(str(value))


def shown_place(place: Place) -> str:
    """A document's id and where it was read."""
    return f"{place.document}  {place.source}, {printable(place.path)} at {place.position}"


# ---- one document --------------------------------------------------------------------------------------------


def print_story(story: DocumentStory, console: Console | None = None) -> None:
    """A document's story; its text, where it was asked for, last."""
    console = console or output()
    key = f", key {printable(story.key)}" if story.key is not None else ""
    print(f"{shown_place(story.place)}{key}")
    for number, segment in enumerate(story.segments, 1):
        _print_segment(number, segment, console)
    for step in story.steps:
        if step.scores:
            print(f"{step.step}\n  scores: {_values(step.scores)}")
            _print_rules(step.rules, console)
    print("\n".join(_end_lines(story)))
    if story.text is not None:
        print(f"\n{for_output(story.text)}")


def _print_segment(number: int, segment: SegmentStory, console: Console) -> None:
    print(f"segment {number}")
    if segment.rewriter is not None:
        print(f"  {segment.rewriter} removed {segment.removed_chars:,} characters")
    if segment.signals:
        print(f"  signals: {_values(segment.signals)}")
    _print_rules(segment.rules, console)


def _print_rules(rules: Sequence[RuleStory], console: Console) -> None:
    if not rules:
        return
    table = new_table("")
    table.title = None
    for column in ("rule", "score", "bound", "verdict", "from"):
        table.add_column(column, justify="right" if column == "score" else "left", no_wrap=True)
    for rule in rules:
        score = "" if rule.score is None else _number(rule.score)
        detail = _plain(_said(rule.detail))
        table.add_row(rule.rule, score + detail, _bound(rule), _verdict(rule), _plain(rule.source))
    console.print(table)


def _bound(rule: RuleStory) -> str:
    if rule.fraction is not None:
        cut = f", from {_number(rule.minimum)} on" if rule.minimum is not None else ""
        return f"the best {100 * rule.fraction:g}%{cut}"
    bounds = [
        f"{word} {_number(bound)}"
        for word, bound in (("at least", rule.minimum), ("at most", rule.maximum))
        if bound is not None
    ]
    return ", ".join(bounds)


def _verdict(rule: RuleStory) -> str:
    return "passes" if rule.passes else "fails, drops it" if rule.dropped else "fails"


def _step_lines(step: StepStory) -> Iterator[str]:
    """What a step of dedup did to a document, where it did something."""
    score = f" ({step.score:.3f})" if step.score is not None else ""
    if step.step in WITH_VECTORS:
        by = "dropped by " if step.dropped else ""
        if step.dropped or step.score is not None:
            yield by + _by_vectors(step.step, step.survivor, step.score, step.threshold, dropped=step.dropped)
    elif step.dropped and step.step == quality_step.KIND:
        yield f"dropped by {step.detail}: {_against(step.score, step.threshold)}"
    elif step.dropped and step.survivor is not None:
        yield f"{step.step} duplicate of {shown_place(step.survivor)}{score}"
    elif step.dropped:
        yield f"dropped by {step.step}{score}{_said(step.detail)}"
    elif step.cut_bytes:
        yield f"{step.step} cut {step.cut_bytes:,} bytes{_said(step.detail)}"


def _end_lines(story: DocumentStory) -> Iterator[str]:
    if story.end == "no document":
        yield f"no document: {story.reason}"
    elif story.reason == TOO_LONG:
        yield f"dropped by {NO_EXCHANGE_FITS}"
    elif story.end == "dropped" and not any(step.dropped for step in story.steps):
        yield f"dropped by {story.reason}"
    for step in story.steps:
        yield from _step_lines(step)
    if story.trace is None:
        return
    size = f", {story.text_bytes:,} bytes of text" if story.text_bytes is not None else ""
    compared = (
        f"passed {', '.join(s.step for s in story.steps)}" if story.steps else "not compared with others"
    )
    yield f"kept{size}; {compared}"
    trace = story.trace
    samples = ", ".join(map(str, trace.samples)) or "none"
    held_out = " (held out)" if trace.split == "val" else ""
    of = "" if trace.stream == trace.source else f" of {trace.stream}"
    yield f"{trace.tokens:,} tokens in {trace.split}{held_out}, samples {samples}{of}; {trace.unused_tokens:,} unused"
    if trace.excluded:
        yield "taken out of the shards: a list of `exclude` names it"
