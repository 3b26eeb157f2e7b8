"""What is run, in which order, on what: recipes, the engine that maps work over Ray, the command line.

The public Python interface of Winnow:

    load(recipe, overrides)      a recipe from a path or the name of one that ships with Winnow
    plan(recipe)                 what a run would read and make; starts no work
    run(recipe, out)             make the corpus, or continue it
    open_run(out)                a finished run: its mixture, samples, documents and checks
"""

from winnow.pipelines.recipe import load

__all__ = ["load", "open_run", "plan", "run"]


def __getattr__(name: str):
    # The other three import NumPy and Arrow, which `winnow --help` and `validate` do without.
    if name == "plan":
        from winnow.pipelines.planning import plan

        return plan
    if name == "run":
        from winnow.pipelines.corpus import run

        return run
    if name == "open_run":
        from winnow.pipelines.finished import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
