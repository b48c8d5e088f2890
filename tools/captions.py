"""Procedural pictures with captions: what a prompt to the built-in model can ask for.

Five kinds: plain colours, textures, one shape on a background, scenes, and dead-leaves collages. Each is drawn at
twice the size and area-averaged. The caption is composed with the drawing, in varied phrasing.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.draw import SUPERSAMPLE, Image, Plane, dead_leaves, power_noise
from tools.vocabulary import COLOURS, SCENES, SHAPES, TEXTURES

NAMES = tuple(COLOURS)
Mask = NDArray[np.float32]


def lab_to_rgb(lab: NDArray[np.float32]) -> Plane:
    """Lab triples (..., 3) to RGB in [0, 1], same shape."""
    flat = np.ascontiguousarray(lab, np.float32).reshape(1, -1, 3)
    return np.clip(cv2.cvtColor(flat, cv2.COLOR_Lab2RGB), 0, 1).reshape(lab.shape)


def named_lab(r: np.random.Generator, name: str, spread: float = 5.0) -> Plane:
    """A Lab triple, shape (3,), near the named colour's centre."""
    lab = np.array(COLOURS[name], np.float32) + r.normal(0, spread, 3).astype(np.float32)
    if name in ("black", "white", "gray"):
        lab[1:] *= 0.4
    lab[0] = np.clip(lab[0], 2, 98)
    return lab


def shade_of(r: np.random.Generator, lab: Plane) -> Plane:
    """A clearly lighter or darker relative of a Lab colour, shape (3,)."""
    step = np.float32(r.uniform(14, 26))
    darker = lab[0] > 75 or (lab[0] > 30 and r.random() < 0.6)
    shade = lab * np.array([1, 0.8, 0.8], np.float32)
    shade[0] += -step if darker else step
    return shade


def main_colours(image: Image) -> NDArray[np.float64]:
    """The share of pixels, shape (12,), nearest in Lab to each named colour, in the order of COLOURS."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab).reshape(-1, 1, 3)
    nearest = np.square(lab - np.array(list(COLOURS.values()), np.float32)[None]).sum(-1).argmin(1)
    return np.bincount(nearest, minlength=len(COLOURS)) / nearest.size


def main_colour(image: Image) -> str:
    """The name of the colour that most pixels of an RGB uint8 image are nearest to."""
    return NAMES[int(main_colours(image).argmax())]


def axes(r: np.random.Generator, size: int, angle: float) -> tuple[Mask, Mask]:
    """Rotated coordinates in pixels of the finished image with a random origin, two (2 size, 2 size) planes."""
    ys, xs = (np.mgrid[0 : size * SUPERSAMPLE, 0 : size * SUPERSAMPLE] / SUPERSAMPLE).astype(np.float32)
    x0, y0 = r.uniform(0, size, 2)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return (xs - np.float32(x0)) * c + (ys - np.float32(y0)) * s, (ys - np.float32(y0)) * c - (xs - np.float32(x0)) * s


def texture_mask(r: np.random.Generator, kind: str, size: int) -> tuple[Mask, str]:
    """Where the main colour is, in [0, 1], shape (2 size, 2 size), and a word for its direction or ""."""
    direction, angle = "", r.uniform(0, np.pi)
    if kind == "stripes" and r.random() < 0.7:
        direction = str(r.choice(["horizontal", "vertical", "diagonal"]))
        angle = {"horizontal": np.pi / 2, "vertical": 0.0, "diagonal": np.pi / 4 * r.choice([1, 3])}[direction]
    elif kind == "waves":
        angle = np.pi / 2 + r.normal(0, 0.15)
    elif kind in ("checks", "dots"):
        angle = float(r.choice([0, 0, np.pi / 4]))
    elif kind in ("bricks", "rings"):
        angle = 0.0
    u, v = axes(r, size, angle)
    p = np.float32(r.uniform(12, 26))
    if kind == "stripes":
        mask = (u / p) % 1 < r.uniform(0.52, 0.64)
    elif kind == "checks":
        mask = (np.floor(u / p * 1.4) + np.floor(v / p * 1.4)) % 2 == 0
    elif kind == "dots":
        mask = np.hypot((u % p) - p / 2, (v % p) - p / 2) > p * r.uniform(0.24, 0.36)
    elif kind == "bricks":
        row = np.floor(v / (p * 0.6))
        width, gap = p * np.float32(1.4), np.float32(r.uniform(1.8, 3))
        mask = ((u + (row % 2) * width / 2) % width > gap) & (v % (p * np.float32(0.6)) > gap)
    elif kind == "waves":
        bend = p * np.float32(r.uniform(0.25, 0.4)) * np.sin(2 * np.pi * v / (p * np.float32(r.uniform(1.6, 2.4))))
        mask = ((u + bend) / p) % 1 < r.uniform(0.52, 0.62)
    elif kind == "rings":
        centre = np.float32(size * r.uniform(0.35, 0.65)), np.float32(size * r.uniform(0.35, 0.65))
        ys, xs = (np.mgrid[0 : size * SUPERSAMPLE, 0 : size * SUPERSAMPLE] / SUPERSAMPLE).astype(np.float32)
        mask = (np.hypot(xs - centre[0], ys - centre[1]) / p) % 1 < r.uniform(0.52, 0.62)
    elif kind == "noise":
        noise = r.normal(0, 1, (size, size)).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), r.uniform(0.6, 1.2))
        noise = cv2.resize(noise, None, fx=SUPERSAMPLE, fy=SUPERSAMPLE, interpolation=cv2.INTER_LINEAR)
        return np.clip(0.62 + 0.5 * noise / noise.std(), 0, 1), direction
    else:  # gradient
        ramp = (u - u.min()) / np.ptp(u)
        return np.clip(1.25 - 0.95 * ramp, 0, 1).astype(np.float32), direction
    return mask.astype(np.float32), direction


def finish(canvas: Plane, r: np.random.Generator) -> Image:
    """A canvas (2h, 2w, 3) in [0, 1] to a uint8 image (h, w, 3), a little uneven like a lit surface."""
    light = np.float32(1 + r.normal(0, 0.02))
    size = canvas.shape[0] // SUPERSAMPLE
    image = cv2.resize(canvas * light, (size, size), interpolation=cv2.INTER_AREA)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def blend(mask: Mask, first: Plane, second: Plane) -> Plane:
    """`first` where mask is 1, `second` where it is 0: (h, w, 3); colours are (3,) or (h, w, 3)."""
    return second + mask[..., None] * (first - second)


def draw_texture(r: np.random.Generator, size: int, kind: str, name: str) -> tuple[Image, str]:
    """A texture whose main colour is the named one, (size, size, 3), and its caption."""
    lab = named_lab(r, name)
    mask, direction = texture_mask(r, kind, size)
    other = ""
    if kind not in ("checks", "noise") and r.random() < 0.45:
        other = str(r.choice([n for n in NAMES if n != name]))
        second = named_lab(r, other)
    else:
        second = shade_of(r, lab)
    image = finish(blend(mask, lab_to_rgb(lab), lab_to_rgb(second)), r)
    if not other or r.random() < 0.4:
        pairs = [f"{name} {kind}", f"{kind}, {name}", f"a {name} texture of {kind}", f"a pattern of {name} {kind}"]
    else:
        pairs = [f"{name} and {other} {kind}", f"{name} {kind} on {other}", f"{name} {kind} on a {other} background"]
    caption = str(r.choice(pairs))
    if direction and r.random() < 0.5:
        caption = f"{direction} {name} {kind}" + (f" on {other}" if other else "")
    return image, kind if r.random() < 0.05 else caption


def shape_mask(r: np.random.Generator, kind: str, size: int) -> Mask:
    """One filled shape in [0, 1], shape (2 size, 2 size)."""
    canvas = size * SUPERSAMPLE
    mask = np.zeros((canvas, canvas), np.uint8)
    radius = canvas * r.uniform(0.2, 0.36)
    cx, cy = canvas / 2 + r.uniform(-0.12, 0.12, 2) * canvas
    turn = r.normal(0, 0.15)
    if kind == "circle":
        cv2.circle(mask, (int(cx), int(cy)), int(radius), 255, -1, cv2.LINE_AA)
        return mask.astype(np.float32) / 255
    if kind == "cross":
        arm = 0.33
        corners = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
        corners += [(arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)]
    elif kind == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        x = np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
        corners = list(zip(x, y, strict=True))
    else:
        count, inner = {"square": (4, 0), "triangle": (3, 0), "star": (5, 1), "diamond": (4, 0)}[kind]
        turn += np.pi / 4 if kind == "square" else 0
        steps = np.arange(count * (1 + inner))
        radii = np.where(steps % 2 == 1, 0.42, 1.0) if inner else np.ones(len(steps))
        angles = steps * 2 * np.pi / len(steps) - np.pi / 2
        squash = 0.68 if kind == "diamond" else 1.0
        corners = list(zip(radii * np.cos(angles) * squash, radii * np.sin(angles), strict=True))
    points = np.array(corners) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cv2.fillPoly(mask, [(points * radius + [cx, cy]).astype(np.int32)], 255, cv2.LINE_AA)
    return mask.astype(np.float32) / 255


def draw_shape(r: np.random.Generator, size: int) -> tuple[Image, str]:
    """One coloured shape on a coloured background, (size, size, 3), and its caption."""
    kind = str(r.choice(SHAPES))
    name, back = (str(n) for n in r.choice(NAMES, 2, replace=False))
    front, ground = lab_to_rgb(named_lab(r, name)), lab_to_rgb(named_lab(r, back))
    image = finish(blend(shape_mask(r, kind, size), front, ground), r)
    long = f"a {name} {kind} on a {back} background"
    forms = [long, long, f"{name} {kind}, {back} background", f"{name} {kind} on {back}", f"a {kind} on {back}"]
    return image, str(r.choice(forms))


def draw_plain(r: np.random.Generator, size: int) -> tuple[Image, str]:
    """An almost even surface of one colour, (size, size, 3), and its caption."""
    name = str(r.choice(NAMES))
    lab = named_lab(r, name)
    mask, _ = texture_mask(r, "gradient", size)
    near = lab + r.normal(0, 3, 3).astype(np.float32)
    image = finish(blend(mask, lab_to_rgb(lab), lab_to_rgb(near)), r)
    forms = [name, f"plain {name}", f"a plain {name} background", f"a {name} surface", f"{name} image", name]
    return image, str(r.choice(forms))


def ridge(r: np.random.Generator, canvas: int, level: float, height: float) -> Mask:
    """1 below a bumpy line at `level` of the height, else 0, shape (canvas, canvas)."""
    xs = np.linspace(0, 1, canvas)
    waves = sum(np.sin(2 * np.pi * (f * xs + r.random())) * r.uniform(0.3, 1) / f for f in (1, 2, 3, 5))
    line = level + height * waves / 2
    return (np.linspace(0, 1, canvas)[:, None] > line[None]).astype(np.float32)


def draw_scene(r: np.random.Generator, size: int) -> tuple[Image, str]:
    """One of SCENES, (size, size, 3), and its caption."""
    kind = str(r.choice(SCENES))
    canvas = size * SUPERSAMPLE
    down = np.linspace(0, 1, canvas, dtype=np.float32)[:, None] * np.ones((1, canvas), np.float32)

    def colour(name: str, lightness: float = 0.0) -> Plane:
        return lab_to_rgb(named_lab(r, name) + np.array([lightness, 0, 0], np.float32))

    if kind == "landscape":
        sky, hills = str(r.choice(["blue", "cyan", "pink", "gray"])), str(r.choice(["green", "brown", "white"]))
        image = blend(1 - down, colour(sky), colour(sky, 18))
        for step in range(3):
            image = blend(ridge(r, canvas, 0.45 + 0.17 * step, 0.14), colour(hills, 8 - 8 * step), image)
        return finish(image, r), f"a landscape with {sky} sky and {hills} hills"
    if kind == "night":
        image = blend(1 - down, colour("black"), colour("blue", -18))
        for x, y in r.integers(0, canvas, (int(r.integers(30, 80)), 2)):
            cv2.circle(image, (int(x), int(y)), int(r.integers(1, 4)), (1.0, 1.0, 0.9), -1, cv2.LINE_AA)
        moon = r.random() < 0.5
        if moon:
            cv2.circle(image, tuple(int(v) for v in r.integers(40, canvas - 40, 2)), 22, (1.0, 1.0, 0.85), -1)
        return finish(image, r), "a night sky with stars and moon" if moon else "a night sky with stars"
    if kind == "sunset":
        image = blend(1 - down * 1.6, colour("purple", 10), colour("orange"))
        centre = int(canvas * r.uniform(0.3, 0.7)), int(canvas * r.uniform(0.42, 0.55))
        cv2.circle(image, centre, int(canvas * 0.11), (1.0, 0.9, 0.4), -1, cv2.LINE_AA)
        water = colour("blue", -12)
        image = blend((down > 0.6).astype(np.float32) * 0.9, water, image)
        return finish(image, r), "a sunset with orange sky over the sea"
    if kind == "desert":
        image = blend(1 - down, colour("cyan"), colour("white"))
        for step in range(2):
            image = blend(ridge(r, canvas, 0.5 + 0.2 * step, 0.12), colour("orange", 6 - 12 * step), image)
        return finish(image, r), "a desert with orange sand dunes and cyan sky"
    if kind == "forest":
        image = blend(1 - down, colour("green", 14), colour("green", -8))
        for _ in range(int(r.integers(8, 16))):
            x, w = int(r.integers(0, canvas)), int(r.integers(4, 14))
            cv2.rectangle(image, (x, int(canvas * 0.2)), (x + w, canvas), tuple(map(float, colour("brown"))), -1)
        leaves = (power_noise(r, canvas) > 0.2).astype(np.float32) * (down < 0.55)
        return finish(blend(leaves, colour("green", -14), image), r), "a forest with green trees and brown trunks"
    sky = str(r.choice(["blue", "orange", "gray", "black"]))
    image = blend(1 - down, colour(sky), colour(sky, 10))
    for x in range(0, canvas, 36):
        top = int(canvas * r.uniform(0.25, 0.7))
        cv2.rectangle(image, (x, top), (x + 33, canvas), tuple(map(float, colour("gray", r.uniform(-30, 0)))), -1)
        for wy in range(top + 8, canvas - 8, 14):
            for wx in range(x + 5, x + 28, 10):
                if r.random() < 0.5:
                    cv2.rectangle(image, (wx, wy), (wx + 5, wy + 6), (1.0, 0.9, 0.45), -1)
    return finish(image, r), f"a city with buildings and windows, {sky} sky"


def captioned(seed: int, index: int, size: int = 128) -> tuple[Image, str]:
    """`draw_any` with the article set right: "an orange heart"."""
    image, caption = draw_any(seed, index, size)
    return image, caption.replace("a orange", "an orange")


def draw_any(seed: int, index: int, size: int) -> tuple[Image, str]:
    """Picture number `index` of the series `seed`: (size, size, 3) RGB uint8 and its caption.

    Of each twenty, ten are textures, three plain colours, four shapes, two scenes and one a collage.
    """
    r = np.random.default_rng([seed, index])
    slot = index % 20
    if slot < 10:
        return draw_texture(r, size, TEXTURES[r.integers(len(TEXTURES))], NAMES[r.integers(len(NAMES))])
    if slot < 13:
        return draw_plain(r, size)
    if slot < 17:
        return draw_shape(r, size)
    if slot < 19:
        return draw_scene(r, size)
    image = dead_leaves(seed, index, size)
    return image, f"an abstract collage, {main_colour(image)}"
