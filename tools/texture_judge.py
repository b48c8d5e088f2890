"""Says which texture an image shows, without the diffusion model: spectral features and a logistic regression.

It is fitted on freshly drawn pictures of a series (JUDGE_SEED) that trained nothing else, some blurred or noisy, and
reports its own accuracy on further drawings.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tools.captions import NAMES, draw_texture
from tools.draw import Image
from tools.vocabulary import TEXTURES

JUDGE_SEED = 90_001
RINGS, SECTORS = 20, 24
Features = NDArray[np.float64]


def main_axis(image: Image) -> Features:
    """The image projected on its colours' first principal component in Lab, (h, w), zero mean."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab).astype(np.float64)
    flat = lab.reshape(-1, 3) - lab.reshape(-1, 3).mean(0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    return (flat @ vectors[:, -1]).reshape(image.shape[:2])


def coherence(plane: Features, sigma: float) -> Features:
    """How one-directional the gradients near each pixel are, 0 to 1, (h, w): the structure tensor's anisotropy."""
    gx, gy = cv2.Sobel(plane, cv2.CV_64F, 1, 0), cv2.Sobel(plane, cv2.CV_64F, 0, 1)
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), sigma) for product in (gx * gx, gy * gy, gx * gy))
    return np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-6)


def features(image: Image) -> Features:
    """About 70 numbers of an RGB uint8 image (128, 128, 3) that don't depend on its colours."""
    plane = main_axis(image)
    deviation = plane.std() + 1e-3
    plane = plane / deviation
    size = plane.shape[0]
    window = np.hanning(size)[:, None] * np.hanning(size)[None]
    power = np.abs(np.fft.fftshift(np.fft.fft2(plane * window))) ** 2
    ys, xs = np.mgrid[0:size, 0:size] - size // 2
    radius, angle = np.hypot(xs, ys), np.arctan2(ys, xs) % np.pi
    ring = np.minimum((np.log2(np.maximum(radius, 0.7)) + 0.6) * 3, RINGS - 1).astype(int)
    total = power.sum() + 1e-9
    rings = np.bincount(ring.ravel(), power.ravel(), RINGS) / total
    means = rings * total / np.maximum(np.bincount(ring.ravel(), minlength=RINGS), 1)
    peaks = np.array([power[ring == k].max(initial=0) for k in range(RINGS)]) / (means + 1e-9)
    sector = np.minimum((angle / np.pi * SECTORS).astype(int), SECTORS - 1)
    busy = radius > 3
    sectors = np.bincount(sector[busy], power[busy], SECTORS) / (power[busy].sum() + 1e-9)
    harmonics = np.abs(np.fft.rfft(sectors))[1:9]
    local = [coherence(plane, sigma) for sigma in (2.0, 5.0, 10.0)]
    gradient = np.hypot(cv2.Sobel(plane, cv2.CV_64F, 1, 0), cv2.Sobel(plane, cv2.CV_64F, 0, 1))
    moments = [(plane**3).mean(), (plane**4).mean(), np.log(deviation), np.log(gradient.mean() + 1e-6)]
    moments += [np.log((gradient**2).mean() / (gradient.mean() ** 2 + 1e-9) + 1e-9)]
    directions = [abs(sectors[0] + sectors[-1]), sectors[SECTORS // 2 - 1] + sectors[SECTORS // 2]]
    shares = [value for c in local for value in (c.mean(), c.std())]
    return np.concatenate([np.log(rings + 1e-5), np.log(peaks + 1), harmonics, shares, moments, directions])


def disturbed(image: Image, r: np.random.Generator) -> Image:
    """The image, in half of the cases blurred or noisy as a small model's output may be."""
    if r.random() < 0.5:
        return image
    rough = cv2.GaussianBlur(image, (0, 0), r.uniform(0.3, 1.3)).astype(np.float64)
    return np.clip(rough + r.normal(0, r.uniform(0, 6), image.shape), 0, 255).astype(np.uint8)


def drawings(seed: int, count: int) -> tuple[Features, NDArray[np.int64]]:
    """Features and texture numbers of `count` drawings of the series `seed`, textures in turn."""
    rows, kinds = [], np.arange(count) % len(TEXTURES)
    for index, kind in enumerate(kinds):
        r = np.random.default_rng([seed, index])
        image, _ = draw_texture(r, 128, TEXTURES[kind], NAMES[r.integers(len(NAMES))])
        rows.append(features(disturbed(image, r)))
    return np.stack(rows), kinds


@dataclass(frozen=True)
class TextureJudge:
    """A fitted classifier of TEXTURES."""

    centre: Features
    spread: Features
    weights: Tensor
    accuracy: float
    """Share it names rightly of 400 drawings it was not fitted on."""

    def scores(self, rows: Features) -> Tensor:
        """One score per texture, (n, 8)."""
        scaled = torch.from_numpy((rows - self.centre) / self.spread)
        return torch.cat([scaled, torch.ones(len(scaled), 1)], 1) @ self.weights

    def name(self, image: Image) -> str:
        """The texture an RGB uint8 image shows."""
        return TEXTURES[int(self.scores(features(image)[None]).argmax())]


def fit() -> TextureJudge:
    """Fit on 1200 drawings, test on 400 others. Takes about 20 seconds."""
    rows, kinds = drawings(JUDGE_SEED, 1200)
    centre, spread = rows.mean(0), rows.std(0) + 1e-6
    inputs = torch.from_numpy(np.concatenate([(rows - centre) / spread, np.ones((len(rows), 1))], 1))
    weights = torch.zeros(inputs.shape[1], len(TEXTURES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(inputs @ weights, torch.from_numpy(kinds)) + 1e-3 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    judge = TextureJudge(centre, spread, weights.detach(), 0.0)
    test, truth = drawings(JUDGE_SEED + 1, 400)
    accuracy = float((judge.scores(test).argmax(1).numpy() == truth).mean())
    return TextureJudge(centre, spread, weights.detach(), accuracy)
