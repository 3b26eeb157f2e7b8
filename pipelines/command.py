"""The command line: a thin layer on `winnow.pipelines`.

Exit codes: 0 done, 1 the run failed, 2 bad recipe or input, 130 interrupted (SIGINT and SIGTERM alike).
Results go to standard output, progress and errors to standard error. Heavy imports are inside the
commands that need them.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Annotated, Any

import typer
from winnow.pipelines import audit_command, interrupt, run_command, train_command
from winnow.pipelines.audit_command import RunArgument
from winnow.pipelines.json_output import JsonOption, print_json
from winnow.pipelines.located import RecipeError
from winnow.pipelines.recipe import load, values
from winnow.pipelines.run_command import RecipeArgument, SetOption
from winnow.pipelines.terminal import for_output, printable

CommandLineError = typer.BadParameter.__mro__[2]
"""click's ClickException: newer typers carry a click of their own, older ones use the package."""

app = typer.Typer(
    name="winnow",
    help="Raw text to a planned mixture to MDS token shards, from one YAML recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


FormatOption = Annotated[
    str | None, typer.Option("--format", help="table (unless said), json, csv or markdown.")
]


@app.command()
def validate(recipe: RecipeArgument, settings: SetOption = None, json: JsonOption = False) -> None:
    """Check a recipe; every error is file:line:column: message."""
    checked = load(recipe, settings or [])
    if json:
        print_json(values(checked))
    else:
        print(f"{checked.name}: {_number_of(len(checked.sources), 'source')}, no errors")


@app.command()
def plan(
    recipe: RecipeArgument,
    settings: SetOption = None,
    format_: FormatOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a run would read and make; starts no work."""
    from winnow.pipelines import exclude, plan_dedup, plan_reading, plan_report, report
    from winnow.pipelines.planning import plan as make_plan

    shown = _format(format_, json)
    made = make_plan(load(recipe, settings or []))
    plan_reading.check(made)
    plan_dedup.check(made)
    exclude.read_lists(made.recipe)
    facts = plan_report.plan_facts(made)
    match shown:
        case "json":
            print_json(facts)
        case "csv":
            sys.stdout.write(report.csv_text(plan_report.CSV_HEADER, plan_report.csv_rows(facts)))
        case "markdown":
            print("\n\n".join(map(report.markdown, plan_report.plan_grids(facts))))
        case _:
            plan_report.print_plan(facts)


def _format(given: str | None, json: bool) -> str:
    """One of the formats that tables have."""
    from winnow.pipelines.report import FORMATS

    if given is not None and given not in FORMATS:
        raise typer.BadParameter(
            f"{given!r} is no format; there are {', '.join(FORMATS)}", param_hint="--format"
        )
    if json and given not in (None, "json"):
        raise typer.BadParameter(f"--json and --format {given} are two formats")
    return "json" if json else given or "table"


app.command()(run_command.run)


@app.command()
def stats(
    run: RunArgument,
    by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Show the mixture by a field of mixture.group_by.")
    ] = None,
    format_: FormatOption = None,
    json: JsonOption = False,
) -> None:
    """Print the mixture table and what became of the documents."""
    from winnow.pipelines import mixture_by_field, mixture_report, report
    from winnow.pipelines.finished import open_run

    shown = _format(format_, json)
    facts = open_run(run).mixture
    if by is not None and by not in (known := mixture_by_field.fields_of(facts)):
        there = f"there are {', '.join(known)}" if known else "the recipe names none"
        raise typer.BadParameter(f"{by!r} is no field of mixture.group_by; {there}", param_hint="--by")
    match shown:
        case "json":
            print_json(facts if by is None else list(mixture_by_field.by_rows(facts, by)))
        case "csv" if by is not None:
            sys.stdout.write(report.csv_text(mixture_by_field.BY_HEADER, mixture_by_field.by_rows(facts, by)))
        case "csv":
            sys.stdout.write(report.csv_text(mixture_report.CSV_HEADER, mixture_report.csv_rows(facts)))
        case "markdown":
            grids = (
                mixture_report.mixture_grids(facts) if by is None else [mixture_by_field.by_grid(facts, by)]
            )
            print("\n\n".join(map(report.markdown, grids)))
        case _ if by is not None:
            report.print_grid(mixture_by_field.by_grid(facts, by), report.output())
        case _:
            report.print_report(facts)


@app.command()
def trace(
    run: RunArgument,
    stream: Annotated[
        str | None, typer.Option(help="Stream of the sample: a source, or `mixed` with `output: mixed`.")
    ] = None,
    split: Annotated[str, typer.Option(help="train or val.")] = "train",
    sample: Annotated[int | None, typer.Option(min=0, help="Number of the sample in its stream.")] = None,
    doc: Annotated[str | None, typer.Option(help="Id of a document: which samples is it in?")] = None,
    packing: Annotated[
        str | None,
        typer.Option(
            help="Of a run with several lengths or phases: `4096`, `phase-1`. Default: the first one; with --doc all."
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Show the sample's text too.")] = False,
    json: JsonOption = False,
) -> None:
    """Show which documents a training sample is made of, or which samples a document is in."""
    from dataclasses import asdict

    from winnow.pipelines import tracing_report
    from winnow.pipelines.finished import open_run
    from winnow.pipelines.tracing import Tracer

    if (doc is None) == (sample is None) or (sample is not None and stream is None):
        raise typer.BadParameter("give --stream and --sample, or --doc")
    tracer = Tracer(open_run(run))
    if doc is not None:
        if json:
            print_json(asdict(tracer.document(doc, packing)))
        else:
            names = [packing] if packing else [way.name for way in tracer.packings]
            print("\n".join(tracing_report.said_of_document([tracer.document(doc, name) for name in names])))
        return
    assert stream is not None
    assert sample is not None
    pieces = tracer.sample(stream, split, sample, packing)
    if json:
        print_json([asdict(p) for p in pieces])
        return
    for p in pieces:
        print(tracing_report.said_of_piece(p))
    if text:
        print(for_output(tracer.run.decode(tracer.tokens(stream, split, sample, packing))))


@app.command()
def verify(run: RunArgument, json: JsonOption = False) -> None:
    """Check index, sizes, hashes, counts and token range of the published shards."""
    from winnow.pipelines import verifying
    from winnow.pipelines.finished import open_run

    problems = list(verifying.verify(open_run(run)))
    if json:
        print_json(problems)
    else:
        for problem in problems:
            print(printable(problem))
        damaged = f"{_number_of(len(problems), 'problem')}; {verifying.DAMAGED}"
        print(damaged if problems else "the shards are whole")
    if problems:
        raise typer.Exit(1)


@app.command()
def export(
    run: RunArgument,
    format_: Annotated[str, typer.Option("--format", help="megatron, datatrove or parquet.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Directory or URL to write to.")],
    source: Annotated[list[str] | None, typer.Option(help="Only this source; repeatable.")] = None,
    split: Annotated[str | None, typer.Option(help="Only train or val.")] = None,
    json: JsonOption = False,
) -> None:
    """Write the stored tokens in another trainer's format; continue what DIR already holds of it."""
    from dataclasses import asdict
    from typing import cast

    from winnow.pipelines import export as exports
    from winnow.pipelines.finished import open_run
    from winnow.pipelines.numbers import show_count
    from winnow.shards import loss_mask

    if format_ not in exports.FORMATS:
        raise typer.BadParameter(
            f"{format_!r} is no format; there are {', '.join(exports.FORMATS)}", param_hint="--format"
        )
    splits = exports.SPLITS if split is None else (split,)
    opened = open_run(run)
    done = exports.export(opened, cast(exports.Format, format_), out, sources=source, splits=splits)
    if loss_mask.COLUMN in opened.recipe.shards.columns:
        print("which tokens are trained on (the column loss_mask) is not exported", file=sys.stderr)
    if json:
        print_json([asdict(part) for part in done])
        return
    for part in done:
        print(
            f"{part.source} {part.split}: {show_count(part.documents)} documents, {show_count(part.tokens)} tokens in "
            f"{_number_of(len(part.files), 'file')}; written now: {part.written}"
        )


@app.command()
def clean(
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them.")] = False,
    json: JsonOption = False,
) -> None:
    """List stage directories that the published run does not refer to; with --yes delete them."""
    from winnow.pipelines.finished import open_run
    from winnow.pipelines.lease import Lease
    from winnow.pipelines.numbers import show_bytes
    from winnow.shards import storage

    opened = open_run(run)
    if opened.is_linked:
        raise typer.BadParameter(
            f"{opened.location}/stages is a link: nothing is deleted through one", param_hint="RUN"
        )
    if yes:
        with Lease(opened.location):
            # Opened again: a run that ended just now refers to other directories.
            sizes = open_run(run).unreferenced()
            for path in sizes:
                storage.remove(storage.join(opened.location, path))
    else:
        sizes = opened.unreferenced()
    if json:
        print_json({"directories": sizes, "deleted": yes})
        return
    for path, size in sizes.items():
        print(f"{show_bytes(size):>10}  {printable(path)}")
    done = "deleted" if yes else "to delete them: --yes"
    found = "1 directory" if len(sizes) == 1 else f"{len(sizes)} directories"
    print(f"{show_bytes(sum(sizes.values()))} in {found}" + (f"; {done}" if sizes else ""))


app.command()(audit_command.audit)
app.command()(train_command.train)
app.command()(train_command.compare)


def _number_of(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `winnow`."""
    interrupt.watch()
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except RecipeError as error:
        from winnow.pipelines import ray_job

        _leave(2, ray_job.explained(str(error)))
    except BrokenPipeError as error:
        _end_of_pipe(error)
    except SystemExit as error:  # typer's, for a broken pipe and for completion
        if isinstance(error.__context__, BrokenPipeError):
            _end_of_pipe(error.__context__)
        raise
    except Exception as error:
        _leave(*_explained(error))
    sys.exit(code if isinstance(code, int) else 0)


def _end_of_pipe(error: BrokenPipeError) -> None:
    """Nothing is wrong when nobody reads standard output any more (`winnow trace … | head`)."""
    poll = select.poll()
    poll.register(1, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        os._exit(0)
    _leave(1, f"{error}")


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and message of an error; a traceback only for what is a fault of Winnow."""
    if isinstance(error, CommandLineError):
        return 2, _usage(error)
    user, failed = _known_errors()
    if isinstance(error, user):
        return 2, str(error)
    if isinstance(error, (*failed, OSError)):
        return 1, f"{error}"
    import traceback

    traceback.print_exc()
    return 1, "this is a fault of Winnow; please report it with the lines above"


def _usage(error: Any) -> str:
    """What is wrong with the command line, and where to read how it is meant."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help
        return message
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "winnow"
    return f"{message.rstrip('.')}; see {command} --help"


def _known_errors() -> tuple[tuple[type[BaseException], ...], tuple[type[BaseException], ...]]:
    """(errors in what the user gave, errors of the run) of the modules that are loaded."""
    names = (
        [("winnow.shards.inputs", "InputError"), ("winnow.pipelines.finished", "NotFinishedError"),
         ("winnow.pipelines.finished", "UnknownError"), ("winnow.pipelines.records", "SchemaError"),
         ("winnow.pipelines.lease", "LeaseError"), ("winnow.pipelines.export", "ExportError"),
         ("winnow.pipelines.train_settings", "TrainInputError")],
        [("winnow.pipelines.engine", "RunError"), ("winnow.pipelines.cluster", "ClusterError"),
         ("winnow.pipelines.train_settings", "TrainError")],
    )  # fmt: skip
    user, failed = (
        tuple(getattr(sys.modules[m], c) for m, c in group if m in sys.modules) for group in names
    )
    return user, failed


def _leave(code: int, message: str) -> None:
    """End at once: Ray's own shutdown may take longer than anybody waits."""
    print(printable(message), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
