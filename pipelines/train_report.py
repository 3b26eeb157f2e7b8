"""How is a training shown?

A plot of the loss and of held-out bits per byte over the tokens seen, and a table of the result.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.report import new_table, output
from winnow.shards import storage

POINTS = 500
"""Of the curve: each is the mean of as many steps as it takes."""


def put_plot(place: str, name: str, metrics: list[dict[str, Any]]) -> None:
    """Draw the metrics of a training as PNG. Raises ImportError without matplotlib (extra `train`)."""
    # The object-oriented interface: pyplot would keep figures, and choose a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(9, 4), layout="constrained")
    steps = [line for line in metrics if "loss" in line]
    judged = [line for line in metrics if "heldout" in line]
    axes = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    x, y = thinned([line["tokens"] for line in steps]), thinned([line["loss"] for line in steps])
    axes[0].plot(x, y, linewidth=1)
    axes[0].set(title=name, xlabel="tokens", ylabel="training loss, nats per token")
    if judged:
        for source in judged[-1]["heldout"]:
            tokens = [line["tokens"] for line in judged]
            axes[1].plot(
                tokens, [line["heldout"][source] for line in judged], marker=".", label=source.lstrip("_")
            )
        axes[1].set(title="held out", xlabel="tokens", ylabel="bits per byte")
        axes[1].legend()
    for plot in axes:
        plot.xaxis.set_major_formatter(EngFormatter(sep=""))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    storage.put_bytes(place, buffer.getvalue())


def thinned(values: list[float]) -> list[float]:
    """At most POINTS means of neighbours, in order."""
    parts = np.array_split(np.asarray(values, float), min(POINTS, len(values)) or 1)
    return [float(part.mean()) for part in parts if len(part)]


def print_result(result: dict[str, Any], out: str) -> None:
    """The result of a training, for a person."""
    console = output()
    print(
        f"{result['name']}: {show_count(result['parameters'])} parameters, {show_count(result['tokens'])} tokens in "
        f"{result['steps']:,} steps, {show_count(result['tokens_per_second'])} tokens/s; loss {result['loss']:.3f} "
        "nats per token"
    )
    if repeated := repeats(result["passes"]):
        print(repeated)
    if result["heldout"]:
        table = new_table("Held out")
        table.add_column("source", no_wrap=True)
        for column in ("samples", "text", "bits per byte"):
            table.add_column(column, justify="right")
        for source, bits in result["heldout"].items():
            text = show_bytes(result["heldout_bytes"][source])
            table.add_row(source, f"{result['heldout_rows'][source]:,}", text, f"{bits:.4f}")
        table.add_section()
        everything = show_bytes(sum(result["heldout_bytes"].values()))
        rows = sum(result["heldout_rows"].values())
        table.add_row("all", f"{rows:,}", everything, f"{result['bits_per_byte']:.4f}")
        console.print(table)
    print(f"loss.png, metrics.jsonl, result.json: {out}")


def repeats(passes: dict[str, float]) -> str:
    """Which sources a training reads more than once; "" if none."""
    found = [
        f"{name} {times:.1f} times"
        for name, times in sorted(passes.items(), key=lambda p: -p[1])
        if times > 1
    ]
    return f"read more than once: {', '.join(found)}" if found else ""
