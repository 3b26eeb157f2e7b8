"""How is a plan shown?"""

from __future__ import annotations

from typing import Any

from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.plan_dedup import dedup_facts
from winnow.pipelines.planning import Plan, training_memory
from winnow.pipelines.report import new_table, output


def plan_facts(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    weights = [s.source.weight for s in plan.sources]
    parts = [w if w is not None else s.token_estimate for w, s in zip(weights, plan.sources, strict=True)]
    whole = sum(parts) or 1.0
    available = sum(s.token_estimate for s in plan.sources)
    budget = plan.recipe.mixture.tokens or available
    sources = [
        {
            "name": s.name,
            "root": s.root,
            "files": len(s.files),
            "stored_bytes": s.stored_bytes,
            "splits": len(s.splits),
            "partitions": plan.partitions(s),
            "text_bytes_estimate": int(s.text_estimate),
            "tokens_estimate": int(s.token_estimate),
            "proportion": part / whole,
            "effective_tokens": part / whole * budget,
            "epochs_estimate": part / whole * budget / s.token_estimate if s.token_estimate else 0.0,
        }
        for s, part in zip(plan.sources, parts, strict=True)
    ]
    classifiers = {
        name: {
            "examples": {
                kind: {
                    s.name.split(".", 2)[2]: {"files": len(s.files), "stored_bytes": s.stored_bytes}
                    for s in parts_
                }
                for kind, parts_ in kinds.items()
            },
            "training_memory_bytes": training_memory(plan.recipe.classifiers[name].options),
        }
        for name, kinds in plan.examples.items()
    }
    return {
        "name": plan.recipe.name,
        "classifiers": classifiers,
        "sources": sources,
        "dedup": dedup_facts(plan),
        "budget_tokens": int(budget),
        "disk_bytes_estimate": int(plan.disk_estimate),
        "task_memory_bytes": plan.task_memory,
        "ray_memory_bytes": plan.recipe.limits.task_memory,
    }


def _example(name: str, facts: dict[str, Any]) -> str:
    return f"{name} ({show_bytes(facts['stored_bytes'])})"


def _step_line(step: dict[str, Any]) -> str:
    if step["step"] == "decontaminate":
        return f"decontaminate: {', '.join(step['group'])}"
    line = f"{step['step']} dedup: {', then '.join(step['group'])}"
    if len(step["group"]) > 1:
        line += " (the first named keeps)"
    if step["partitions"]:
        rounds = f" in {step['rounds']} rounds" if step["rounds"] > 1 else ""
        line += f"; exchange ~ {show_bytes(step['exchange_bytes_estimate'])}, {step['partitions']:,} partitions{rounds}"
    if step["kept_bytes_estimate"]:
        line += f"; kept for later runs ~ {show_bytes(step['kept_bytes_estimate'])}"
    if "filter_bytes_estimate" in step:
        line += f"; {step['shards']:,} shards, a filter ~ {show_bytes(step['filter_bytes_estimate'])}"
    return line


def print_plan(facts: dict[str, Any]) -> None:
    """The plan on standard output; estimates are marked with ~."""
    console = output()
    table = new_table(f"Plan of {facts['name']}")
    table.add_column("source", no_wrap=True)
    for column in (
        "files",
        "stored",
        "splits",
        "~ text",
        "~ tokens",
        "proportion",
        "effective tokens",
        "~ epochs",
    ):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for s in facts["sources"]:
        table.add_row(
            s["name"],
            f"{s['files']:,}",
            show_bytes(s["stored_bytes"]),
            f"{s['splits']:,}",
            show_bytes(s["text_bytes_estimate"]),
            show_count(s["tokens_estimate"]),
            f"{s['proportion']:.2%}",
            show_count(s["effective_tokens"]),
            f"{s['epochs_estimate']:.2f}",
        )
    console.print(table)
    for name, classifier in facts["classifiers"].items():
        shown = "; ".join(
            f"{kind} {', '.join(_example(n, e) for n, e in examples.items())}"
            for kind, examples in classifier["examples"].items()
        )
        memory = show_bytes(classifier["training_memory_bytes"])
        console.print(f"classifier {name}: trained first, on {shown}; memory ~ {memory}", highlight=False)
    for step in facts["dedup"]:
        console.print(_step_line(step), highlight=False)
    console.print(
        f"disk below RUN ~ {show_bytes(facts['disk_bytes_estimate'])}; a task holds up to "
        f"~ {show_bytes(facts['task_memory_bytes'])} and asks Ray for {show_bytes(facts['ray_memory_bytes'])}"
    )
    console.print("Estimates (~) are before filters and dedup. Nothing was started.")
