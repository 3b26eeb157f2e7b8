"""`winnow run`: its options, and what is printed when a run has come to its end."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from winnow.pipelines.json_output import JsonOption, print_json
from winnow.pipelines.recipe import load, shipped


def _recipes(incomplete: str) -> list[str]:
    return [name for name in shipped() if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A path, or the name of a recipe that ships with Winnow.",
                   autocompletion=_recipes),
]  # fmt: skip
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change the recipe; repeatable.")
]


def run(
    recipe: RecipeArgument,
    out: Annotated[str, typer.Option("--out", metavar="RUN", help="Directory or URL to make the corpus in.")],
    settings: SetOption = None,
    until: Annotated[
        str | None, typer.Option(help="Stop after: documents, filters, dedup, tokens, stream or shards.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray to connect to; default: start Ray here.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks at a time; default: all cores.")] = None,
    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Directory on every node's own disk for files that are not finished; default: TMPDIR.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make the corpus; continue whatever RUN already holds for this recipe."""
    checked = load(recipe, settings or [])
    use_scratch(scratch)
    from winnow.pipelines.corpus import STAGES
    from winnow.pipelines.corpus import run as make

    if until is not None and until not in STAGES:
        raise typer.BadParameter(
            f"{until!r} is no stage; there are {', '.join(STAGES)}", param_hint="--until"
        )
    corpus = make(checked, out, until=until, address=address, workers=workers)
    if corpus.mixture is None:
        print(f"stopped after {until}; the same command without --until continues {corpus.location}")
        return
    if json:
        print_json(corpus.mixture)
        return
    from winnow.pipelines.report import print_report
    from winnow.shards import loss_mask
    from winnow.shards.feed import lines_for_reading
    from winnow.shards.storage import join

    print_report(corpus.mixture)
    _print_speed(corpus)
    streams = join(corpus.location, "streams.yaml")
    print(f"\nShards, and how to mix them: {streams}\nTo stream them:\n")
    print(lines_for_reading(streams, masked=loss_mask.COLUMN in checked.shards.columns))


def use_scratch(given: str | None) -> None:
    """Let this process, and those of a Ray that is started from here, keep unfinished files there."""
    if given is None:
        return
    from winnow.shards import scratch, storage

    if not storage.is_local(given):
        raise typer.BadParameter(
            f"{given} is no directory of this machine; scratch is a disk that every node has",
            param_hint="--scratch",
        )
    os.environ[scratch.VARIABLE] = storage.absolute(given)


def _print_speed(corpus: Any) -> None:
    from winnow.pipelines.numbers import show_bytes, show_count

    text = sum(s["text_bytes"] for s in corpus.mixture["sources"])
    tokens = sum(s["tokens"] for s in corpus.mixture["sources"])
    cpu = sum(corpus.cpu_seconds.values())
    print(
        f"\n{show_bytes(text)} of text and {show_count(tokens)} tokens in {corpus.seconds:.1f} s: "
        f"{show_bytes(text / corpus.seconds)}/s, {show_count(tokens / corpus.seconds)} tokens/s"
    )
    if cpu:
        most = sorted(((v / cpu, k) for k, v in corpus.cpu_seconds.items()), reverse=True)
        shares = ", ".join(f"{k} {share:.0%}" for share, k in most if share >= 0.005)
        print(f"CPU of the tasks that ran now: {cpu:.1f} s ({shares})")
