"""How does a team's own score become a filter: a decorated function over a batch of documents.

The function lives in a package that is installed wherever Winnow runs::

    import pyarrow as pa
    import pyarrow.compute as pc
    from winnow.filters.plugin import score

    @score(version=1)
    def question_marks(documents: pa.RecordBatch, *, per_chars: int = 1000) -> pa.Array:
        texts = documents.column("text")
        marks = pc.count_substring(texts, "?")
        return pc.divide(pc.multiply(marks, float(per_chars)), pc.utf8_length(texts))

and a recipe names it: ``function: {call: "our_filters:question_marks", args: {per_chars: 500}, max: 20}``. It gets
the columns `id`, `text`, `key` and `meta` (JSON), and gives one number per document, or whether to keep it. What
it gives must depend on nothing but a document and the arguments; when it changes, its version does, and stored
scores are measured again. Letters: n documents.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator
from winnow.filters.rules import Rule, Signal

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class PluginError(ValueError):
    """Somebody else's code is not there, is not of the kind wanted, or fails."""


class Scorer:
    """A function that a recipe can call. Made by `score`; called itself, it does what the function does."""

    def __init__(self, function: Callable[..., Any], version: int | str) -> None:
        self.function = function
        self.version = version
        update_wrapper(self, function)

    def __call__(self, documents: pa.RecordBatch, **args: Any) -> Any:
        return self.function(documents, **args)


def score(*, version: int | str) -> Callable[[Callable[..., Any]], Scorer]:
    """Declare a function from a record batch (and keyword arguments) to an array as one that recipes can call.

    version : to be changed whenever the function gives other numbers than before.
    """
    return lambda function: Scorer(function, version)


class Function(BaseModel):
    """Keeps documents by what a user's function says of them.

    The signal is ``function.<as>``, float64; rules are ``function.<as>.min`` and so on. Without a bound the
    function has to say whether to keep a document, and the rule is ``function.<as>.keep``. Null and NaN are no
    number: no bound drops such a document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)
    name: ClassVar[str] = "function"

    call: str
    """`package.module:function`."""
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments."""
    min: float | None = None
    """Lowest number that passes."""
    max: float | None = None
    """Highest number that passes."""
    keep_fraction: float | None = Field(None, gt=0, le=1)
    """Share of the source's documents that pass, those with the highest numbers."""
    as_: str | None = Field(None, alias="as", min_length=1)
    """The signal's name after `function.`; None: the function's name."""

    @field_validator("call")
    @classmethod
    def _names_a_function(cls, call: str) -> str:
        module, colon, function = call.partition(":")
        if not colon or not all(part.isidentifier() for part in [*module.split("."), function]):
            raise ValueError(f"call is package.module:function, not {call!r}")
        return call

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> Self:
        if self.keep_fraction is not None and (self.min is not None or self.max is not None):
            raise ValueError("keep_fraction goes without min and max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max}): nothing would pass")
        return self

    @property
    def signal(self) -> str:
        """The name of its signal."""
        return f"{self.name}.{self.as_ or self.call.partition(':')[2]}"

    @property
    def _decides(self) -> bool:
        return self.min is None and self.max is None and self.keep_fraction is None

    def measures(self) -> tuple[FunctionScores, ...]:
        """The one measure. The function's module is imported when it is used, or asked for its identity."""
        return (FunctionScores(self.call, _json(self.args), self.signal, self._decides),)

    def rules(self) -> tuple[Rule, ...]:
        """One for each bound; without any, one that a document is to be kept."""
        score = Signal(self.signal)
        bounds: dict[str, dict[str, Any]] = {
            "min": {"minimum": self.min},
            "max": {"maximum": self.max},
            "keep_fraction": {"fraction": self.keep_fraction},
            "keep": {"minimum": 1 if self._decides else None},
        }
        return tuple(
            Rule(name=f"{self.signal}.{setting}", score=score, source=self.call, **bound)
            for setting, bound in bounds.items()
            if None not in bound.values()
        )


@dataclass(frozen=True, slots=True)
class FunctionScores:
    """Measures what a user's function says: one signal, float64."""

    call: str
    args: str
    """As JSON."""
    signal: str
    decides: bool
    """Whether the function has to say true or false."""

    @property
    def columns(self) -> Mapping[str, str]:
        return {self.signal: "float64"}

    def identity(self) -> Any:
        """Raises PluginError where there is no such function, or it does not take the arguments."""
        return [self.call, self.args, self._scorer().version]

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, np.ndarray]:
        """Raises PluginError where the function fails, or gives something else than an array of n numbers."""
        import json

        scorer = self._scorer()
        try:
            found = scorer.function(documents, **json.loads(self.args))
        except Exception as error:
            raise PluginError(f"the function {self.call} failed: {type(error).__name__}: {error}") from error
        return {self.signal: self._checked(found, documents.num_rows)}

    def _scorer(self) -> Scorer:
        import json

        scorer = imported(self.call)
        if not isinstance(scorer, Scorer):
            raise PluginError(
                f"{self.call} is not declared as a filter: put @score(version=1) above it "
                f"(from winnow.filters.plugin import score)"
            )
        try:
            inspect.signature(scorer.function).bind(None, **json.loads(self.args))
        except TypeError as error:
            raise PluginError(f"{self.call} does not take the args of the recipe: {error}") from error
        return scorer

    def _checked(self, found: Any, n: int) -> np.ndarray:
        import numpy as np
        import pyarrow as pa

        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if isinstance(found, pa.Array):
            known = pa.types.is_boolean(found.type)
            if known or pa.types.is_integer(found.type) or pa.types.is_floating(found.type):
                found = found.cast(pa.float64(), safe=False) if not known else found.cast(pa.uint8())
                found = found.to_numpy(zero_copy_only=False)
        else:
            known = isinstance(found, np.ndarray) and found.dtype.kind == "b"
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
            kind = getattr(found, "dtype", None) or getattr(found, "type", None) or type(found).__name__
            raise PluginError(f"{self.call} gave {kind}; wanted: an array of one number per document")
        if found.shape != (n,):
            raise PluginError(f"{self.call} gave an array of shape {found.shape} for {n} documents")
        if self.decides and not known:
            raise PluginError(f"{self.call} gives numbers: set min, max or keep_fraction")
        return found.astype(np.float64)


def imported(call: str) -> Any:
    """What ``package.module:name`` names. Raises PluginError where it cannot be imported."""
    module, _, name = call.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise PluginError(
                f"{call}: there is no module {error.name!r}; install the package it is in"
            ) from error
        raise PluginError(f"{call}: importing {module} failed: {error}") from error
    except Exception as error:
        raise PluginError(f"{call}: importing {module} failed: {type(error).__name__}: {error}") from error
    try:
        return getattr(found, name)
    except AttributeError:
        raise PluginError(f"{call}: the module {module} has no {name!r}") from None


def _json(args: Mapping[str, JsonValue]) -> str:
    import json

    return json.dumps(args, sort_keys=True, allow_nan=False)
