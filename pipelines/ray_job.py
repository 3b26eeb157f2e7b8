"""What is different when `winnow run` is a Ray job?

`ray job submit` ships the working directory: every node unpacks a copy of its own, somewhere in Ray's temporary files,
and Ray deletes it when the job has ended. Recipes and their small lists belong there; a corpus would be lost, and an
input file unpacked again has another time, so that a second submission would redo what the first recorded. Paths are
the cluster's: what lies only on the machine that submitted is nowhere.
"""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING

from winnow.shards import storage
from winnow.shards.inputs import InputError

if TYPE_CHECKING:
    from winnow.pipelines.planning import Plan

CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's name of the variable (not its value) in which a job's entry point finds its settings."""
ABSENT = ("matches no file", "there is no such file", "No such file or directory")
INSTEAD = "give an absolute path that every node sees, or a URL (docs/cluster.md)"


def working_directory() -> str | None:
    """Where the job's working directory was unpacked; None in no Ray job, and in one that was submitted without."""
    try:
        settings = json.loads(os.environ.get(CONFIG, ""))
        shipped = settings["runtime_env"].get("working_dir")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return os.path.realpath(os.getcwd()) if shipped else None


def check(plan: Plan, out: str) -> None:
    """Refuse a run whose corpus or sources lie in the job's working directory. Raises InputError, RecipeError."""
    if (folder := working_directory()) is None:
        return
    if _below(folder, out):
        raise InputError(
            f"--out {out} lies in the Ray job's working directory, of which every node has a copy and which is deleted "
            f"after the job; {INSTEAD}"
        )
    for source in plan.sources:
        if _below(folder, source.root):
            message = (
                f"source {source.name!r} lies in the Ray job's working directory, which ships recipes and small lists: "
                f"the files of a second submission count as others; {INSTEAD}"
            )
            raise plan.recipe.located(("sources", source.name, "read", "path"), message)


def explained(message: str) -> str:
    """An error's message; where a file is missing in a Ray job, with the machine on which it was looked for."""
    if CONFIG not in os.environ or not any(words in message for words in ABSENT):
        return message
    return (
        f"{message}\nin a Ray job paths are those of the cluster: this was looked for on {platform.node()}, "
        "not where the job was submitted"
    )


def _below(folder: str, location: str) -> bool:
    """Whether a location, which may not exist yet, lies in a folder."""
    if not storage.is_local(location):
        return False
    path = os.path.realpath(storage.local_path(location))
    return path == folder or path.startswith(folder + os.sep)
