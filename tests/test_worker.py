"""Does the driver hear of every error of a task, whatever its class?"""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
from ray import cloudpickle
from winnow.pipelines import worker
from winnow.pipelines.agreement import Disagreement, Pact
from winnow.shards.storage_errors import RefusedError


class Odd(OSError):
    """Cannot be rebuilt: pickle gives its class the message alone."""

    def __init__(self, message: str, *, code: int):
        super().__init__(message)
        self.code = code


class Final(Odd):
    permanent = True


class Locked(ValueError):
    """Cannot be pickled."""

    def __init__(self, message: str):
        super().__init__(message)
        self.lock = threading.Lock()


class NoMemory(MemoryError):
    def __init__(self, message: str, *, size: int):
        super().__init__(message)


class Wicked(RuntimeError):
    def __reduce__(self) -> Any:
        raise RecursionError("again and again")


@pytest.fixture
def perform(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """What a plain task, and a task of an actor, do with an error."""
    monkeypatch.setattr(worker, "_entered", {"place"})

    def fails(spec: Exception, outputs: Any) -> dict[str, Any]:
        raise spec

    pact = Pact(str(tmp_path), "place")
    return [
        lambda error: worker.task_function(pact)(str(tmp_path), 0, fails, error),
        lambda error: worker.Worker(pact).perform(str(tmp_path), 0, fails, error),
    ]


@pytest.mark.parametrize(
    ("error", "kind", "permanent"),
    [
        (Odd("AKIAIOSFODNN7EXAMPLE away", code=503), OSError, False),
        (Final("AKIAIOSFODNN7EXAMPLE away", code=503), OSError, True),
        (Locked("AKIAIOSFODNN7EXAMPLE away"), RuntimeError, False),
        (NoMemory("AKIAIOSFODNN7EXAMPLE away", size=3), MemoryError, False),
        (Wicked("AKIAIOSFODNN7EXAMPLE away"), RuntimeError, False),
    ],
)
def test_an_error_that_cannot_travel_is_said_by_one_that_can(perform, error, kind, permanent) -> None:
    for each in perform:
        with pytest.raises(kind) as caught:
            each(error)
        assert type(caught.value) is kind
        for found in (caught.value, cloudpickle.loads(cloudpickle.dumps(caught.value))):
            assert str(found) == f"{type(error).__name__}: (key id) away"
            assert getattr(found, "permanent", False) == permanent


@pytest.mark.parametrize(
    "error",
    [OSError(28, "full"), RefusedError("no"), ValueError("a row"), Disagreement("numba"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_can_travel_stays_what_it_is(perform, error) -> None:
    for each in perform:
        with pytest.raises(type(error)) as caught:
            each(error)
        assert caught.value is error
        assert pickle.loads(pickle.dumps(error)).args == error.args


def test_an_error_of_the_agreement_travels_too(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(pact: Pact) -> None:
        raise Odd("away", code=503)

    monkeypatch.setattr(worker, "enter", fails)
    pact = Pact(str(tmp_path), "place")
    for ask in (
        worker.Worker(pact).ready,
        lambda: worker.task_function(pact)("", 0, lambda spec, outputs: {}, None),
    ):
        with pytest.raises(OSError, match=r"^Odd: away$"):
            ask()
