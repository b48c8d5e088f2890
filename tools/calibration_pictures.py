"""Write the good pictures that limits of the checks are set on, or those they are judged on.

    python -m tools.calibration_pictures FOLDER [--judged] [--side 192]

Crops of photographs that come with scikit-image and other packages, as they are and halved, and drawings of tools.draw
and tools.captions with seeds that the training never used. No photograph of one is in the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import skimage.io

from tools.captions import captioned
from tools.draw import Image, dead_leaves


@dataclass(frozen=True)
class Pictures:
    """A set of pictures: photographs, crops of each at most, drawings of each kind, and their seed."""

    photographs: tuple[str, ...]
    crops: int
    drawings: int
    seed: int


CALIBRATION = Pictures(
    ("coffee", "chelsea", "rocket", "brick", "moon", "coins", "retina", "clock_motion", "cell"), 6, 24, 991_000
)
JUDGED = Pictures(
    ("astronaut", "camera", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "motorcycle_left"),
    2,
    12,
    992_000,
)
FRESH = Pictures(JUDGED.photographs, 5, 20, 993_000)
"""Other drawings, and the judged photographs, cut at other places where the side differs."""
BLIND = Pictures(("bus", "zidane", "grace_hopper", "page", "text", "microaneurysms"), 5, 20, 994_000)
"""Photographs and drawings that no check was built or looked at with."""
FILES = {"clock_motion", "cell", "motorcycle_left"}  # what scikit-image has no function for that returns it alone
ELSEWHERE = {  # packages' own samples, by package
    "bus": ("ultralytics", "assets/bus.jpg"),
    "zidane": ("ultralytics", "assets/zidane.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}


def photograph(name: str) -> Image:
    """A photograph of scikit-image, or of ELSEWHERE, as RGB."""
    if name in ELSEWHERE:
        package, path = ELSEWHERE[name]
        image = skimage.io.imread(str(distribution(package).locate_file(f"{package}/{path}")))
    elif name in FILES:
        image = skimage.io.imread(str(Path(skimage.data.__file__).parent / f"{name}.png"))
    else:
        image = getattr(skimage.data, name)()
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]


def crops(image: Image, side: int, most: int) -> Iterator[Image]:
    """Up to `most` squares of `side`, or what there is of it, that share no pixel, from one corner to the other."""
    height, width = (min(side, length) // 8 * 8 for length in image.shape[:2])
    places = [(y, x) for y in starts(image.shape[0], height) for x in starts(image.shape[1], width)]
    for i in np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)):
        y, x = places[i]
        yield image[y : y + height, x : x + width]


def starts(length: int, side: int) -> list[int]:
    return np.linspace(0, length - side, length // side).round().astype(int).tolist()


def pictures(kind: Pictures, side: int) -> Iterator[tuple[str, Image]]:
    """(name, RGB) of a set."""
    for name in kind.photographs:
        whole = photograph(name)
        half = cv2.resize(whole, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)
        for size, image in (("whole", whole), ("half", half)):
            for i, crop in enumerate(crops(image, side, kind.crops)):
                yield f"{name}-{size}-{i}", crop
    for i in range(kind.drawings):
        yield f"leaves-{i}", dead_leaves(kind.seed, i, side)
        yield f"scene-{i}", captioned(kind.seed, 17 + 20 * i, side)[0]


def write(folder: Path, kind: Pictures, side: int = 192, every: int = 1) -> None:
    """Every `every`-th picture of a set as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, picture) in enumerate(pictures(kind, side)):
        if i % every == 0:
            cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(picture[..., ::-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write one of two sets of good pictures.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--judged", action="store_true", help="the set that the limits are judged on")
    parser.add_argument("--side", type=int, default=192, help="of the squares, in px")
    given = parser.parse_args()
    write(given.folder, JUDGED if given.judged else CALIBRATION, given.side)


if __name__ == "__main__":
    main()
