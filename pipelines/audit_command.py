"""`winnow audit`: its options, and which of its forms they ask for."""

from __future__ import annotations

from typing import Annotated

import typer
from winnow.pipelines.json_output import JsonOption, print_json

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory or URL.")]
SHOWN = 5
"""Of a sample without a size: documents, or pairs of them."""


def audit(
    run: RunArgument,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help="A rule, a filter (all its rules), a step of dedup, or quality."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Show so many documents that --filter dropped, or pairs; default: {SHOWN}."
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only documents of this source; with --filter.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the sample; default: the run's.")] = None,
    doc: Annotated[
        str | None, typer.Option(help="Id of a document: what became of it, and by which numbers?")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Show the document's text too; with --doc.")] = False,
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates",
            help="Show duplicates beside the documents kept instead (--sample of them, by the step --filter), or "
            "with --doc all that were dropped for that document.",
        ),
    ] = False,
    semantic: Annotated[
        bool,
        typer.Option(
            "--semantic",
            help="Show the documents nearest to the cut of a step that compares vectors (--filter semantic or "
            "prototypes), half of them dropped and half kept, --sample of them.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what was dropped: a table source by rule, a sample of dropped documents, or one document's story."""
    from dataclasses import asdict

    from winnow.pipelines import audit_report
    from winnow.pipelines.audit import audit_facts, sample_dropped
    from winnow.pipelines.audit_document import document_story
    from winnow.pipelines.finished import open_run

    if semantic:
        if doc is not None or duplicates or text:
            raise typer.BadParameter("with --semantic go --filter, --sample, --source and --seed alone")
        _audit_semantic(run, filter_, sample, source, seed, json=json)
        return
    if duplicates:
        _audit_duplicates(run, filter_, sample, source, seed, doc, json=json)
        return
    if filter_ is None and sample is not None:
        raise typer.BadParameter(
            "--sample says how many to show of what --filter dropped: give --filter, too"
        )
    if filter_ is not None and doc is not None:
        raise typer.BadParameter("--doc shows one document, --filter some that it dropped: give one of them")
    if filter_ is None and (source is not None or seed is not None):
        raise typer.BadParameter("--source and --seed are about a sample: give --filter, too")
    if text and doc is None:
        raise typer.BadParameter("--text is about one document: give --doc, too")
    opened = open_run(run)
    if filter_ is not None:
        documents = sample_dropped(opened, filter_, sample or SHOWN, source, seed)
        if json:
            print_json([asdict(document) for document in documents])
        else:
            audit_report.print_sample(filter_, documents)
    elif doc is not None:
        story = document_story(opened, doc, text=text)
        if json:
            print_json(asdict(story))
        else:
            audit_report.print_story(story)
    else:
        facts = audit_facts(opened.mixture)
        if json:
            print_json(facts)
        else:
            audit_report.print_audit(facts)


def _audit_duplicates(
    run: str,
    step: str | None,
    sample: int | None,
    source: str | None,
    seed: int | None,
    doc: str | None,
    *,
    json: bool,
) -> None:
    from dataclasses import asdict

    from winnow.pipelines import audit_pairs, audit_pairs_report
    from winnow.pipelines.finished import open_run

    opened = open_run(run)
    if doc is not None:
        if not (step is sample is source is seed is None):
            raise typer.BadParameter(
                "--duplicates --doc shows one document's cluster; nothing else goes with it"
            )
        members = audit_pairs.cluster_of(opened, doc)
        if json:
            print_json([asdict(member) for member in members])
        else:
            audit_pairs_report.print_cluster(doc, members)
        return
    pairs = audit_pairs.sample_pairs(opened, sample or SHOWN, source, seed, step)
    if json:
        print_json([asdict(pair) for pair in pairs])
    else:
        audit_pairs_report.print_pairs(pairs)


def _audit_semantic(
    run: str, step: str | None, sample: int | None, source: str | None, seed: int | None, *, json: bool
) -> None:
    from dataclasses import asdict

    from winnow.pipelines import audit_semantic, audit_semantic_report
    from winnow.pipelines.finished import open_run

    found = audit_semantic.nearest_cut(open_run(run), sample or SHOWN, source, seed, step)
    if json:
        print_json([asdict(near) for near in found])
    else:
        audit_semantic_report.print_near(found)
