"""Make README's picture: a crop of a sample, by Lanczos and as `tilehires run` left it.

tilehires run && python -m tools.draw_before_after
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
NAME = "sample-collage.png"
CROP = (slice(150, 278), slice(0, 192))
"""Rows and columns of the output, 2x the input."""
ZOOM = 2
GAP = 8


def main() -> None:
    """Write docs/images/before-after.png."""
    before, after = (cv2.imread(str(ROOT / folder / NAME)) for folder in ("input", "output"))
    if before is None or after is None:
        raise SystemExit(f"{NAME} is missing in input/ or output/: type `tilehires run` first")
    enlarged = cv2.resize(before, after.shape[1::-1], interpolation=cv2.INTER_LANCZOS4)
    crops = [
        cv2.resize(image[CROP], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST) for image in (enlarged, after)
    ]
    gap = np.full((crops[0].shape[0], GAP, 3), 255, np.uint8)
    target = ROOT / "docs" / "images" / "before-after.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), np.hstack([crops[0], gap, crops[1]]))


if __name__ == "__main__":
    main()
