"""The workers of a cluster, as the driver holds them: Ray's actors, begun, asked, replaced and ended."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tilehires import __version__
from tilehires.batch.worker import Orders, Settled, Worker
from tilehires.config import Config
from tilehires.errors import ConfigError, MissingError, RunError

START = 300.0
"""Seconds that a new worker may take to be there: a busy cluster, or a slow disk with many models."""
GRACE = 10.0
"""Seconds that workers have, once the run is stopped, to keep what their passes have reached."""
_PASSED_ON = ("HF_HUB_OFFLINE", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")


@dataclass(frozen=True)
class Member:
    """One worker. `began`: when it was asked for. `pid`: its process, on its machine."""

    name: str
    actor: Any
    began: float
    pid: int = 0


@dataclass(frozen=True)
class _Coming:
    """One that takes the place of a worker that died: what it answers to `settle` and to `begin`."""

    member: Member
    settled: Any
    begun: Any


class Members:
    """All workers. They keep their processes from one run to the next."""

    def __init__(self, ray: Any, wanted: int) -> None:
        """`wanted`: how many; 0 is one for each GPU, and where there is none, one for each machine."""
        self._ray = ray
        self._wanted = wanted
        self._count = 0
        self._gpus = False
        self._token = os.urandom(4).hex()
        self.there: list[Member] = []
        self._coming: list[_Coming] = []

    @property
    def awaited(self) -> list[Any]:
        """What Ray has ready when a worker that was asked for is there."""
        return [one.begun for one in self._coming]

    def gather(self, device: str) -> None:
        """Have as many workers as were asked for, on GPUs or not as the device says."""
        if device.startswith("cuda:"):
            raise ConfigError(
                f"--device {device} names one GPU, and a cluster has each worker on its own.",
                hint="Leave --device away; CUDA_VISIBLE_DEVICES chooses the GPUs that there are.",
            )
        resources = self._ray.cluster_resources()
        there = int(resources.get("GPU", 0))
        gpus = device in ("auto", "cuda") and there > 0
        if device == "cuda" and not gpus:
            raise MissingError("The cluster has no GPU.", hint="Leave --device away.")
        if gpus != self._gpus:
            self.end_all()
        self._gpus = gpus
        machines = sum(name.startswith("node:") and name != "node:__internal_head__" for name in resources)
        most = there if gpus else int(resources.get("CPU", 1))
        wanted = self._wanted or (there if gpus else machines)
        if wanted > most:
            what = "GPUs" if gpus else "CPUs"
            raise ConfigError(f"--workers {wanted}, and the cluster has {most} {what}.", hint=f"At most {most} fit.")
        while len(self.there) < wanted:
            self.there.append(self._new())

    def _new(self) -> Member:
        self._count += 1
        name = f"{self._token}-{self._count}"
        threads = torch.get_num_threads()
        variables = {"OMP_NUM_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}
        variables |= {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        actor = (
            self._ray.remote(Worker)
            .options(
                num_cpus=0 if self._gpus else 1,
                num_gpus=1 if self._gpus else 0,
                max_restarts=0,
                scheduling_strategy="SPREAD",
                runtime_env={"env_vars": variables},
            )
            .remote(name, Path.cwd(), threads)
        )
        return Member(name, actor, time.monotonic())

    def settle(self, config: Config) -> list[Settled]:
        """Have all of them settle a run. Raises RunError."""
        settled = self._ask(lambda member: member.actor.settle.remote(config))
        self.there = [replace(member, pid=one.pid) for member, one in zip(self.there, settled, strict=True)]
        _check(settled, config)
        return settled

    def begin(self, orders: Orders) -> None:
        """Have all of them take up a run. Raises RunError."""
        self._ask(lambda member: member.actor.begin.remote(orders))

    def renew(self, member: Member, config: Config, orders: Orders) -> None:
        """Ask for another in place of one that died."""
        self.drop(member)
        new = self._new()
        self._coming.append(_Coming(new, new.actor.settle.remote(config), new.actor.begin.remote(orders)))

    def admit(self, note: Callable[[str], None]) -> None:
        """Take in who has come. Raises RunError when nobody is left."""
        for one in list(self._coming):
            late = time.monotonic() - one.member.began > START
            if not late and not self._ray.wait([one.begun], timeout=0)[0]:
                continue
            self._coming.remove(one)
            try:
                settled, error = self._ray.get([one.settled, one.begun], timeout=0)
            except self._ray.exceptions.RayError as raised:
                settled, error = None, RunError(f"it wasn't there within {START:g} s" if late else reason(raised))
            if isinstance(settled, Settled) and error is None:
                self.there.append(replace(one.member, pid=settled.pid))
                continue
            self.drop(one.member)
            note(f"A new worker couldn't start: {error or settled}")
        if not (self.there or self._coming):
            raise RunError("No worker is left.", hint="Start the same command again: what is done is kept.")

    def drop(self, member: Member) -> None:
        """End one."""
        self.there = [one for one in self.there if one.name != member.name]
        self._ray.kill(member.actor)

    def leave(self) -> None:
        """Have all of them leave their output folder; who doesn't is ended."""
        for one in self._coming:
            self._ray.kill(one.member.actor)
        self._coming = []
        asked = [(member, member.actor.end.remote()) for member in self.there]
        for member, ref in asked:
            try:
                self._ray.get(ref, timeout=GRACE)
            except self._ray.exceptions.RayError:
                self.drop(member)

    def end_all(self) -> None:
        """End all of them."""
        for member in (*self.there, *(one.member for one in self._coming)):
            self._ray.kill(member.actor)
        self.there, self._coming = [], []

    def _ask(self, call: Callable[[Member], Any]) -> list[Any]:
        """Each member's answer. Raises the first error that one answers with, and RunError for one that dies or is silent."""
        refs = [call(member) for member in self.there]
        late = time.monotonic() + START
        while pending := self._ray.wait(refs, num_returns=len(refs), timeout=1)[1]:
            if time.monotonic() > late:
                raise RunError(
                    f"{len(pending)} of {len(refs)} workers weren't there within {START:g} s.",
                    hint="Is something else using the cluster? `ray status` tells; --workers asks for fewer.",
                )
        try:
            answers = self._ray.get(refs)
        except self._ray.exceptions.RayError as error:
            raise RunError(
                f"A worker couldn't start: {reason(error)}",
                hint="Every machine of the cluster needs the same Python, Ray and tilehires[cluster].",
            ) from error
        for answer in answers:
            if isinstance(answer, RunError):
                raise answer
        return answers


def _check(settled: Sequence[Settled], config: Config) -> None:
    """Raise ConfigError for workers that can't make the same images."""
    for one in settled:
        if one.version != __version__:
            raise ConfigError(
                f"{one.host} has tilehires {one.version}, and {platform.node()} {__version__}.",
                hint="Install the same version on all machines.",
            )
    environments = {tuple(sorted({**one.environment, "tile_batch": 0, "region_batch": 0}.items())) for one in settled}
    if len(environments) > 1 and config.settings.run.deterministic:
        raise ConfigError(
            "The cluster's machines differ in device, number format or torch, so their images would too.",
            hint="Leave --deterministic away, or use machines that are alike.",
        )


def reason(error: Exception) -> str:
    """The telling line of one of Ray's long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "killed" in line or "died" in line]
    return (telling or lines or [type(error).__name__])[-1].partition(" Some common causes")[0][:300]
