"""A detector at work: on the device, or on the CPU, never beside another model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from tilehires import detectors
from tilehires.config.detail import DetailPass
from tilehires.config.settings import Settings
from tilehires.detectors import Detection, DetectorFile
from tilehires.diffusion.bay import Bay
from tilehires.errors import ConfigError, TilehiresError

# What broken weights and pictures make detectors raise; memory errors are the ladder's.
_BROKEN = (TilehiresError, ValueError, TypeError, RuntimeError, OSError, ArithmeticError, LookupError, AttributeError)


class DetectorFailedError(Exception):
    """A detector that threw; the message is its own, in a line."""


def looked_for(
    found: DetectorFile, pictures: Sequence[tuple[np.ndarray, float]], bay: Bay, *, on_cpu: bool = False
) -> list[tuple[Detection, ...]]:
    """What a detector finds in each of (float32 H×W×3 in [0, 1], least score); its weights are loaded and let go.

    One that works on the device has it to itself. `on_cpu`: none does. Raises DetectorFailedError for whatever broken
    weights and pictures make it raise; memory errors pass through.
    """
    device = "cpu" if on_cpu else str(bay.device)
    with bay.alone("detector") if found.on_device else contextlib.nullcontext():
        detector = detectors.make(found, device)
        try:
            return [detector.detect(pixels, confidence=confidence) for pixels, confidence in pictures]
        except torch.OutOfMemoryError:
            raise
        except _BROKEN as error:
            if isinstance(error, RuntimeError) and "memory" in str(error).lower():
                raise  # an allocator that isn't CUDA's
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise DetectorFailedError(f"The detector {found.name} failed: {said[0][:200]}") from error
        finally:
            detector.close()


def resolved(one: DetailPass) -> tuple[DetailPass, DetectorFile]:
    """The pass with what its detector's TOML says under what the settings give. Raises ConfigError, MissingError."""
    found = detectors.find(one.detector)
    try:
        return DetailPass.model_validate({**found.values, **one.model_dump(exclude_unset=True)}), found
    except ValueError as error:
        line = str(error).splitlines()
        raise ConfigError(
            f"The detector {found.origin} says what no detail pass knows: {' '.join(line[1:3])}.",
            hint="docs/settings.md, [[detail]], lists what it may say.",
        ) from error


def check_detector(settings: Settings) -> tuple[DetectorFile, float] | None:
    """The detector of the check on duplicated subjects, and the least score that counts; None where there is none.

    Raises ConfigError, MissingError.
    """
    named, passes = settings.check.duplicates_detector, settings.detail.passes
    wanted = not settings.check.only or "duplicates" in settings.check.only
    if not (settings.check.enabled and wanted) or named == "" or (named is None and not passes):
        return None
    looking, found = resolved(passes[0] if named is None else DetailPass.model_validate({"detector": named}))
    return found, looking.confidence
