"""A VAE on canvases too large for an exact answer: one operator for all tiles, and an error that is measured and told."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from tests.batches import drawing
from tests.pipeline.test_vae import kl, latents, pixels, tiny
from tilehires.geometry import Box, Size
from tilehires.tiling import estimated
from tilehires.tiling.estimated import regions
from tilehires.tiling.vae import Passage, decode, encode

SIZE = Size(560, 432)  # 70 × 54 cells


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse pass of a size that lets a small canvas be a large one."""
    monkeypatch.setattr(estimated, "REGIONS", 12)
    monkeypatch.setattr(estimated, "CORE", 6)
    monkeypatch.setattr(estimated, "MARGIN", 4)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    """With norms that do something."""
    made = kl(4)
    torch.manual_seed(3)
    for module in made.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return made


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """1×3×H×W: texture on a slope, so that no two places have the same statistics."""
    texture = torch.from_numpy(drawing(SIZE.width, SIZE.height).transpose(2, 0, 1).copy())[None].float() / 127.5 - 1
    return (texture * 0.4 + torch.linspace(-0.6, 0.6, SIZE.width)).clamp(-1, 1)


@pytest.fixture(scope="module")
def exact(vae: AutoencoderKL, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, decoded) of the VAE in one piece."""
    z = encode(vae, picture, mode="whole")
    return z, decode(vae, z, mode="whole")


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).double().square().mean().sqrt())


def estimates(vae: AutoencoderKL, picture: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list]:
    told: list[Passage] = []
    both = encode(vae, picture, mode="estimated", tell=told.append), decode(vae, z, mode="estimated", tell=told.append)
    return (*both, told)


@pytest.mark.usefixtures("small")
def test_the_error_is_small_and_what_is_told_of_it_is_true(vae: Any, picture: torch.Tensor, exact: tuple) -> None:
    z, whole = exact
    encoded, decoded, told = estimates(vae, picture, z)
    factor = vae.config["scaling_factor"]
    errors = rms(encoded, z) / factor, rms(decoded, whole)
    assert [one.mode for one in told] == ["estimated"] * 2
    # Random norms amplify what little there is; a trained VAE's are milder.
    bounds = 0.2 * float(z.std()) / factor, 0.5 * float(whole.std())
    for error, one, bound in zip(errors, told, bounds, strict=True):
        assert 0 < error < bound, f"an error of {error:.4f}"
        assert error / 4 < one.deviation.rms < error * 4, f"told {one.deviation.rms:.4f}, is {error:.4f}"
        assert one.deviation.most >= one.deviation.rms


@pytest.mark.usefixtures("small")
def test_diffusers_own_tiling_is_further_off(vae: Any, picture: torch.Tensor, exact: tuple) -> None:
    z, whole = exact
    encoded, decoded, _ = estimates(vae, picture, z)
    theirs: Any = kl(4)
    theirs.load_state_dict(vae.state_dict())
    theirs.enable_tiling()
    theirs.tile_latent_min_size, theirs.tile_sample_min_size = 16, 128
    with torch.no_grad():
        their_z = theirs.encode(picture).latent_dist.mode() * vae.config["scaling_factor"]
        their_pixels = theirs.decode(z / vae.config["scaling_factor"]).sample
    assert rms(encoded, z) < rms(their_z, z) / 2
    assert rms(decoded, whole) < rms(their_pixels, whole) / 1.5


@pytest.mark.usefixtures("small")
def test_how_the_canvas_is_cut_changes_nothing(
    vae: Any, picture: torch.Tensor, exact: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So there is no tone of a tile, and no joint: also the proof that the halo is wide enough."""
    z = exact[0]
    answers = []
    for tile, strip_bytes in ((10_000, 10**9), (128, 300_000), (96, 10**9)):
        monkeypatch.setitem(cast(Any, estimated.run).__kwdefaults__, "tile", tile)
        encoded = encode(vae, picture, mode="estimated", strip_bytes=strip_bytes)
        answers.append((encoded, decode(vae, z, mode="estimated", strip_bytes=strip_bytes)))
    for encoded, decoded in answers[1:]:
        torch.testing.assert_close(encoded, answers[0][0], atol=2e-5, rtol=0)
        torch.testing.assert_close(decoded, answers[0][1], atol=1e-4, rtol=0)


@pytest.mark.usefixtures("small")
def test_two_estimates_are_equal_to_the_bit(vae: Any, picture: torch.Tensor, exact: tuple) -> None:
    first, second = (estimates(vae, picture, exact[0]) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]) and first[2] == second[2]


def test_a_canvas_no_larger_than_the_coarse_pass_is_exact(vae: Any, picture: torch.Tensor, exact: tuple) -> None:
    assert len(regions(Size(70, 54))) == 1
    encoded, decoded, told = estimates(vae, picture, exact[0])
    torch.testing.assert_close(encoded, exact[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(decoded, exact[1], atol=1e-4, rtol=0)
    assert [one.deviation.most for one in told] == [0, 0]


def test_a_bounded_vae_is_exact_by_tiles_and_says_so() -> None:
    vae, told = tiny(), []
    z = latents(vae, 20, 30)
    answer = decode(vae, z, mode="estimated", tile=64, tell=told.append)
    torch.testing.assert_close(answer, decode(vae, z, mode="whole"), atol=1e-6, rtol=0)
    assert told[0].mode == "tiled" and told[0].deviation is None


@pytest.mark.parametrize("cells", [Size(2048, 2048), Size(4000, 300), Size(60, 9000), Size(12, 20_000), Size(199, 201)])
@pytest.mark.parametrize("shifted", [False, True])
def test_regions_lie_in_the_canvas_spread_evenly_with_a_margin(cells: Size, shifted: bool) -> None:
    found = regions(cells, shifted=shifted)
    assert 18 <= len(found) <= estimated.REGIONS
    assert len({(seen.size, core.size) for seen, core in found}) == 1, "a batch has one shape"
    for seen, core in found:
        assert seen.clip(cells) == seen and core.clip(cells) == core
        for inner, outer, edge in (
            (core.x0, seen.x0, 0),
            (core.y0, seen.y0, 0),
            (seen.x1, core.x1, seen.x1 - cells.width),
            (seen.y1, core.y1, seen.y1 - cells.height),
        ):
            assert inner - outer >= min(estimated.MARGIN, cells.width // 4) or edge == 0
    middle = sum(core.x0 + core.x1 for _, core in found) / len(found) / 2 / cells.width
    assert abs(middle - 0.5) < 0.06


def test_the_two_sets_of_regions_share_nothing() -> None:
    cells = Size(1024, 1024)
    for _, one in regions(cells):
        assert not any(overlap(one, other) for _, other in regions(cells, shifted=True))


def overlap(a: Box, b: Box) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def test_several_pictures_at_once_are_refused(vae: Any) -> None:
    with pytest.raises(ValueError, match="one by one"):
        encode(vae, pixels(batch=2), mode="estimated")
    with pytest.raises(ValueError, match="one by one"):
        decode(vae, latents(vae).repeat(2, 1, 1, 1), mode="estimated")
