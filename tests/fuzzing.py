"""Fuzzing: seeds, mutations, and what must hold for every case. What is fuzzed stands in fuzz_targets.py.

Case `n` of a target is always the same bytes, so that one which fails can be made again: `data(target, n)`. Shared by
tests/faults/test_fuzz.py (2,000 cases) and benchmarks/fuzz.py (as many as asked for).
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tests import pictures
from tilehires.images import Isolated

SLOWEST = 15.0
"""Seconds that one case may take; none should come near."""
_NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Target:
    """One way in. `run` takes a case's bytes and says how it ended; whatever it raises is a bug."""

    name: str
    seeds: Callable[[], tuple[bytes, ...]]
    run: Callable[[bytes, Places], str]
    tokens: tuple[bytes, ...] = ()
    mend: Callable[[bytes], bytes] = bytes
    """Makes checksums and lengths right again, so that half of the cases get past them."""
    weight: int = 1


@dataclass(frozen=True)
class Places:
    """A folder of the fuzzing's own, and the process that decodes."""

    folder: Path
    decoder: Isolated


def data(target: Target, number: int) -> bytes:
    """Case `number` of a target."""
    chance = random.Random(f"{target.name} {number}")
    seeds = _seeds(target)
    made = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        _mutate(made, chance, seeds, target.tokens)
    return target.mend(bytes(made)) if chance.random() < 0.5 else bytes(made)


@cache
def _seeds(target: Target) -> tuple[bytes, ...]:
    pictures.RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state  # whatever ran before
    return target.seeds()


def _mutate(made: bytearray, chance: random.Random, seeds: tuple[bytes, ...], tokens: tuple[bytes, ...]) -> None:
    at = chance.randrange(len(made) + 1)
    length = min(chance.choice((1, 2, 4, 8, 40)), len(made) - at)
    match chance.choice((0, 1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 8, 8)[: None if tokens else -3]):
        case 0 if length:
            made[at] ^= 1 << chance.randrange(8)
        case 1 if length:
            made[at] = chance.choice(_NUMBERS) & 255
        case 2:
            form = chance.choice((">H", "<H", ">I", "<I"))
            number = chance.choice(_NUMBERS) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
            made[at : at + struct.calcsize(form)] = struct.pack(form, number)
        case 3:
            del made[at : at + length]
        case 4:
            made[at:at] = made[at : at + length] * chance.choice((1, 1, 3, 200))
        case 5:
            made[at:at] = chance.randbytes(chance.choice((1, 3, 17)))
        case 6:
            del made[at:]
        case 7:
            other = chance.choice(seeds)
            cut = chance.randrange(len(other) + 1)
            made[at:] = other[cut:]
        case 8:
            made[at : at + chance.choice((0, length))] = chance.choice(tokens)


def cases(targets: Sequence[Target], count: int) -> Iterator[tuple[Target, int]]:
    """`count` cases of all targets by their weights, in turns."""
    turns = [target for target in targets for _ in range(target.weight)]
    for number in range(count):
        yield turns[number % len(turns)], number // len(turns)


def attempt(target: Target, number: int, places: Places) -> tuple[str, float]:
    """(how a case ended, seconds). Raises AssertionError that names the case where something must not be."""
    body = data(target, number)
    began = time.perf_counter()
    try:
        ended = target.run(body, places)
    except Exception as error:
        raise AssertionError(f"{target.name}, case {number}: {type(error).__name__}: {error}") from error
    took = time.perf_counter() - began
    assert took < SLOWEST, f"{target.name}, case {number}: {took:.1f} s"
    return ended, took
