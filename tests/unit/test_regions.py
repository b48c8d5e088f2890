"""Which detections are repaired, where they are cut out, and how they are put back: no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilehires.config.detail import DetailPass
from tilehires.detectors import Detection
from tilehires.geometry import Box, Size
from tilehires.stages.crops import FAINT, Crop, crop_of, mask_in, matched, overlaps, paste, resized, soft
from tilehires.stages.regions import chosen, moved

SIZE = Size(400, 300)


def face(x0: int, y0: int, x1: int, y1: int, score: float = 0.9, mask: np.ndarray | None = None) -> Detection:
    return Detection("face", Box(x0, y0, x1, y1), score, mask)


def passing(**values: Any) -> DetailPass:
    return DetailPass.model_validate({"detector": "face", **values})


def boxes(found: list[Detection], **values: Any) -> list[Box]:
    return [r.box for r in chosen(found, passing(**values), SIZE) if not r.fate]


def fates(found: list[Detection], **values: Any) -> list[str]:
    return [r.fate for r in chosen(found, passing(**values), SIZE) if r.fate]


def test_every_detection_has_a_fate() -> None:
    found = [face(10, 10, 60, 60), face(0, 0, 5, 60), face(0, 0, 399, 299), face(100, 100, 130, 130, 0.2)]
    assert boxes(found, max_ratio=0.5) == [Box(10, 10, 60, 60)]
    assert [fate.split(" (")[0] for fate in fates(found, max_ratio=0.5)] == [
        "too small",
        "too large",
        "below confidence",
    ]
    assert fates(found[:1], min_ratio=0.5)[0].startswith("too small (0.0208 of the image")
    assert fates(found[:1], dilate=-40) == ["empty mask"]
    assert len(chosen(found, passing(), SIZE)) == 4


def test_only_the_first_by_area_or_by_confidence() -> None:
    found = [face(0, 0, 20, 20, 0.9), face(50, 50, 150, 150, 0.5), face(200, 200, 260, 260, 0.7)]
    assert boxes(found, largest=1) == [Box(50, 50, 150, 150)]
    assert boxes(found, largest=2, filter="confidence") == [Box(0, 0, 20, 20), Box(200, 200, 260, 260)]
    assert fates(found, largest=2) == ["not among the 2 by area"]


def test_sorting() -> None:
    found = [face(300, 0, 350, 50), face(190, 140, 210, 160), face(0, 200, 80, 280)]
    assert boxes(found) == [d.box for d in found]
    assert [b.x0 for b in boxes(found, sort="left_to_right")] == [0, 190, 300]
    assert [b.x0 for b in boxes(found, sort="centre_to_edge")] == [190, 300, 0]
    assert [b.x0 for b in boxes(found, sort="large_to_small")] == [0, 300, 190]


def test_masks_grow_shrink_and_shift() -> None:
    def mask(**values: Any) -> np.ndarray:
        (region,) = chosen([face(100, 100, 120, 120)], passing(**values), SIZE)
        whole = np.zeros((SIZE.height, SIZE.width), bool)
        whole[region.place.slices] = region.mask > 0
        return whole

    def box(whole: np.ndarray) -> list[int]:
        rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
        return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]

    assert box(mask(dilate=0)) == [100, 100, 120, 120]
    assert box(mask(dilate=4)) == [96, 96, 124, 124]
    assert box(mask(dilate=-4)) == [104, 104, 116, 116]
    assert box(mask(dilate=0, x_offset=10, y_offset=5)) == [110, 95, 130, 115], "y counts upwards"
    ring = np.zeros((20, 20), bool)
    ring[5:15, 5:15] = True
    (region,) = chosen([face(100, 100, 120, 120, mask=ring)], passing(dilate=0), SIZE)
    assert region.mask.sum() == 100, "a detector's own mask counts, not its box"


def test_merged_and_inverted_masks() -> None:
    found = [face(100, 100, 120, 120), face(200, 100, 220, 120)]
    regions = chosen(found, passing(dilate=0, merge="merge"), SIZE)
    assert [r.fate for r in regions] == ["", "repaired as one (merge)", "repaired as one (merge)"]
    assert regions[0].mask.sum() == 800
    inverted = chosen(found, passing(dilate=0, merge="invert"), SIZE)[0]
    assert inverted.mask.sum() == SIZE.pixels - 800
    everything = chosen([face(0, 0, 400, 300)], passing(dilate=0, merge="invert"), SIZE)
    assert [r.fate for r in everything] == ["repaired as one (invert)", "empty mask"]


def test_regions_at_the_border_and_of_one_pixel() -> None:
    found = [face(0, 0, 30, 30), face(380, 280, 400, 300), face(5, 5, 6, 6)]
    regions = chosen(found, passing(drop_size=1), SIZE)
    assert not any(r.fate for r in regions)
    for region in regions:
        crop = crop_of(region, passing(), SIZE, 512)
        assert isinstance(crop, Crop)
        assert mask_in(region, crop).sum() == region.mask.sum(), "a part of the mask is outside of the crop"
    outside = chosen([face(390, 290, 400, 300)], passing(x_offset=200, drop_size=1), SIZE)
    assert outside[0].fate == "empty mask"


def test_boxes_of_the_input_scale_with_the_picture() -> None:
    mask = np.zeros((10, 20), bool)
    mask[:, :10] = True
    found = face(10, 20, 30, 30, mask=mask)
    there = moved(found, (2.0, 2.0), (5, 0), Size(200, 200))
    assert there is not None
    assert there.box == Box(15, 40, 55, 60)
    assert there.mask is not None
    assert there.mask.shape == (20, 40)
    assert there.mask[:, :20].mean() > 0.95
    cut = moved(found, (2.0, 2.0), (30, 0), Size(20, 200))
    assert cut is not None
    assert cut.box == Box(0, 40, 20, 60)
    assert cut.mask is not None
    assert cut.mask.shape == (20, 20)
    assert moved(found, (1.0, 1.0), (500, 0), Size(100, 100)) is None


PLACES = st.tuples(st.integers(0, 380), st.integers(0, 280), st.integers(1, 200), st.integers(1, 200))


@settings(max_examples=150)
@given(
    PLACES,
    st.integers(0, 256),
    st.floats(1, 10),
    st.sampled_from(["off", "strict", "free"]),
    st.sampled_from([64, 512, 1024]),
)
def test_a_crop_holds_the_mask_lies_inside_and_is_never_shrunk(
    place: tuple[int, int, int, int], padding: int, factor: float, match: str, native: int
) -> None:
    x, y, w, h = place
    found = face(x, y, min(400, x + w), min(300, y + h))
    values = passing(padding=padding, crop_factor=factor, match_size=match, drop_size=1)
    region = chosen([found], values, SIZE)[0]
    crop = crop_of(region, values, SIZE, native)
    if isinstance(crop, str):
        assert crop.startswith("already large")
        return
    assert crop.box.clip(SIZE) == crop.box
    around = region.box.pad(padding).clip(SIZE)
    assert crop.box.x0 <= around.x0
    assert crop.box.x1 >= around.x1
    assert crop.box.y0 <= around.y0
    assert crop.box.y1 >= around.y1
    assert mask_in(region, crop).sum() == region.mask.sum()
    assert crop.work.width >= crop.box.width, "worked on at less than its own size"
    assert crop.work.height >= crop.box.height
    assert crop.work.width % 64 == crop.work.height % 64 == 0


def test_what_is_larger_than_the_models_size_is_left_alone_or_tiled() -> None:
    region = chosen([face(50, 50, 250, 250)], passing(), SIZE)[0]
    assert str(crop_of(region, passing(), SIZE, 128)).startswith("already large (200x200 in 128x128)")
    tiled = crop_of(region, passing(large="tile"), SIZE, 128)
    assert isinstance(tiled, Crop)
    assert tiled.work.covers(tiled.box.size)
    near = crop_of(region, passing(crop_factor=10), SIZE, 320)
    assert isinstance(near, Crop)
    assert near.box.size == Size(320, 300), "the surroundings shrink before the region would"


def test_the_working_size() -> None:
    wide = chosen([face(100, 100, 300, 160)], passing(), SIZE)[0]

    def work(native: int = 1024, **values: Any) -> Size:
        crop = crop_of(wide, passing(**values), SIZE, native)
        assert isinstance(crop, Crop)
        return crop.work

    assert work() == Size(1024, 1024)
    assert work(width=640, height=512) == Size(640, 512)
    assert work(match_size="strict", padding=0, crop_factor=1) == Size(1536, 640)
    free = work(match_size="free", padding=0, crop_factor=1)
    assert free.width > 2 * free.height


def test_outside_of_the_mask_not_a_bit_changes() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((300, 400, 3)).astype(np.float32)
    before = image.copy()
    region = chosen([face(100, 100, 140, 150)], passing(), SIZE)[0]
    crop = crop_of(region, passing(), SIZE, 256)
    assert isinstance(crop, Crop)
    mask = soft(mask_in(region, crop), 4)
    paste(image, rng.random((crop.box.height, crop.box.width, 3)).astype(np.float32), crop, mask)
    whole = np.zeros((300, 400), np.float32)
    whole[crop.box.slices] = mask
    assert (image[whole == 0] == before[whole == 0]).all()
    assert (image[whole > 0.9] != before[whole > 0.9]).any()
    assert whole[90:160, 90:150].max() == 1
    assert whole.min() == 0
    faint = whole[whole > 0].min()
    assert faint >= FAINT
    assert soft(np.ones((9, 9), np.float32), 0).all()


def test_the_tone_is_matched_on_the_ring_whatever_was_repainted_inside() -> None:
    rng = np.random.default_rng(0)
    before = rng.random((100, 100, 3)).astype(np.float32) * 0.2 + 0.4
    mask = np.zeros((100, 100), np.float32)
    mask[30:70, 30:70] = 1
    drifted = before + np.array([0.05, -0.03, 0.02], np.float32)
    drifted[40:60, 40:60] = 0.9
    fixed = matched(drifted, before, soft(mask, 4))
    assert np.abs(fixed[:30] - before[:30]).max() < 1e-6
    assert np.allclose(fixed[50, 50], 0.9 - np.array([0.05, -0.03, 0.02], np.float32), atol=1e-6)
    assert matched(drifted, before, np.ones((100, 100), np.float32)) is drifted


def test_resizing_there_and_back_keeps_a_picture() -> None:
    y, x = np.mgrid[0:60, 0:80].astype(np.float32)
    picture = np.stack([x / 80, y / 60, (x + y) / 140], -1)
    there = resized(picture, Size(512, 384))
    assert there.shape == (384, 512, 3)
    assert np.abs(resized(there, Size(80, 60)) - picture).max() < 0.01
    assert resized(picture, Size(80, 60)) is picture


def test_crops_overlap_when_they_share_a_pixel() -> None:
    one, work = Crop(Box(0, 0, 10, 10), Size(64, 64)), Size(64, 64)
    assert overlaps(one, Crop(Box(9, 9, 20, 20), work))
    assert not overlaps(one, Crop(Box(10, 0, 20, 10), work))


@pytest.mark.parametrize("count", [200])
def test_a_crowd_is_sorted_out_quickly(count: int) -> None:
    found = [face(x % 380, x % 280, x % 380 + 20, x % 280 + 20, 0.5) for x in range(count)]
    assert len(chosen(found, passing(sort="large_to_small"), SIZE)) == count


def test_a_guide_size_keeps_the_crops_aspect() -> None:
    (region,) = chosen([face(100, 100, 140, 180)], passing(dilate=0), SIZE)
    crop = crop_of(region, passing(guide_size=128, max_size=512, padding=0, crop_factor=1), SIZE, 512)
    assert isinstance(crop, Crop)
    assert (crop.work, crop.box) == (Size(128, 256), Box(99, 98, 141, 182)), (
        "the mask's place, at the aspect of its size"
    )
    capped = crop_of(region, passing(guide_size=128, max_size=192, padding=0, crop_factor=1), SIZE, 512)
    assert isinstance(capped, Crop) and capped.work == Size(128, 192), "96 wide, in multiples of 64"


# The table of the specification: ADetailer's and Impact Pack's defaults and ranges.
@pytest.mark.parametrize(
    ("name", "default", "least", "most"),
    [
        ("confidence", 0.3, 0, 1),
        ("largest", 0, 0, None),
        ("min_ratio", 0, 0, 1),
        ("max_ratio", 1, 0, 1),
        ("dilate", 4, -128, 128),
        ("x_offset", 0, -200, 200),
        ("y_offset", 0, -200, 200),
        ("mask_blur", 4, 0, 64),
        ("denoise", 0.4, 0, 1),
        ("only_masked", True, None, None),
        ("padding", 32, 0, 256),
        ("width", 0, 0, None),
        ("height", 0, 0, None),
        ("noise_multiplier", 1.0, 0.5, 1.5),
        ("dynamic_denoise", 0, -10, 10),
        ("same_seed", False, None, None),
        ("crop_factor", 3.0, 1, None),
        ("drop_size", 10, 1, None),
        ("guide_size", 0, 0, None),
        ("max_size", 1024, None, None),
        ("cycle", 1, 1, None),
        ("noise_mask_feather", 0, 0, None),
        *(
            (name, None, None, None)
            for name in ("steps", "cfg", "sampler", "scheduler", "clip_skip", "checkpoint", "vae")
        ),
        ("restore_face", None, None, None),
        ("controlnet", (), None, None),
        ("controlnet_module", ("none",), None, None),
        ("controlnet_scale", (1.0,), None, None),
        ("controlnet_start", (0.0,), None, None),
        ("controlnet_end", (1.0,), None, None),
        ("filter", "area", None, None),
        ("merge", "none", None, None),
        ("sort", "none", None, None),
        ("match_size", "off", None, None),
    ],
)
def test_defaults_and_ranges(name: str, default: Any, least: float | None, most: float | None) -> None:
    assert getattr(passing(), name) == default
    for bound, beyond in ((least, -1e-3), (most, 1e-3)):
        if bound is not None:
            passing(**{name: bound})
            with pytest.raises(ValueError, match=name):
                passing(**{name: bound + (beyond if isinstance(default, float) else round(beyond * 1000))})


@pytest.mark.parametrize("wrong", [{"guide_size": 2048}, {"width": 512}, {"min_ratio": 0.5, "max_ratio": 0.1}])
def test_what_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="and|than"):
        passing(**wrong)
