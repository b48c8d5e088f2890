"""Procedural "dead leaves" images: the pictures that teach restoration to the built-in model.

A dead-leaves image is a pile of opaque shapes whose sizes follow a power law, as objects in photographs do
(Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 2001). Each shape carries a gradient and often a
1/f texture, a grating, or soft edges. Everything is drawn at twice the size and averaged over areas of 2x2, so that
edges are sampled as a camera samples them. No photograph is read anywhere.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]

SUPERSAMPLE = 2
POOL = 32
POOL_SIZE = 512
POOL_SEED = 20_000


def random_colour(r: np.random.Generator) -> Plane:
    """One RGB colour in [0, 1], shape (3,), from a natural-looking spread in Lab."""
    lab = np.array([[[r.uniform(3, 97), r.normal(0, 18), r.normal(0, 22)]]], np.float32)
    return np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)[0, 0], 0, 1).astype(np.float32)


def power_noise(r: np.random.Generator, size: int) -> Plane:
    """Oriented 1/f^a noise, shape (size, size), zero mean, unit deviation, periodic."""
    slope, angle, stretch = r.uniform(0.6, 2.2), r.uniform(0, np.pi), np.exp(r.normal(0, 0.6))
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    u = (fx * np.cos(angle) + fy * np.sin(angle)) * stretch
    v = (fy * np.cos(angle) - fx * np.sin(angle)) / stretch
    radius = np.hypot(u, v)
    radius[0, 0] = 1
    spectrum = (r.normal(size=radius.shape) + 1j * r.normal(size=radius.shape)) / radius**slope
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return ((noise - noise.mean()) / (noise.std() + 1e-6)).astype(np.float32)


@cache
def texture_pool() -> tuple[Plane, ...]:
    """The POOL noise textures every drawing takes its windows from: the same in every process."""
    r = np.random.default_rng(POOL_SEED)
    return tuple(power_noise(r, POOL_SIZE) for _ in range(POOL))


def texture_window(r: np.random.Generator, height: int, width: int) -> Plane:
    """A (height, width) window, each at most POOL_SIZE, of a pool texture, randomly placed, flipped and turned."""
    texture = texture_pool()[r.integers(POOL)]
    if r.random() < 0.5:
        texture = texture.T
    y, x = r.integers(0, POOL_SIZE - height + 1), r.integers(0, POOL_SIZE - width + 1)
    return texture[y : y + height, x : x + width][:: r.choice([-1, 1]), :: r.choice([-1, 1])]


def random_fill(r: np.random.Generator, height: int, width: int, canvas: int) -> Plane:
    """A surface, shape (height, width, 3): a gradient of two colours, perhaps with a texture, perhaps a grating."""
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) / canvas
    first, mix = random_colour(r), r.uniform(0, 0.8)
    second = first * (1 - mix) + random_colour(r) * mix
    angle = np.float32(r.uniform(0, 2 * np.pi))
    ramp = xs * np.cos(angle) + ys * np.sin(angle)
    ramp = (ramp - ramp.min()) * np.float32(r.uniform(0.3, 1.0)) / max(float(np.ptp(ramp)), 1e-6)
    surface = first + ramp[..., None] * (second - first)
    strength = float(r.choice([0, 0.02, 0.05, 0.1, 0.15]))
    if strength:
        surface += texture_window(r, height, width)[..., None] * (strength * (0.5 + random_colour(r)))
    if r.random() < 0.12:
        frequency, angle = r.uniform(10, 70), r.uniform(0, np.pi)
        wave = np.sin(
            np.float32(2 * np.pi * frequency) * (xs * np.float32(np.cos(angle)) + ys * np.float32(np.sin(angle)))
        )
        contrast = np.float32(r.uniform(0.08, 0.35))
        surface *= 1 + contrast * (np.sign(wave) if r.random() < 0.5 else wave)[..., None]
    return surface


def random_mask(r: np.random.Generator, canvas: int, radius: float) -> Image:
    """Coverage, shape (canvas, canvas), 0 to 255, of one disc, ellipse, polygon, line or word."""
    mask = np.zeros((canvas, canvas), np.uint8)
    cx, cy = (int(v) for v in r.integers(0, canvas, 2))
    kind = r.integers(5)
    if kind == 0:
        cv2.circle(mask, (cx, cy), int(radius), 255, -1, cv2.LINE_AA)
    elif kind == 1:
        axes = (int(radius), max(1, int(radius * r.uniform(0.15, 0.9))))
        cv2.ellipse(mask, (cx, cy), axes, r.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    elif kind == 2:
        corners = int(r.integers(3, 8))
        angles, radii = np.sort(r.uniform(0, 2 * np.pi, corners)), radius * r.uniform(0.4, 1.2, corners)
        points = np.stack([cx + radii * np.cos(angles), cy + radii * np.sin(angles)], -1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
    elif kind == 3:
        points = np.array([cx, cy]) + np.cumsum(r.normal(0, radius * 0.4, (int(r.integers(3, 9)), 2)), 0)
        width = int(max(1, r.exponential(2) * SUPERSAMPLE))
        cv2.polylines(mask, [points.astype(np.int32)], False, 255, width, cv2.LINE_AA)
    else:
        word = "".join(chr(r.integers(33, 122)) for _ in range(r.integers(1, 8)))
        font, scale, width = int(r.integers(0, 5)), radius / 60 + 0.3, int(max(1, radius / 40))
        cv2.putText(mask, word, (cx, cy), font, scale, 255, width, cv2.LINE_AA)
    return mask


def dead_leaves(seed: int, index: int, size: int = 256) -> Image:
    """Image number `index` of the series `seed`: shape (size, size, 3), RGB uint8. size is at most 256."""
    r = np.random.default_rng([seed, index])
    canvas = size * SUPERSAMPLE
    image = random_fill(r, canvas, canvas, canvas)
    smallest, largest, exponent = 2.5 * SUPERSAMPLE, canvas * 0.45, -1.2
    for _ in range(r.integers(40, 260)):
        low, high = smallest**exponent, largest**exponent
        radius = (high + r.random() * (low - high)) ** (1 / exponent)
        mask = random_mask(r, canvas, radius)
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0 or h == 0:
            continue
        soft = r.uniform(0.7, 6) * SUPERSAMPLE if r.random() < 0.15 else 0.0
        pad = int(3 * soft)
        y0, y1, x0, x1 = max(0, y - pad), min(canvas, y + h + pad), max(0, x - pad), min(canvas, x + w + pad)
        cover = mask[y0:y1, x0:x1].astype(np.float32) / 255
        if soft:
            cover = cv2.GaussianBlur(cover, (0, 0), soft)
        window = image[y0:y1, x0:x1]
        window += cover[..., None] * (random_fill(r, y1 - y0, x1 - x0, canvas) - window)
    if r.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), r.uniform(0.4, 1.6) * SUPERSAMPLE)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
