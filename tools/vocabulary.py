"""The words the built-in model knows: colours, textures, shapes, scenes, and the small words between them."""

from __future__ import annotations

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (48.0, 66.0, 46.0),
    "orange": (68.0, 38.0, 66.0),
    "yellow": (88.0, -4.0, 74.0),
    "green": (52.0, -48.0, 40.0),
    "cyan": (80.0, -34.0, -16.0),
    "blue": (38.0, 22.0, -62.0),
    "purple": (38.0, 46.0, -42.0),
    "pink": (74.0, 38.0, 0.0),
    "brown": (36.0, 18.0, 26.0),
    "black": (8.0, 0.0, 0.0),
    "white": (95.0, 0.0, 0.0),
    "gray": (54.0, 0.0, 0.0),
}
"""Each named colour's centre in Lab (CIE 1976, D65)."""

TEXTURES = ("stripes", "checks", "dots", "bricks", "waves", "noise", "rings", "gradient")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart")
SCENES = ("landscape", "night", "sunset", "desert", "forest", "city")

SMALL_WORDS = (
    "a an the of on with and in over under at to plain abstract collage photo picture image drawing pattern texture "
    "background surface sky hills hill field stars moon sun sea water sand dunes dune trees tree trunks buildings "
    "windows grass snow mountains mountain horizontal vertical diagonal large small wide thin big fine smooth soft "
    "sharp detailed blurry blurred noisy quality low high best natural restored original clean clear colour color "
    "light dark two three colours grey striped checked dotted many circles squares triangles crosses diamonds hearts "
    "leaves shapes scene evening day starry , ."
)


def words() -> list[str]:
    """Every word of the vocabulary once, in a fixed order."""
    every = [*COLOURS, *TEXTURES, *SHAPES, *SCENES, *SMALL_WORDS.split()]
    return list(dict.fromkeys(every))
