"""Files that people commonly use, and where they go: for hints and `doctor`. Suggestions only; nothing is fetched unasked."""

from __future__ import annotations

CHECKPOINTS = (
    "Checkpoints are .safetensors files, such as dreamshaper_8 or realisticVisionV60B1 (SD 1.5), juggernautXL or "
    "animagine-xl (SDXL); put them into ./models and name them: --checkpoint models/FILE. From the hub: "
    "tilehires models fetch stabilityai/stable-diffusion-xl-base-1.0 sd_xl_base_1.0.safetensors."
)
UPSCALERS = (
    "Upscalers are files such as 4x-UltraSharp, RealESRGAN_x4plus, 4x_NMKD-Siax or 4x-AnimeSharp; put them into ./models "
    "and name them: --set hires.upscaler=models/FILE."
)
FACES = (
    "Face restorers are GFPGANv1.4, RestoreFormer or codeformer; put them into ./models and name them: "
    "tilehires upscale … --restore models/FILE."
)
DETECTORS = (
    "Detectors are files such as face_yolov8n.pt, hand_yolov8n.pt or person_yolov8n-seg.pt, which Bingsu/adetailer on the "
    "hub holds; put them into ./detectors."
)
ALL = (CHECKPOINTS, UPSCALERS, FACES, DETECTORS)
