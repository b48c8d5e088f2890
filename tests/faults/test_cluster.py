"""A run shared among workers by Ray: the images and records of one process, whoever dies, and from either to the other."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batches import FAST, Workplace, draw, leftovers, outputs
from tests.stores import listed, stored
from tilehires.batch.runner import RunOptions, run
from tilehires.batch.summary import Summary
from tilehires.config import Config
from tilehires.config.layers import Rank
from tilehires.errors import ExitCode

pytest.importorskip("ray", reason="Ray isn't installed: pip install 'tilehires[cluster]'")

from tilehires.batch.cluster import Cluster, joined  # noqa: E402

BROKEN = b"\x89PNG\r\n\x1a\nbroken"
RUN: dict[str, Any] = {"device": "cpu", "decode_isolated": False}
VOLATILE = ("seconds", "peak_memory_bytes", "cached")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers on this machine; whoever is killed is replaced. Their halves of stores are their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("workers")))
        with joined("local", workers=2) as workers:
            yield workers


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The output folder, and the summary, of the same images in this process alone."""
    root = tmp_path_factory.mktemp("alone")
    three(root / "in")
    (root / "in" / "broken.png").write_bytes(BROKEN)
    return root / "out", run(config(), root / "in", root / "out")


def config(**run_: Any) -> Config:
    """The built-in model."""
    return Config.load().with_layer({"hires": {"steps": 2}, "run": RUN | run_}, "test", Rank.PRESET)


def quick(**run_: Any) -> Config:
    """No model."""
    hires = {"denoise": 0.0, "upscaler": "Lanczos"}
    return Config.load().with_layer({"hires": hires, "run": RUN | run_}, "test")


def by(cluster: Cluster, place: Workplace, settings: Config) -> Summary:
    return run(settings, place.input, place.output, options=RunOptions(cluster=cluster))


def three(folder: Path) -> None:
    """Small images; the first and the last take long enough to be killed in."""
    for seed, name in enumerate(("a.png", "b.png", "d/d.png")):
        draw(folder / name, 24, 16, seed)
    for name in ("a.toml", "d/d.toml"):
        (folder / name).write_text("[hires]\nsteps = 30\n", encoding="utf-8")


def steady(value: Any) -> Any:
    """A report's value without what two equal runs may differ in."""
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if key not in VOLATILE}
    return [steady(one) for one in value] if isinstance(value, list) else value


def test_images_and_records_are_those_of_one_process(
    place: Workplace, cluster: Cluster, alone: tuple[Path, Summary]
) -> None:
    three(place.input)
    (place.input / "broken.png").write_bytes(BROKEN)
    made, (folder, whole) = by(cluster, place, config()), alone
    assert made.counts() == whole.counts() and made.failed == 1 and made.exit_code == ExitCode.IMAGES_FAILED
    assert outputs(place.output) == outputs(folder) and len(outputs(folder)) == 3
    records = [steady(record.to_json()) for record in made.records]
    theirs = json.dumps([steady(record.to_json()) for record in whole.records])
    assert json.dumps(records) == theirs.replace(str(folder.parent / "in"), str(place.input))
    environments = {str(stage.environment) for record in made.records for stage in record.stages if stage.environment}
    assert len(environments) == 1 and "'threads': 1" in environments.pop()
    assert not leftovers(place.output) and not list((place.output / ".tilehires").glob("outputs-*"))


def test_a_run_goes_on_on_the_cluster_and_back(place: Workplace, cluster: Cluster) -> None:
    three(place.input)
    assert run(quick(limit=1), place.input, place.output).done == 1
    begun_here = by(cluster, place, quick(limit=2))
    assert (begun_here.done, begun_here.cached) == (2, 1)
    begun_there = run(quick(), place.input, place.output)
    assert (begun_there.done, begun_there.cached) == (3, 2)
    assert by(cluster, place, quick()).cached == 3
    # Other bits are another file of the same stages, wherever they were made.
    written = by(cluster, place, quick(bits="16"))
    assert [[stage.cached for stage in record.stages] for record in written.records] == [[True, True, False]] * 3
    assert run(quick(bits="16"), place.input, place.root / "whole").done == 3
    assert outputs(place.output) == outputs(place.root / "whole")


def test_ctrl_c_keeps_what_was_reached_and_the_next_run_goes_on(
    place: Workplace, cluster: Cluster, alone: tuple[Path, Summary]
) -> None:
    three(place.input)
    cache = place.output / ".tilehires" / "cache"

    def stop() -> None:
        while not list(cache.rglob("*.steps")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    stopped = by(cluster, place, config(step_checkpoint=0, limit=1))
    assert stopped.exit_code == ExitCode.INTERRUPTED and stopped.left == 3
    assert len(list(cache.rglob("*.steps"))) == 1 and not leftovers(place.output)
    assert not cluster.at_work
    assert run(config(), place.input, place.output).exit_code == ExitCode.OK
    assert outputs(place.output) == outputs(alone[0])


def test_a_killed_workers_images_are_done_by_others(
    place: Workplace, cluster: Cluster, alone: tuple[Path, Summary]
) -> None:
    three(place.input)
    killed: list[str] = []

    def kill() -> None:
        while "d/d.png" not in (at_work := cluster.at_work):
            time.sleep(0.01)
        killed.extend(name for name, process in at_work.items() if process == at_work["d/d.png"])
        os.kill(at_work["d/d.png"], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    made = by(cluster, place, config())
    assert len(killed) == 2, "the one at work, and the one behind it"
    assert made.done == 3 and made.exit_code == ExitCode.OK
    assert not leftovers(place.output) and not list((place.output / ".tilehires").glob("outputs-*"))
    events = next((place.output / ".tilehires" / "runs").iterdir()).read_text(encoding="utf-8")
    assert all(events.count(f"{name}: its worker died") == 1 for name in killed)
    assert events.count("its worker died") == 2
    assert run(config(), place.input, place.output).cached == 3
    assert outputs(place.output) == outputs(alone[0])


def test_into_a_store_from_one_machine_to_a_cluster_of_others_and_back(
    place: Workplace, cluster: Cluster, alone: tuple[Path, Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    three(place.input)
    url = f"file://{place.root}/store"

    def at(half: str, source: Path, hands: Cluster | None = None) -> Summary:
        monkeypatch.setenv("XDG_CACHE_HOME", str(place.root / half))
        return run(config(), source, url, options=RunOptions(cluster=hands))

    def kill() -> None:
        while "d/d.png" not in (at_work := cluster.at_work):
            time.sleep(0.01)
        os.kill(at_work["d/d.png"], signal.SIGKILL)

    assert at("one", place.input / "a.png").done == 1
    threading.Thread(target=kill, daemon=True).start()
    made = at("driver", place.input, cluster)
    assert (made.done, made.cached) == (3, 1) and made.exit_code == ExitCode.OK
    assert stored(url) == outputs(alone[0])
    assert not list((place.root / "driver").rglob("[ad].png")), "the driver needs no pixels"
    left = [name for name in listed(url) if "tmp" in name or "lock" in name or "going" in name]
    assert not left and sum(name.startswith("report/thumbs") for name in listed(url)) == 3
    again = at("another", place.input)
    assert again.cached == 3
    theirs = {record.id: steady(record.to_json()) for record in alone[1].records}
    folder = str(alone[0].parent / "in")
    for record in again.records:
        assert json.dumps(steady(record.to_json())) == json.dumps(theirs[record.id]).replace(folder, str(place.input))


def test_ray_that_isnt_there_is_a_missing_dependency(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = place.run(*FAST, "--cluster", "local")
    assert ended.code == ExitCode.MISSING and "pip install 'tilehires[cluster]'" in ended.err
    assert not place.output.exists()


def test_workers_alone_are_refused(place: Workplace) -> None:
    draw(place.input / "a.png")
    ended = place.run(*FAST, "--workers", "2")
    assert ended.code == ExitCode.USAGE and "--cluster" in ended.err
