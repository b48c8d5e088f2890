"""detail.hires and detail.final: find faces, hands, whatever a detector knows; repair them; leave the rest alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tilehires import memory
from tilehires.checks import Finding
from tilehires.config.detail import DetailPass
from tilehires.config.settings import SamplingPass, Settings, hires_pass
from tilehires.detectors import Detection, DetectorFile
from tilehires.diffusion import prompts, sampling
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.geometry import Size
from tilehires.memory import VaeMode
from tilehires.stages import Less, Source, StageResult, Tools
from tilehires.stages.crops import MULTIPLE, crop_of, mask_in
from tilehires.stages.cutting import tile_range
from tilehires.stages.extras import fitted
from tilehires.stages.looking import DetectorFailedError, looked_for, resolved
from tilehires.stages.means import Means, means_of
from tilehires.stages.pieces import NO_LIMIT, Pieces, pieces, usual
from tilehires.stages.regions import REPAIRED, Region, chosen, denoise_of, moved
from tilehires.stages.repair import Job, Work, batches, repair
from tilehires.stages.route import Route
from tilehires.stages.words import given_out, of_region

At = Literal["hires", "final"]
MOST = 100  # regions repaired in one pass: a crowd's faces would take the night
FAILED = "failed: not finite"
LEAST = 512  # px; the built-in model was trained on crops of 128 for speed, and works at any size


class DetailSlice(BaseModel):
    """Everything that shapes the pixels of the passes that run in one place.

    `whole_max`, `far`: as in repair.Work. `limit`: the longest side that goes through the UNet in one piece, 0 for none.
    """

    model_config = ConfigDict(frozen=True)

    passes: tuple[DetailPass, ...]
    weights: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    values: SamplingPass
    clip_skip: int
    emphasis: prompts.Emphasis
    dtype: str
    vae: tuple[str | None, ...]
    first_steps: int
    size: Size
    factor: tuple[float, float]
    shift: tuple[int, int]
    native: tuple[int, ...]
    tile: tuple[tuple[int, int, int], ...]
    whole_max: int
    far: tuple[VaeMode, ...]
    limit: int = 0


class Told:
    """What a record holds of the models' work, gathered batch by batch."""

    def __init__(self) -> None:
        self.facts: dict[str, list[Any]] = {"degradations": []}
        self.restored = 0

    def add(self, name: str, said: Sequence[Any]) -> None:
        if said:
            known = self.facts.setdefault(name, [])
            known += [one for one in said if one not in known]


class DetailStage:
    """The detect-and-inpaint passes after the hires step, or on the final image, each on the image left by the one before."""

    version = 1
    makes_pixels = True

    def __init__(
        self,
        name: str,
        settings: DetailSlice,
        found: Sequence[DetectorFile],
        means: Sequence[Means],
        *,
        on_cpu: bool = False,
    ) -> None:
        """`on_cpu`: detectors and face restoration models aren't brought to the device."""
        self.name = name
        self.settings = settings
        self.found, self.means = tuple(found), tuple(means)
        self._on_cpu = on_cpu

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user of what the prompts name and was left out."""
        return tuple(dict.fromkeys(note for means in self.means for note in means.notes))

    @property
    def models(self) -> tuple[Path, ...]:
        files: list[Path] = []
        for one, found, means in zip(self.settings.passes, self.found, self.means, strict=True):
            files += found.files
            files += means.files if one.denoise > 0 else ()
        return tuple(dict.fromkeys(files))

    @property
    def restorers(self) -> tuple[Path, ...]:
        """The face restoration models of its passes."""
        return tuple(dict.fromkeys(means.restorer for means in self.means if means.restorer))

    def planned(self) -> tuple[tuple[str, str, int], ...]:
        """Of each pass: its detector, the size at which regions are repaired, and the steps for each."""
        rows = []
        for number, one in enumerate(self.settings.passes):
            native, size = self.settings.native[number], usual(one, self.settings.native[number])
            fixed = one.match_size == "off" or one.width
            shape = f"{one.guide_size} px" if one.guide_size else str(size) if fixed else f"{native}² pixels"
            if not one.only_masked:
                shape = f"{self.settings.size}, the whole picture"
            steps = sampling.exact_steps(self.work(number).steps, one.denoise).run * one.cycle if one.denoise > 0 else 0
            rows.append((one.detector, shape, steps))
        return tuple(rows)

    def pieces(self, number: int) -> Pieces:
        """What of a pass goes through its models at once, at most."""
        s, tile = self.settings, self.work(number).tile
        whole = s.whole_max
        return pieces(
            s.passes[number], s.size, native=s.native[number], tile_max=tile[1], whole_max=whole, limit=s.limit
        )

    @property
    def in_tiles(self) -> bool:
        """Whether a region may be cut into tiles."""
        return any(self.pieces(number).tile for number in range(len(self.settings.passes)))

    def smaller(self, part: str) -> Less | None:
        """See `Shrinking`. Crops lose a quarter of their side, down to 128 px or twice the tiles' overlap: of a region that
        is larger, tiles of that size are repainted. A VAE that worked in one piece goes in tiles or strips. Detectors and
        face restoration models work on the CPU."""
        s = self.settings
        sizes = [max(usual(one, s.native[i]).long_side, s.tile[i][1]) for i, one in enumerate(s.passes)]
        side = (s.limit or max(sizes)) * 3 // 4 // MULTIPLE * MULTIPLE
        if part in ("detector", "face restoration") and not self._on_cpu:
            stage = DetailStage(self.name, s, self.found, self.means, on_cpu=True)
            return Less(stage, f"{part} on the CPU")
        if part == "VAE" and s.whole_max:
            return Less(self._with(whole_max=0), "vae_mode tiled")
        if part == "UNet" and side >= max(128, *(2 * tile[2] for tile in s.tile)):
            return Less(self._with(limit=side), f"crop size {side}")
        return None

    def _with(self, **changes: int) -> DetailStage:
        changed = self.settings.model_copy(update=changes)
        return DetailStage(self.name, changed, self.found, self.means, on_cpu=self._on_cpu)

    def run(self, image: StageResult, source: Source, tools: Tools) -> StageResult:
        pixels, regions = image.pixels, []
        findings: list[Finding] = []
        told = Told()
        changed: np.ndarray | None = None
        for number, one in enumerate(self.settings.passes):
            current = pixels if changed is None else changed
            try:
                found = self._detect(number, one, current, source, tools)
            except DetectorFailedError as error:
                message = f"{error} Nothing was looked for with it."
                findings.append(Finding("detail", "warning", 1, 0, None, message))
                continue
            open_ = chosen(found, one, self.settings.size)
            if any(not region.fate for region in open_) and changed is None:
                changed = np.array(pixels, np.float32)
            done = self._repaired(number, one, open_, current if changed is None else changed, tools, told)
            regions += [region.to_json(self.name) for region in done]
            findings += [_unrepaired(region) for region in done if region.fate == FAILED]
        facts = {
            "regions": regions,
            "detectors": [one.detector for one in self.settings.passes],
            **told.facts,
            **({"faces_restored": told.restored} if any(one.restore_face for one in self.settings.passes) else {}),
        }
        return StageResult(pixels if changed is None else changed, facts, tuple(findings))

    def _detect(
        self, number: int, one: DetailPass, current: np.ndarray, source: Source, tools: Tools
    ) -> tuple[Detection, ...]:
        """Detections in pixels of the stage's image; those of half the confidence too, so that their fate is told."""
        found_file = self.found[number]
        tools.progress.begin(f"{self.name}: looking for {one.detector}", 1)
        s = self.settings
        on_input = one.detect_on == "input"
        picture = source.pixels if on_input else current
        [found] = looked_for(found_file, [(picture, one.confidence / 2)], tools.bay, on_cpu=self._on_cpu)
        tools.progress.advance()
        if not on_input:
            return found
        return tuple(there for here in found if (there := moved(here, s.factor, s.shift, s.size)) is not None)

    def _repaired(
        self,
        number: int,
        one: DetailPass,
        regions: Sequence[Region],
        image: np.ndarray,
        tools: Tools,
        told: Told,
    ) -> list[Region]:
        """The regions with their fates, after those without one were repaired in `image`, in place."""
        s, means = self.settings, self.means[number]
        fates = [region.fate for region in regions]
        open_ = [i for i, fate in enumerate(fates) if not fate]
        wanted = given_out(one.prompt, s.values.prompt)
        avoided = given_out(one.negative_prompt, s.values.negative_prompt)
        jobs: list[tuple[int, Job]] = []
        for order, i in enumerate(open_):
            prompt, negative = of_region(wanted, order), of_region(avoided, order)
            if order >= MOST:
                fates[i] = f"not among the first {MOST}"
            elif prompt is None:
                fates[i] = "skipped by prompt"
            elif isinstance(crop := crop_of(regions[i], one, s.size, s.native[number], s.limit), str):
                fates[i] = crop
            elif (denoise := denoise_of(one, regions[i], s.size)) <= 0:
                fates[i] = "nothing to repaint (denoise 0)"
            else:
                seed = s.values.seed if one.same_seed else s.values.seed + order
                face = regions[i].box if "face" in regions[i].kind.lower() and one.merge == "none" else None
                mask = mask_in(regions[i], crop)
                jobs.append((i, Job(order, crop, mask, prompt, negative or "", denoise, seed, face)))
        work = self.work(number)
        together = self.pieces(number).region
        for turn in range(one.cycle):
            named = replace(work, name=f"{work.name}/{turn + 1}") if turn else work
            left = [job for i, job in jobs if fates[i] != FAILED]
            for batch in batches(left, tools.plan.region_batch, together.pixels if together else 0):
                ready = fitted(tools.bay, means.checkpoint, means.vae, means.extras[batch[0].prompt])
                done = repair(image, batch, ready, named, tools)
                told.add("degradations", done.degradations)
                told.add("loras", ready.facts.get("loras", ()))
                told.add("left_out", ready.left_out)
                told.restored += done.restored
                for job, well in zip(batch, done.well, strict=True):
                    i = next(i for i, other in jobs if other is job)
                    fates[i] = REPAIRED if well else FAILED
        if jobs and work.nets:
            tools.bay.put_away(tools.bay.controlnets(work.nets))
        return [replace(region, fate=fate) for region, fate in zip(regions, fates, strict=True)]

    def work(self, number: int) -> Work:
        """How a pass samples."""
        s, means, one = self.settings, self.means[number], self.settings.passes[number]
        least, largest, overlap = s.tile[number]
        longest = min(largest, s.limit or largest)
        return Work(
            name=f"{self.name}.{number + 1}",
            steps=one.steps or s.values.steps,
            first_steps=s.first_steps,
            cfg=s.values.cfg if one.cfg is None else one.cfg,
            sampler=one.sampler or s.values.sampler,
            scheduler=one.scheduler or s.values.scheduler,
            family=means.checkpoint.family,
            clip_skip=one.clip_skip or s.clip_skip,
            emphasis=s.emphasis,
            noise_multiplier=one.noise_multiplier,
            mask_blur=one.mask_blur,
            native=s.native[number],
            tile=(min(least, longest), longest, overlap),
            controlnets=one.controlnets,
            nets=means.nets,
            noise_mask_feather=one.noise_mask_feather,
            restorer=means.restorer,
            restore_visibility=one.restore_visibility,
            restore_on_cpu=self._on_cpu,
            whole_max=s.whole_max,
            far=s.far[number],
            limit=s.limit,
        )


def detail_stage(
    settings: Settings,
    route: Route,
    seed: int,
    checkpoint: Checkpoint,
    at: At,
    from_image: Callable[[str], bool] = lambda name: False,
) -> DetailStage | None:
    """The stage of the passes that run at that place; None where there are none. `from_image`: as in find_extras."""
    chosen_ = [(one, found) for one, found in map(resolved, settings.detail.passes) if one.at == at]
    if not chosen_:
        return None
    step = route.steps[0] if at == "hires" else route.steps[-1]
    means = [means_of(one, settings, seed, checkpoint, from_image) for one, _ in chosen_]
    families, tiled = [one.checkpoint.family for one in means], settings.tiled
    sliced = DetailSlice(
        passes=tuple(one for one, _ in chosen_),
        weights=tuple(found.weights if not found.files else "" for _, found in chosen_),
        classes=tuple(found.classes for _, found in chosen_),
        values=hires_pass(settings, seed),
        clip_skip=settings.model.clip_skip,
        emphasis=settings.model.emphasis,
        dtype=settings.model.dtype,
        vae=tuple(one.vae for one in means),
        first_steps=settings.generate.steps,
        size=step.crop.size,
        factor=(step.size.width / route.source.width, step.size.height / route.source.height),
        shift=(step.crop.x0, step.crop.y0),
        native=tuple(max(family.native, LEAST) for family in families),
        tile=tuple((*tile_range(tiled, family), tiled.overlap) for family in families),
        whole_max={"auto": settings.memory.vae_whole_max, "whole": NO_LIMIT}.get(settings.memory.vae, 0),
        far=tuple(_far(settings, step.crop.size, one.checkpoint) for one in means),
    )
    return DetailStage(f"detail.{at}", sliced, [found for _, found in chosen_], means)


def _far(settings: Settings, size: Size, checkpoint: Checkpoint) -> VaeMode:
    """How the VAE takes what is too large for one piece: as it takes the whole image."""
    budget = memory.host_budget(settings.memory.ram)
    mode = memory.vae_mode(settings.memory.vae, size, checkpoint.vae, whole_max=0, budget=budget)
    return "tiled" if mode == "whole" else mode


def _unrepaired(region: Region) -> Finding:
    message = f"A {region.kind} came back from the model as no numbers, and was left as it was."
    return Finding("detail", "warning", 1, 0, region.box, message)
