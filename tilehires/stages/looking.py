"""A detector at work: on the device, or on the CPU, never beside another model."""

from __future__ import annotations

import contextlib

import numpy as np

from tilehires import detectors
from tilehires.detectors import Detection, DetectorFile
from tilehires.diffusion.bay import Bay


def looked_for(
    found: DetectorFile, pixels: np.ndarray, confidence: float, bay: Bay, *, on_cpu: bool = False
) -> tuple[Detection, ...]:
    """What a detector finds in `pixels` (float32 H×W×3 in [0, 1]); its weights are loaded and let go.

    One that works on the device has it to itself. `on_cpu`: none does. Raises whatever broken weights and pictures make it
    raise.
    """
    device = "cpu" if on_cpu else str(bay.device)
    with bay.alone("detector") if found.on_device else contextlib.nullcontext():
        detector = detectors.make(found, device)
        try:
            return detector.detect(pixels, confidence=confidence)
        finally:
            detector.close()
