"""What other tools call A1111's samplers and schedules.

ComfyUI's names are k-diffusion's; SwarmUI and Fooocus use them too, NovelAI and old InvokeAI put "k_" before them.
InvokeAI's own names are diffusers': a "_k" at the end means Karras.
"""

from __future__ import annotations

from collections.abc import Mapping

SAMPLERS: Mapping[str, str] = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "dpm_2_a": "DPM2 a",
    "dpm_fast": "DPM fast",
    "dpm_adaptive": "DPM adaptive",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_2s": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_sde_gpu": "DPM++ SDE",
    "dpmpp_2": "DPM++ 2M",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_2m_sde_heun_gpu": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_3m_sde_gpu": "DPM++ 3M SDE",
    "ddim": "DDIM",
    "ddim_v3": "DDIM",
    "plms": "PLMS",
    "pndm": "PLMS",
    "unipc": "UniPC",
    "uni_pc": "UniPC",
    "lcm": "LCM",
    "uni_pc_bh2": "UniPC bh2",
    "deis": "DEIS",
    "ddpm": "DDPM",
    "tcd": "TCD",
    "restart": "Restart",
    "heunpp2": "Heun++ 2",
    "ipndm": "IPNDM",
    "ipndm_v": "IPNDM_V",
}
"""Names in lower case. What isn't here stays as it is."""

SCHEDULES: Mapping[str, str] = {
    "normal": "Uniform",
    "uniform": "Uniform",
    "native": "Automatic",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "beta": "Beta",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "ddim_uniform": "DDIM",
    "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps",
    "align_your_steps_11": "Align Your Steps",
    "ays": "Align Your Steps",
}


def sampler(name: str | None) -> str | None:
    """A1111's name for a tool's sampler; one that it has no name for as it is."""
    if name is None:
        return None
    key = name.strip().lower()
    return SAMPLERS.get(key) or SAMPLERS.get(key.removeprefix("k_")) or name


def schedule(name: str | None) -> str | None:
    """A1111's name for a tool's schedule."""
    return name if name is None else SCHEDULES.get(name.strip().lower(), name)


def split_karras(name: str | None) -> tuple[str | None, str | None]:
    """(sampler, schedule) of InvokeAI's names, where "dpmpp_2m_k" is DPM++ 2M with Karras."""
    if name and name.lower().endswith("_k") and name.lower()[:-2] in SAMPLERS:
        return SAMPLERS[name.lower()[:-2]], "Karras"
    return sampler(name), None
