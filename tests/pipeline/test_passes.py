"""Every sampling value of hires and tiled: it has its effect where it is set, tiled inherits it, and may differ.

One run does it all: equal images, each with another sidecar. Checkpoint and VAE, which are one for a run, are in test_swap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import loras, tiny
from tests.batches import draw, outputs
from tilehires.cli import main
from tilehires.config.settings import PassSettings
from tilehires.config.toml import literal
from tilehires.report import load

BASE = """\
[generate]
prompt = "a cat"
negative_prompt = "blur"
seed = 1
steps = 2
cfg = 4
sampler = "Euler"
scheduler = "Automatic"
[check]
enabled = false
[model]
lora_folder = "models/loras"
"""
COMMON = {"denoise": 0.5, "upscaler": "Lanczos"}
# The setting: (its value in all other images, the value that is tried).
PASS: dict[str, tuple[Any, Any]] = {
    "prompt": ("a cat", "a dog in the rain"),
    "negative_prompt": ("blur", "noise"),
    "cfg": (4, 9),
    "seed": (1, 2),
    "steps": (2, 3),
    "sampler": ("Euler", "Heun"),
    "scheduler": ("Automatic", "Karras"),
    "denoise": (0.5, 0.9),
    "lock": (1.0, 0.2),
    "upscaler": ("Lanczos", "Nearest"),
    "loras": ([], ["style:0.9"]),
}
KINDS = ("hires", "both", "hires-only", "tiled")
ELSEWHERE = {
    "prompt_add": "not inherited: below",
    "checkpoint": "test_swap",
    "vae": "test_swap",
    "refiner": "test_refiner",
    "switch_at": "test_refiner",
    **{f"controlnet{end}": "test_controlnet" for end in ("", "_scale", "_start", "_end")},
}


def sidecar(kind: str, key: str) -> str:
    usual, tried = PASS[key]
    hires, tiled = dict(COMMON), {}
    if kind != "tiled":
        hires[key] = tried
    if kind in ("both", "tiled"):
        tiled[key] = tried
    if kind == "hires-only":
        tiled[key] = usual
    return BASE + table("hires", hires) + table("tiled", tiled)


def table(name: str, values: dict[str, Any]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {literal(value)}" for key, value in values.items())]) + "\n"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """(the finished files' bytes, the report's images) by name: "base", "prompt-hires", …"""
    root = tmp_path_factory.mktemp("passes")
    pipe = tiny.sd15()
    checkpoint = tiny.write_single_file(pipe, root / "model.safetensors")
    (root / "models/loras").mkdir(parents=True)
    loras.write(pipe, root / "models/loras/style.safetensors", "kohya", loras.halves(pipe))
    texts = {f"{key}-{kind}": sidecar(kind, key) for key in PASS for kind in KINDS}
    texts["base"] = BASE + table("hires", COMMON)
    texts["add-hires"] = BASE + table("hires", {**COMMON, "prompt_add": "in the rain"})
    texts["add-tiled"] = BASE + table("hires", COMMON) + table("tiled", {"prompt_add": "in the rain"})
    for name, text in texts.items():
        draw(root / "in" / f"{name}.png", 16, 12)
        (root / "in" / f"{name}.toml").write_text(text, encoding="utf-8")
    words = ["run", str(root / "in"), "-o", str(root / "out"), "-q", "--checkpoint", str(checkpoint), "--scale", "3"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.chdir(root)  # where the folder of LoRAs is
        main([*words, "--set", "run.metadata=false"])
    assert ended.value.code == 0
    made = {Path(name).stem: content for name, content in outputs(root / "out").items()}
    return made, {Path(image["id"]).stem: image for image in load(root / "out")["images"]}


Ran = tuple[dict[str, bytes], dict[str, dict[str, Any]]]


def stage(ran: Ran, name: str, which: str) -> dict[str, Any]:
    return next(one for one in ran[1][name]["stages"] if one["name"] == which)


@pytest.mark.parametrize("key", PASS)
def test_a_value_of_hires_has_its_effect_there(ran: Ran, key: str) -> None:
    files, _ = ran
    name = f"{key}-hires-only"  # where tiled has the usual value again
    assert stage(ran, name, "hires")["fingerprint"] != stage(ran, "base", "hires")["fingerprint"]
    assert files[name] != files["base"], f"hires.{key} changes nothing"


# The preset of SD 1.x gives tiled a denoise of its own; without one it is inherited too (test_config).
@pytest.mark.parametrize("key", sorted(set(PASS) - {"denoise"}))
def test_tiled_inherits_it_from_hires(ran: Ran, key: str) -> None:
    files, _ = ran
    assert files[f"{key}-hires"] == files[f"{key}-both"] != files[f"{key}-hires-only"]


@pytest.mark.parametrize("key", PASS)
def test_tiled_may_differ_and_hires_stays_as_it_is(ran: Ran, key: str) -> None:
    files, _ = ran
    assert files[f"{key}-tiled"] != files["base"], f"tiled.{key} changes nothing"
    assert stage(ran, f"{key}-tiled", "hires")["fingerprint"] == stage(ran, "base", "hires")["fingerprint"]


def test_exactly_as_many_steps_are_run(ran: Ran) -> None:
    runs = {
        kind: [stage(ran, f"steps-{kind}", s)["facts"]["steps_run"] for s in ("hires", "tiled.1")] for kind in KINDS
    }
    assert runs == {"hires": [3, 3], "both": [3, 3], "hires-only": [3, 2], "tiled": [2, 3]}


def test_added_words_are_of_their_pass_and_inherited_with_the_prompt(ran: Ran) -> None:
    files, _ = ran
    assert len({files[name] for name in ("base", "add-hires", "add-tiled")}) == 3


def test_no_setting_of_a_pass_is_left_out() -> None:
    assert set(PassSettings.model_fields) <= {*PASS, *ELSEWHERE}
