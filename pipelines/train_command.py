"""`winnow train` and `winnow compare`: options, and what they print.

Imports nothing heavy: torch is there when a training begins.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from winnow.pipelines import interrupt
from winnow.pipelines.json_output import JsonOption, print_json
from winnow.pipelines.numbers import parse_count
from winnow.pipelines.train_settings import SHAPES, TrainInputError, TrainSettings

DEFAULT = TrainSettings()

ModelOption = Annotated[str, typer.Option(help=f"Size: {', '.join(SHAPES)}.")]
TokensOption = Annotated[
    str | None,
    typer.Option(metavar="COUNT", help="To train on, 5M for example; default: an epoch of the mixture."),
]
BatchOption = Annotated[int, typer.Option(help="Samples a step.")]
RateOption = Annotated[
    float | None, typer.Option("--learning-rate", help="At the peak; default: the model's.")
]
MaskOption = Annotated[
    bool,
    typer.Option("--mask-documents", help="Attention stays within a document (the samples' EOS mark them)."),
]
HeldoutTokensOption = Annotated[
    str, typer.Option(metavar="COUNT", help="About how many tokens of each held-out source to evaluate.")
]
EveryOption = Annotated[
    int | None,
    typer.Option(metavar="STEPS", help="Between checkpoints, each with an evaluation; default: five in all."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def train(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory or URL.")],
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="For checkpoints, metrics, plot and result.")
    ],
    heldout: Annotated[
        str | None,
        typer.Option(metavar="RUN2", help="Evaluate this run's held-out samples instead of RUN's."),
    ] = None,
    model: ModelOption = DEFAULT.model,
    tokens: TokensOption = None,
    batch: BatchOption = DEFAULT.batch,
    seed: Annotated[int, typer.Option(help="Of the initial weights and the order of samples.")] = 0,
    learning_rate: RateOption = None,
    mask_documents: MaskOption = False,
    heldout_tokens: HeldoutTokensOption = str(DEFAULT.heldout_tokens),
    every: EveryOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train a small model on a run and measure held-out bits per byte; goes on where it was interrupted."""
    settings = _settings(model, tokens, batch, seed, learning_rate, mask_documents, heldout_tokens, every)
    from winnow.pipelines import train_corpus

    train_corpus.need_streaming()
    from winnow.pipelines import train_loop, train_report

    result = _interruptible(
        lambda: train_loop.train(run, out, settings, heldout=heldout, device=device, say=_say)
    )
    if json:
        print_json(result)
    else:
        train_report.print_result(result, out)


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's directory or URL.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another's.")],
    heldout: Annotated[
        str, typer.Option(metavar="RUN_C", help="The run whose held-out samples are evaluated.")
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="For the trainings and compare.json.")],
    seeds: Annotated[int, typer.Option(help="Trainings on each run.")] = 3,
    model: ModelOption = DEFAULT.model,
    tokens: TokensOption = None,
    batch: BatchOption = DEFAULT.batch,
    seed: Annotated[int, typer.Option(help="The first; the others follow it.")] = 0,
    learning_rate: RateOption = None,
    mask_documents: MaskOption = False,
    heldout_tokens: HeldoutTokensOption = str(DEFAULT.heldout_tokens),
    every: EveryOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train the same small model on two runs and show held-out bits per byte side by side."""
    settings = _settings(model, tokens, batch, seed, learning_rate, mask_documents, heldout_tokens, every)
    from winnow.pipelines import compare as comparing

    facts = _interruptible(
        lambda: comparing.compare((run_a, run_b), heldout, out, settings, seeds, device=device, say=_say)
    )
    if json:
        print_json(facts)
    else:
        comparing.print_comparison(facts)


def _settings(
    model: str,
    tokens: str | None,
    batch: int,
    seed: int,
    learning_rate: float | None,
    mask_documents: bool,
    heldout_tokens: str,
    every: int | None,
) -> TrainSettings:
    try:
        return TrainSettings(
            model=model,
            tokens=None if tokens is None else parse_count(tokens),
            batch=batch,
            seed=seed,
            learning_rate=learning_rate,
            mask_documents=mask_documents,
            heldout_tokens=parse_count(heldout_tokens),
            every=every,
        )
    except TrainInputError:
        raise
    except ValueError as error:
        raise TrainInputError(str(error)) from error


def _interruptible(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from winnow.pipelines.train_stop import Stopped

    try:
        return work()
    except Stopped as stopped:
        _say(str(stopped))
        raise typer.Exit(interrupt.EXIT_CODE) from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
