"""What each tool writes into its images, read into A1111's names. The texts are in each tool's own form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tilehires import metadata
from tilehires.config.settings import Settings
from tilehires.geometry import Size
from tilehires.images import probe, read
from tilehires.metadata.a1111 import parse
from tilehires.metadata.metadata import Lora, Metadata
from tilehires.metadata.novelai import to_a1111


def found(**texts: Any) -> Metadata:
    """What is read from texts; tables are written as JSON."""
    written = {key.replace("_", "-") if key == "sd_metadata" else key: value for key, value in texts.items()}
    said = metadata.read({k: v if isinstance(v, str) else json.dumps(v) for k, v in written.items()})
    assert said is not None, "not recognised"
    return said


# ComfyUI

GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            **{"seed": 156680208700286, "steps": 22, "cfg": 6.5, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
            **{"denoise": 1.0, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0]},
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15\\dream_8.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox, (red:1.2)", "clip": ["12", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["12", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {
            **{"lora_name": "add/detail.safetensors", "strength_model": 0.8, "strength_clip": 0.5},
            **{"model": ["11", 0], "clip": ["11", 1]},
        },
    },
    "11": {
        "class_type": "LoraLoader",
        "inputs": {
            **{"lora_name": "film.safetensors", "strength_model": 1, "strength_clip": 1},
            **{"model": ["4", 0], "clip": ["4", 1]},
        },
    },
    "12": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
}


def graph(changes: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """GRAPH with other inputs, or more nodes ("kind" names their class)."""
    made = {name: {**node, "inputs": dict(node["inputs"])} for name, node in GRAPH.items()}
    for name, inputs in (changes or {}).items():
        node = made.setdefault(name, {"class_type": "", "inputs": {}})
        node["class_type"] = inputs.get("kind", node["class_type"])
        node["inputs"].update({key: value for key, value in inputs.items() if key != "kind"})
    return made


def test_comfyui_is_followed_from_the_sampler() -> None:
    said = found(prompt=graph(), workflow={"nodes": []})
    assert (said.prompt, said.negative_prompt) == ("a fox, (red:1.2)", "blurry")
    assert (said.seed, said.steps, said.cfg) == (156680208700286, 22, 6.5)
    assert (said.sampler, said.scheduler) == ("DPM++ 2M", "Karras")
    assert (said.model, said.size, said.clip_skip, said.source) == ("dream_8", Size(512, 768), 2, "ComfyUI")
    assert said.loras == (Lora("film", 1.0, 1.0), Lora("detail", 0.8, 0.5)), "in the order they are applied"
    assert said.settings()["loras"] == "<lora:film:1> <lora:detail:0.5:0.8>"


def test_comfyui_of_several_samplers_the_first_pass_counts() -> None:
    second = {
        **{"kind": "KSampler", "seed": 1, "steps": 9, "cfg": 3, "sampler_name": "euler", "scheduler": "normal"},
        **{"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["21", 0]},
    }
    between = {"kind": "LatentUpscale", "samples": ["3", 0], "width": 1024, "height": 1536}
    said = found(prompt=graph({"20": second, "21": between, "8": {"samples": ["20", 0]}}))
    assert (said.seed, said.steps, said.size) == (156680208700286, 22, Size(512, 768))
    stray = {**second, "latent_image": ["5", 0]}
    assert found(prompt=graph({"20": stray})).steps == 22, "what doesn't lead to the saved image doesn't count"


def test_comfyui_follows_values_and_prompts_through_other_nodes() -> None:
    changes = {
        "3": {"seed": ["30", 0], "positive": ["31", 0], "negative": ["31", 1], "steps": ["35", 0]},
        "30": {"kind": "Seed (rgthree)", "seed": 77},
        "31": {"kind": "ControlNetApplyAdvanced", "positive": ["32", 0], "negative": ["7", 0], "strength": 1},
        "32": {"kind": "ConditioningCombine", "conditioning_1": ["6", 0], "conditioning_2": ["33", 0]},
        "33": {"kind": "CLIPTextEncode", "text": ["34", 0], "clip": ["12", 0]},
        "34": {"kind": "StringConcatenate", "string_a": "in snow", "string_b": "at dusk", "delimiter": ", "},
        "35": {"kind": "Reroute", "": ["36", 0]},
        "36": {"kind": "PrimitiveInt", "value": 31},
    }
    said = found(prompt=graph(changes))
    assert said.prompt == "a fox, (red:1.2), in snow, at dusk"
    assert (said.negative_prompt, said.seed, said.steps) == ("blurry", 77, 31)


def test_comfyuis_custom_sampler_is_read_from_its_parts() -> None:
    changes = {
        "3": {"kind": "SamplerCustomAdvanced", "noise": ["40", 0], "guider": ["41", 0], "sampler": ["42", 0]},
        "40": {"kind": "RandomNoise", "noise_seed": 5},
        "41": {"kind": "CFGGuider", "cfg": 4, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0]},
        "42": {"kind": "KSamplerSelect", "sampler_name": "euler_ancestral"},
        "43": {"kind": "BasicScheduler", "scheduler": "sgm_uniform", "steps": 12, "denoise": 1, "model": ["4", 0]},
    }
    made = graph(changes)
    made["3"]["inputs"] = {
        **{key: made["3"]["inputs"][key] for key in ("noise", "guider", "sampler", "latent_image")},
        "sigmas": ["43", 0],
    }
    said = found(prompt=made)
    assert (said.seed, said.steps, said.cfg) == (5, 12, 4.0)
    assert (said.sampler, said.scheduler) == ("Euler a", "SGM Uniform")
    assert (said.prompt, said.negative_prompt, said.model, len(said.loras)) == (
        "a fox, (red:1.2)",
        "blurry",
        "dream_8",
        2,
    )


def test_comfyuis_lists_of_loras_are_read() -> None:
    listed = {
        **{"kind": "Power Lora Loader (rgthree)", "model": ["4", 0], "clip": ["4", 1]},
        "lora_1": {"on": True, "lora": "ink.safetensors", "strength": 0.6},
        "lora_2": {"on": False, "lora": "off.safetensors", "strength": 1},
    }
    made = graph({"10": listed})
    for key in ("lora_name", "strength_model", "strength_clip"):
        del made["10"]["inputs"][key]
    assert found(prompt=made).loras == (Lora("ink", 0.6, 0.6),)


def workflow() -> dict[str, Any]:
    """The editor's form: values by position, links apart; one LoRA is bypassed, one sampler muted."""

    def node(identity: int, kind: str, widgets: list[Any], inputs: dict[str, tuple[str, int]], **more: Any) -> Any:
        ports = [{"name": name, "type": kind, "link": link} for name, (kind, link) in inputs.items()]
        return {"id": identity, "type": kind, "widgets_values": widgets, "inputs": ports, **more}

    sampling = [11, "randomize", 18, 5.5, "dpmpp_2m_sde", "exponential", 1.0]
    latent = {"model": ("MODEL", 1), "positive": ("C", 2), "negative": ("C", 3), "latent_image": ("LATENT", 4)}
    both = [{"type": "MODEL"}, {"type": "CLIP"}]
    return {
        "nodes": [
            node(3, "KSampler", sampling, latent),
            node(4, "CheckpointLoaderSimple", ["xl.safetensors"], {}),
            node(5, "EmptyLatentImage", [832, 1216, 1], {}),
            node(6, "CLIPTextEncode", ["an owl"], {"clip": ("CLIP", 6)}),
            node(7, "CLIPTextEncode", ["text"], {"clip": ("CLIP", 6)}),
            node(9, "SaveImage", ["out"], {"images": ("IMAGE", 9)}),
            node(8, "VAEDecode", [], {"samples": ("LATENT", 8)}),
            node(10, "LoraLoader", ["off", 1, 1], {"model": ("MODEL", 5), "clip": ("CLIP", 7)}, mode=4, outputs=both),
            node(12, "KSampler", [1, "fixed", 1, 1, "euler", "normal", 1], latent, mode=2),
        ],
        "links": [
            *([1, 10, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "C"], [3, 7, 0, 3, 2, "C"], [4, 5, 0, 3, 3, "LATENT"]),
            *([5, 4, 0, 10, 0, "MODEL"], [6, 10, 1, 6, 0, "CLIP"], [7, 4, 1, 10, 1, "CLIP"]),
            *([8, 3, 0, 8, 0, "LATENT"], {"id": 9, "origin_id": 8, "origin_slot": 0, "type": "IMAGE"}),
        ],
    }


@pytest.mark.parametrize("texts", [{}, {"prompt": "{broken"}, {"prompt": "{}"}], ids=str)
def test_comfyuis_workflow_is_read_where_there_is_no_prompt(texts: dict[str, str]) -> None:
    said = found(workflow=workflow(), **texts)
    assert (said.prompt, said.negative_prompt) == ("an owl", "text")
    assert (said.seed, said.steps, said.cfg, said.sampler, said.scheduler) == (
        11,
        18,
        5.5,
        "DPM++ 2M SDE",
        "Exponential",
    )
    assert (said.model, said.size, said.loras) == ("xl", Size(832, 1216), ()), "a bypassed LoRA isn't used"


# The others


def test_forge_and_its_kin_are_told_apart_by_their_version() -> None:
    line = "a cat\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 3"
    said = found(parameters=f"{line}, Size: 64x64, Module 1: ae, Version: f2.0.1v1.10.1-previous-634")
    assert (said.source, said.scheduler, said.others["Distilled CFG Scale"]) == ("Forge", "Simple", "3.5")
    assert said.family == "flux", "its CFG of 1 is no CFG for another model"
    assert found(parameters=line.replace("Distilled CFG Scale: 3.5, ", "")).family is None
    assert found(parameters=f"{line}, App: SD.Next, Version: 3c2b8a1").source == "SD.Next"


def test_swarmui() -> None:
    params = {
        **{"prompt": "a cliff", "negativeprompt": "fog", "model": "SDXL/base.safetensors", "seed": 9, "steps": 30},
        **{"cfgscale": 6.5, "width": 1024, "height": 768, "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras"},
        **{"loras": ["sub/ink", "glow"], "loraweights": ["0.7", "1"], "clipstopatlayer": -2, "swarm_version": "0.9.6"},
    }
    said = found(parameters={"sui_image_params": params, "sui_extra_data": {"date": "2025-01-01"}})
    assert (said.prompt, said.negative_prompt, said.seed, said.steps, said.cfg) == ("a cliff", "fog", 9, 30, 6.5)
    assert (said.sampler, said.scheduler, said.size) == ("DPM++ 2M SDE", "Karras", Size(1024, 768))
    assert (said.model, said.clip_skip, said.loras) == ("base", 2, (Lora("ink", 0.7), Lora("glow", 1.0)))
    assert said.others == {"swarm_version": "0.9.6"} and said.source == "SwarmUI"


def test_invokeai_of_today() -> None:
    said = found(
        invokeai_metadata={
            **{"app_version": "5.4.2", "positive_prompt": "a barn", "negative_prompt": "", "seed": 4, "steps": 25},
            **{"cfg_scale": 7.5, "scheduler": "dpmpp_2m_sde_k", "clip_skip": 1, "width": 640, "height": 512},
            "model": {"key": "x", "hash": "blake3:1", "name": "dreamshaper-8", "base": "sd-1", "type": "main"},
            "loras": [{"model": {"name": "ink", "base": "sd-1"}, "weight": 0.75}],
        }
    )
    assert (said.prompt, said.negative_prompt, said.seed, said.steps, said.cfg) == ("a barn", "", 4, 25, 7.5)
    assert (said.sampler, said.scheduler, said.size) == ("DPM++ 2M SDE", "Karras", Size(640, 512))
    assert (said.model, said.family, said.loras) == ("dreamshaper-8", "sd1", (Lora("ink", 0.75),))
    assert said.clip_skip == 2, "InvokeAI counts layers left out"


def test_invokeai_of_before() -> None:
    two = {
        **{"model": "stable diffusion", "model_weights": "sd-1.5", "model_hash": "ab", "app_version": "2.3"},
        "image": {
            **{"prompt": [{"prompt": "a barn [ugly] at night", "weight": 1.0}], "steps": 50, "cfg_scale": 7.5},
            **{"sampler": "k_dpmpp_2", "seed": 42, "width": 512, "height": 640},
        },
    }
    said = found(sd_metadata=two, Dream='"other" -s 1')
    assert (said.prompt, said.negative_prompt) == ("a barn at night", "ugly")
    assert (said.steps, said.seed, said.size, said.sampler) == (50, 42, Size(512, 640), "DPM++ 2M")
    said = found(Dream='"a barn [ugly], red" -s 50 -S42 -W 512 -H 640 -C 7.5 -A k_euler_a')
    assert (said.prompt, said.negative_prompt) == ("a barn, red", "ugly")
    assert (said.steps, said.seed, said.size, said.cfg) == (50, 42, Size(512, 640), 7.5)
    assert said.sampler == "Euler a"


FOOOCUS = {
    **{"prompt": "a pier", "negative_prompt": "", "full_prompt": ["cinematic still a pier", "sharp focus"]},
    **{"full_negative_prompt": ["anime", "cartoon"], "steps": 30, "resolution": "(1152, 896)", "guidance_scale": 4.0},
    **{"sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "1234567890", "clip_skip": 2, "vae": "Default"},
    **{"base_model": "juggernautXL_v8", "base_model_hash": "aeb7e9e689", "version": "Fooocus v2.5.5"},
    "loras": [["offset", 0.1, "4852686128"]],
}


def test_fooocus() -> None:
    said = found(parameters=FOOOCUS, fooocus_scheme="fooocus")
    assert said.prompt == "cinematic still a pier, sharp focus" and said.negative_prompt == "anime, cartoon"
    assert (said.seed, said.steps, said.cfg, said.size) == (1234567890, 30, 4.0, Size(1152, 896))
    assert (said.sampler, said.scheduler, said.clip_skip) == ("DPM++ 2M SDE", "Karras", 2)
    assert (said.model, said.family, said.loras) == ("juggernautXL_v8", "sdxl", (Lora("offset", 0.1),))
    combined = {**FOOOCUS, "loras": None, "lora_combined_1": "sub/ink.safetensors : 0.5"}
    assert found(parameters=combined).loras == (Lora("ink", 0.5),)


def test_fooocus_in_a1111s_words() -> None:
    said = found(
        parameters="a pier\nNegative prompt: anime\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 5, Size: 1152x896, "
        'CFG scale: 4, Model: jugg, Scheduler: karras, Lora hashes: "offset: 48", Lora weights: "offset: 0.1", '
        "Version: Fooocus v2.5.5"
    )
    assert (said.source, said.sampler, said.scheduler) == ("Fooocus", "DPM++ 2M SDE", "Karras")
    assert said.loras == (Lora("offset", 0.1),) and said.others["Lora hashes"] == "offset: 48"


def test_novelai() -> None:
    comment = {
        **{"prompt": "1girl, {{smile}}, [hat], :) (park)", "steps": 28, "height": 1216, "width": 832, "scale": 5.0},
        **{"uc": "lowres", "seed": 1, "sampler": "k_euler_ancestral", "noise_schedule": "karras", "request_type": "x"},
    }
    said = found(Comment=comment, Software="NovelAI", Source="Stable Diffusion XL C1E1DE52", Description="1girl")
    assert said.prompt == r"1girl, ((smile:1.05):1.05), (hat:0.952), :\) \(park\)"
    assert (said.negative_prompt, said.seed, said.steps, said.cfg) == ("lowres", 1, 28, 5.0)
    assert (said.sampler, said.scheduler, said.size) == ("Euler a", "Karras", Size(832, 1216))
    assert (said.family, said.others) == ("sdxl", {"request_type": "x"})
    caption = {"caption": {"base_caption": "park", "char_captions": [{"char_caption": "girl"}]}}
    four = {**comment, "prompt": None, "v4_prompt": caption}
    said = found(Comment=four, Software="NovelAI", Source="NovelAI Diffusion V4 37442FCA")
    assert said.prompt == "park, girl" and said.family != "sdxl"


def test_novelais_emphasis_becomes_a1111s() -> None:
    assert to_a1111("1.5::red hat::, {x}") == "(red hat:1.5), (x:1.05)"
    assert to_a1111("{x} ]") == "{x} ]", "brackets that don't match are left alone"


# Containers

INFO = "a fox\nNegative prompt: blur\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 8, Size: 8x8"


@pytest.mark.parametrize("chunk", ["tEXt", "iTXt", "zTXt", "packed iTXt"])
def test_every_kind_of_png_text_is_read(tmp_path: Path, chunk: str) -> None:
    info = PngImagePlugin.PngInfo()
    text = INFO if chunk.endswith("iTXt") is False else INFO.replace("fox", "狐")
    if chunk.endswith("iTXt"):
        info.add_itxt("parameters", text, zip=chunk.startswith("packed"))
    else:
        info.add_text("parameters", text, zip=chunk == "zTXt")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    for texts in (probe(tmp_path / "a.png").texts, read(tmp_path / "a.png").texts):
        assert metadata.from_texts(texts)["prompt"] == text.partition("\n")[0]


def exif_with(tag: int, value: Any, *, inner: bool = True) -> Image.Exif:
    exif = Image.Exif()
    if inner:
        exif.get_ifd(0x8769)[tag] = value
    else:
        exif[tag] = value
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize(
    ("exif", "source"),
    [
        (exif_with(0x9286, b"UNICODE\0" + INFO.encode("utf-16-be")), "A1111"),
        (exif_with(0x9286, b"UNICODE\0" + INFO.encode("utf-16-le")), "A1111"),
        (exif_with(0x9286, b"ASCII\0\0\0" + INFO.encode()), "A1111"),
        (exif_with(0x9286, b"JIS\0\0\0\0\0" + INFO.encode("iso2022_jp")), "A1111"),
        (exif_with(0x9286, INFO.encode()), "A1111"),
        (exif_with(0x9286, json.dumps(FOOOCUS), inner=False), "Fooocus"),
        (exif_with(0x9286, b"ASCII\0\0\0" + json.dumps({"sui_image_params": {"prompt": "x"}}).encode()), "SwarmUI"),
        (exif_with(0x0110, "prompt:" + json.dumps(GRAPH), inner=False), "ComfyUI"),
        (exif_with(0x010F, "workflow:" + json.dumps(workflow()), inner=False), "ComfyUI"),
    ],
    ids=["big", "little", "ascii", "jis", "bare", "fooocus", "swarm", "comfy-prompt", "comfy-workflow"],
)
def test_every_place_in_exif_is_read(tmp_path: Path, suffix: str, exif: Image.Exif, source: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    said = metadata.read(probe(path).texts)
    assert said is not None and said.source == source and said.prompt


def test_a_jpegs_comment_and_a_webps_xmp_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", comment=INFO.encode())
    said = metadata.read(probe(tmp_path / "a.jpg").texts)
    assert said is not None and (said.prompt, said.seed) == ("a fox", 8)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", comment=b"our holiday, step by step")
    assert metadata.read(probe(tmp_path / "b.jpg").texts) is None
    xmp = INFO.replace("fox", "fox &amp; hen")
    packet = f"<x><exif:UserComment><rdf:Alt><rdf:li xml:lang='x'>{xmp}</rdf:li></rdf:Alt></exif:UserComment></x>"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", xmp=packet.encode())
    said = metadata.read(probe(tmp_path / "a.webp").texts)
    assert said is not None and said.prompt == "a fox & hen"


# What is written for them


def test_other_tools_settings_are_written_in_a1111s_words() -> None:
    before = {"prompt": json.dumps(graph()), "workflow": json.dumps(workflow())}
    texts = metadata.texts_for(before, Settings(), 1)  # pyright: ignore[reportCallIssue]
    written = parse(texts["parameters"])
    assert written.prompt == "a fox, (red:1.2) <lora:film:1> <lora:detail:0.5:0.8>"
    assert written.negative_prompt == "blurry"
    wanted = {"Steps": "22", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "Seed": "156680208700286"}
    wanted |= {"CFG scale": "6.5", "Size": "512x768", "Model": "dream_8", "Clip skip": "2"}
    assert {key: written.fields[key] for key in wanted} == wanted
    assert {key: texts[key] for key in before} == before, "the graph itself stays"
    again = metadata.read(texts)
    assert again is not None and again.source == "tilehires" and again.loras == ()
    first = replace(found(**before), source="", loras=())
    assert again.settings() == {**first.settings(), "prompt": written.prompt}


def test_a_json_of_the_inputs_is_kept_beside_the_infotext() -> None:
    said = json.dumps(FOOOCUS)
    texts = metadata.texts_for({"parameters": said, "fooocus_scheme": "fooocus"}, Settings(), 1)  # pyright: ignore[reportCallIssue]
    assert parse(texts["parameters"]).fields["Seed"] == "1234567890"
    assert json.loads(texts["tilehires"])["input_parameters"] == said
