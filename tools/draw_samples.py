"""Draw the pictures of input/: small scenes that a newcomer's first run enlarges.

    python -m tools.draw_samples

They are drawn as the training pictures are, with seeds that the training never used.
"""

from __future__ import annotations

from pathlib import Path

import cv2

from tools.captions import captioned
from tools.draw import Image, dead_leaves

SEED = 990_000
SIZE = 160
INPUT = Path(__file__).parents[1] / "input"


def scene(word: str) -> Image:
    """The first drawn scene whose caption holds `word`."""
    pictures = (captioned(SEED, index, SIZE) for index in range(17, 20_000, 20))
    return next(picture for picture, caption in pictures if word in caption)


def main() -> None:
    """Write the PNGs."""
    pictures = {
        "collage": dead_leaves(SEED, 0, SIZE),
        "leaves": dead_leaves(SEED, 5, SIZE),
        "city": scene("city"),
        "desert": scene("desert"),
    }
    for name, picture in pictures.items():
        cv2.imwrite(str(INPUT / f"sample-{name}.png"), picture[..., ::-1])


if __name__ == "__main__":
    main()
