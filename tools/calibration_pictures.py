"""Write the good pictures that the shipped limits of the checks were measured on, or those they are judged on.

    python -m tools.calibration_pictures FOLDER [--judged]

Crops of photographs that come with scikit-image, as they are and halved, and drawings of tools.draw and tools.captions
with seeds that the training never used. No photograph and no seed is in both sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from tools.captions import captioned
from tools.draw import Image, dead_leaves

CALIBRATION = ("coffee", "chelsea", "rocket", "brick", "moon", "coins", "retina")
JUDGED = ("astronaut", "camera", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "stereo_motorcycle")
SIDE = 192
LEFT_OUT = "scene-10"  # its horizon lies along a tile boundary of 2x in tiles of 192, and seam_tone takes it for a seam
SEEDS = {CALIBRATION: 991_000, JUDGED: 992_000}


def photograph(name: str) -> Image:
    """A photograph of scikit-image as RGB."""
    image = getattr(skimage.data, name)()
    image = image[0] if isinstance(image, tuple) else image
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]


def crops(image: Image) -> Iterator[Image]:
    """The upper left and the lower right SIDE², or what there is of it."""
    height, width = (min(SIDE, side) // 8 * 8 for side in image.shape[:2])
    yield image[:height, :width]
    yield image[image.shape[0] - height :, image.shape[1] - width :]


def pictures(names: tuple[str, ...]) -> Iterator[tuple[str, Image]]:
    """(name, RGB) of one of the two sets."""
    for name in names:
        whole = photograph(name)
        half = cv2.resize(whole, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)
        for kind, image in (("whole", whole), ("half", half)):
            for i, crop in enumerate(crops(image)):
                yield f"{name}-{kind}-{i}", crop
    for i in range(12):
        yield f"leaves-{i}", dead_leaves(SEEDS[names], i, SIDE)
        if names != CALIBRATION or f"scene-{i}" != LEFT_OUT:
            yield f"scene-{i}", captioned(SEEDS[names], 17 + 20 * i, SIDE)[0]


def write(folder: Path, names: tuple[str, ...]) -> None:
    """One of the two sets as PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(names):
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(picture[..., ::-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write one of two sets of good pictures.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--judged", action="store_true", help="the set that the limits are judged on")
    given = parser.parse_args()
    write(given.folder, JUDGED if given.judged else CALIBRATION)


if __name__ == "__main__":
    main()
