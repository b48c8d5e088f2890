"""`tilehires run` killed in the middle of a pass goes on inside it, and ends with the bytes of a run that wasn't."""

from __future__ import annotations

import os
import signal

import pytest

from tests.batches import Workplace, draw, leftovers, outputs
from tests.faults.test_resume import in_a_fork
from tilehires.batch.runner import run
from tilehires.config import Config
from tilehires.diffusion.predictor import Predictor
from tilehires.diffusion.resume import State, StepFile
from tilehires.errors import ExitCode


@pytest.fixture
def config() -> Config:
    values = {"hires": {"steps": 5, "denoise": 0.4, "sampler": "DPM++ 2M SDE"}, "run": {"step_checkpoint": 0}}
    return Config.load().with_layer(values, "test")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    real = Predictor.__call__

    def counted(self: Predictor, *arguments: object) -> object:
        made.append(1)
        return real(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Predictor, "__call__", counted)
    return made


def test_killed_in_the_middle_of_a_pass_it_goes_on_inside_it(
    place: Workplace, config: Config, calls: list[int]
) -> None:
    draw(place.input / "photo.png", 48, 40)

    def die() -> None:
        real = StepFile.reached

        def until_the_third(self: StepFile, sampling: str, state: State) -> None:
            real(self, sampling, state)
            if state.done == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StepFile, "reached", until_the_third)
            run(config, place.input, place.output)

    assert in_a_fork(die) == -signal.SIGKILL
    cache = place.output / ".tilehires" / "cache"
    assert len(list(cache.glob("*/*.steps"))) == 1 and not list(cache.glob("*/*.npy"))

    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    assert len(calls) == 2, f"3 of 5 model calls were done before the kill, and {len(calls)} more were made"
    assert not list(cache.glob("*/*.steps")), "the stage is stored: nobody needs its state any more"
    assert not leftovers(place.output)

    calls.clear()
    assert run(config, place.input, place.root / "whole").exit_code == ExitCode.OK
    assert len(calls) == 5
    assert outputs(place.output) == outputs(place.root / "whole")


def test_interrupted_between_two_writes_it_loses_no_step(place: Workplace, config: Config, calls: list[int]) -> None:
    """Ctrl-C, and no interval has passed: what is done is kept all the same."""
    draw(place.input / "photo.png", 48, 40)
    slow = config.with_layer({"run": {"step_checkpoint": 600}}, "test")
    with pytest.MonkeyPatch.context() as patch:
        real = StepFile.reached

        def until_the_second(self: StepFile, sampling: str, state: State) -> None:
            real(self, sampling, state)
            if state.done == 2:
                raise KeyboardInterrupt

        patch.setattr(StepFile, "reached", until_the_second)
        assert run(slow, place.input, place.output).exit_code == ExitCode.INTERRUPTED
    calls.clear()
    assert run(slow, place.input, place.output).exit_code == ExitCode.OK
    assert len(calls) == 3
    never = config.with_layer({"run": {"step_checkpoint": -1}}, "test")
    assert run(never, place.input, place.root / "whole").exit_code == ExitCode.OK
    assert outputs(place.output) == outputs(place.root / "whole")
