"""A detector at work: on the device, or on the CPU, never beside another model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from tilehires import detectors
from tilehires.config.settings import Settings
from tilehires.detectors import Detection, DetectorFile
from tilehires.diffusion.bay import Bay
from tilehires.errors import TilehiresError

CONFIDENCE = 0.3
"""Of a detector whose TOML says none: DetailPass's own."""
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


def check_detector(settings: Settings) -> tuple[DetectorFile, float] | None:
    """The detector of the check on duplicated subjects, and the least score that counts; None where there is none.

    Raises ConfigError, MissingError.
    """
    named = settings.check.duplicates_detector
    wanted = not settings.check.only or "duplicates" in settings.check.only
    if not (settings.check.enabled and wanted) or named == "":
        return None
    if named is not None:
        found = detectors.find(named)
        return found, float(found.values.get("confidence", CONFIDENCE))
    if not settings.detail.passes:
        return None
    first = settings.detail.passes[0]
    found = detectors.find(first.detector)
    if "confidence" in first.model_fields_set:
        return found, first.confidence
    return found, float(found.values.get("confidence", CONFIDENCE))
