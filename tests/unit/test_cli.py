"""The commands: what they parse, what they say, and the exit codes. The batch behind them is a stand-in here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tilehires
from tilehires.batch import plan as planner
from tilehires.batch import runner
from tilehires.cli import COMMANDS, main
from tilehires.config import Config
from tilehires.errors import ExitCode, LockedError


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, and the process's hooks as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def command(*words: str) -> int:
    """The exit code of `tilehires` with these words."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


@dataclass
class Seen:
    """What the runner's stand-in was called with, and what it answers."""

    code: ExitCode = ExitCode.OK
    calls: list[tuple[Config, Path, Path, Any, Any]] = field(default_factory=list)
    raises: BaseException | None = None
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        return self.code

    def lines(self) -> list[str]:
        return ["1 done, 0 flagged, 0 failed, 0 skipped."]

    def __call__(self, config: Config, source: Path, output: Path, *, options: Any, progress: Any) -> Seen:
        self.calls.append((config, source, output, options, progress))
        if self.raises:
            raise self.raises
        return self

    @property
    def settings(self) -> Any:
        return self.calls[-1][0].settings


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    stand_in = Seen()
    monkeypatch.setattr(runner, "run", stand_in)
    return stand_in


# Speed


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tilehires.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'pydantic', 'torch', 'numpy', 'PIL', 'tqdm', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", "import it inside the command that needs it"
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("words", [["run", "--help"], ["config", "show"], ["plan", "--help"], ["run", "--scale", "0"]])
def test_what_needs_no_model_imports_no_torch(words: list[str]) -> None:
    code = (
        f"import sys\nfrom tilehires.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"


def test_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tilehires", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == f"tilehires {tilehires.__version__}"


# run: what the flags become


def test_defaults(seen: Seen) -> None:
    assert command("run") == 0
    config, source, output, options, _ = seen.calls[0]
    assert (source, output, options.force) == (Path("input"), Path("output"), ())
    assert config.settings.model.checkpoint == "builtin"
    assert not any(origin.startswith("flag") for origin in config.origins.values())


def test_every_flag_reaches_its_settings(seen: Seen) -> None:
    words = (
        "run in -o out -c sdxl --checkpoint my.safetensors --scale 3 --max-side 4096 --denoise 0.3 --steps 12 --seed 5"
    )
    words += " --vram 8GB --device cpu --strict --deterministic --limit 2 --force hires --force check"
    words += " --set run.format=webp --set tiled.denoise=0.1"
    assert command(*words.split(), "--prompt", "a fox, in snow", "--negative-prompt", '"blur"') == 0
    config, source, output, options, _ = seen.calls[0]
    assert (source, output, options.force) == (Path("in"), Path("out"), ("hires", "check"))
    s, origins = config.settings, config.origins
    assert (s.model.checkpoint, s.hires.scale, s.hires.max_side) == ("my.safetensors", 3, 4096)
    assert (s.hires.denoise, s.tiled.denoise) == (0.3, 0.1), "--set wins over the other flags"
    assert (s.hires.steps, s.tiled.steps) == (12, 12)
    assert (s.generate.seed, s.generate.prompt, s.generate.negative_prompt) == (5, "a fox, in snow", '"blur"')
    assert (s.memory.vram, s.run.device, s.run.format) == ("8GB", "cpu", "webp")
    assert (s.run.strict, s.run.deterministic, s.run.limit) == (True, True, 2)
    assert (origins["hires.steps"], origins["tiled.denoise"]) == ("flag --steps", "flag --set")
    assert (origins["tiled.tile_max"], origins["run.quality"]) == ("preset sdxl", "default")


def test_denoise_sets_hires_and_tiled_alike(seen: Seen) -> None:
    command("run", "--denoise", "0.25")
    assert (seen.settings.hires.denoise, seen.settings.tiled.denoise) == (0.25, 0.25)


def test_a_prompt_from_the_command_line_is_that_of_all_passes(seen: Seen) -> None:
    Path("mine.toml").write_text('[hires]\nprompt = "another"\nseed = 3\n')
    command("run", "-c", "mine.toml", "--prompt", "a fox", "--seed", "9")
    assert (seen.settings.hires.prompt, seen.settings.generate.prompt) == (None, "a fox")
    assert (seen.settings.hires.seed, seen.settings.generate.seed) == (None, 9)


def test_sizes(seen: Seen) -> None:
    command("run", "--size", "2048x0")
    assert (seen.settings.hires.resize_x, seen.settings.hires.resize_y) == (2048, 0)
    Path("mine.toml").write_text("[hires]\nresize_x = 512\n")
    command("run", "-c", "mine.toml", "--scale", "3")
    assert (seen.settings.hires.scale, seen.settings.hires.resize_x) == (3, 0), "--scale wins over a preset's size"


# run: what is refused


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("run --scale 0", "hires.scale = 0 (flag --scale) must be greater than 0", "hint: Output size"),
        ("run --scale -2", "must be greater than 0", "hint: "),
        ("run --scale two", "must be a valid number", "hint: "),
        ("run --scale nan", "must be a finite number", "hint: "),
        ("run --denoise 1.5", "hires.denoise = 1.5 (flag --denoise) must be at most 1", "hint: How much"),
        ("run --steps 3.5", "must be a valid integer", "hint: "),
        ("run --size 10", "is no size", "hint: See: tilehires run --help"),
        ("run --size 0x0", "0x0 is no size", "hint: "),
        ("run --size 9x9 --scale 2", "--scale and --size", "hint: "),
        ("run --set hires.denoize=1", "no setting hires.denoize", "hint: Did you mean hires.denoise?"),
        ("run --set nonsense", "is not section.key=value", "hint: For example"),
        ("run -c sdx", "no preset 'sdx'", "hint: Did you mean sdxl?"),
        ("run --nonsense", "No such option", "hint: See: tilehires run --help"),
        ("nonsense", "No such command", "hint: See: tilehires --help"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_hint(
    seen: Seen, capsys: pytest.CaptureFixture[str], words: str, error: str, hint: str
) -> None:
    assert command(*words.split()) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and error in err and hint in err
    assert not seen.calls


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("-c", f"{LONG}.toml"),
        ("--checkpoint", LONG),
        ("--set", f"model.vae={LONG}"),
        ("--detail", f"{LONG}.toml"),
        (LONG,),
    ],
    ids=lambda words: words[0][:20],
)
def test_a_text_too_long_for_a_name_is_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", *words) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "hint: " in err


@pytest.mark.parametrize("preset", ["sd15", "sdxl", "sdxl-refiner", "photo", "anime", "overnight-8gb"])
def test_a_preset_without_its_checkpoint_is_exit_5(seen: Seen, capsys: pytest.CaptureFixture[str], preset: str) -> None:
    assert command("run", "-c", preset) == ExitCode.MISSING
    assert "--checkpoint" in capsys.readouterr().err
    assert not seen.calls, "the built-in model must not silently take its place"


# run: how it ends


@pytest.mark.parametrize("code", list(ExitCode))
def test_the_summarys_exit_code_is_the_programs(seen: Seen, code: ExitCode) -> None:
    seen.code = code
    assert command("run") == code


def test_an_error_stops_with_its_own_code(seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    seen.raises = LockedError("Another run works here.", hint="Wait.")
    assert command("run") == ExitCode.LOCKED
    assert capsys.readouterr().err == "error: Another run works here.\nhint: Wait.\n"


def test_ctrl_c_is_130(seen: Seen) -> None:
    seen.raises = KeyboardInterrupt()
    assert command("run") == ExitCode.INTERRUPTED


def test_quiet_says_nothing_unless_something_went_wrong(seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    command("run")
    assert "1 done" in capsys.readouterr().out
    command("run", "-q")
    assert capsys.readouterr() == ("", "")
    seen.code = ExitCode.IMAGES_FAILED
    command("run", "-q")
    assert "1 done" in capsys.readouterr().err


STAND_IN = """
import sys, types
sys.modules["tilehires.batch.runner"] = runner = types.ModuleType("runner")  # the real one takes torch and seconds
runner.RunOptions = lambda **given: None
from tilehires.cli import main
"""


@pytest.mark.parametrize("flag", [[], ["-v"]])
def test_a_bug_is_exit_1_and_shows_its_traceback_only_when_asked(flag: list[str]) -> None:
    code = f"{STAND_IN}\ndef run(*a, **k): raise ZeroDivisionError('oops')\nrunner.run = run\nmain(['run', *{flag!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == ExitCode.BUG
    assert ("Traceback" in done.stderr) == bool(flag)
    if not flag:
        assert done.stderr.startswith("error: unexpected ZeroDivisionError: oops\nhint: ")


def test_a_file_name_that_is_no_text_can_be_printed() -> None:
    code = (
        f"{STAND_IN}\nclass Summary:\n    exit_code, warnings = 0, ()\n    def lines(self): return ['failed \\udcff.png']\n"
        "runner.run = lambda *a, **k: Summary()\nmain(['run'])"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout) == (0, "failed \\udcff.png\n"), done.stderr


# The other commands


def test_plan_prints_a_row_per_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Row:
        def lines(self) -> list[str]:
            return ["a.png -> a.png", "  hires"]

    seen: list[Config] = []
    monkeypatch.setattr(planner, "plan", lambda config, source, output, setup: seen.append(config) or [Row(), Row()])
    monkeypatch.setattr(planner, "disk_line", lambda config, rows, output: f"{len(rows)} rows to {output}")
    assert command("plan", "--scale", "4") == 0
    assert capsys.readouterr().out.count("a.png -> a.png\n  hires\n") == 2
    assert seen[0].settings.hires.scale == 4
    assert command("plan", "-c", "sd15") == ExitCode.MISSING


def test_plan_for_real(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save("in/a.png")
    assert command("plan", "in", "--scale", "2") == 0
    said = capsys.readouterr().out
    assert "120x80" in said
    assert re.search(r"^disk: the run needs up to \d+ MB of disk, and \d+ MB are free at output$", said, re.MULTILINE)
    assert not Path("output").exists(), "plan writes nothing"


def test_config_shows_what_run_would_start_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("config", "show", "--scale", "3", "-c", "sdxl") == 0
    shown = capsys.readouterr().out
    assert "scale = 3.0" in shown and "# flag --scale" in shown and "# preset sdxl" in shown
    assert command("config") == 0
    assert "# preset default" in capsys.readouterr().out


def test_config_init_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("config", "init", "-c", "sdxl") == 0
    assert Config.load("tilehires.toml").settings == Config.load("sdxl").settings
    Path("tilehires.toml").write_text("mine")
    assert command("config", "init") == ExitCode.USAGE
    assert Path("tilehires.toml").read_text() == "mine"
    assert "hint: Choose another name" in capsys.readouterr().err
    assert command("config", "init", "no/where.toml") == ExitCode.USAGE


def test_models_lists_what_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("weights")
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(b"not weights")
    (folder / "notes.txt").write_text("no model")
    monkeypatch.setenv("TILEHIRES_MODELS", os.pathsep.join(["weights", "absent"]))
    assert command("models") == 0
    out = capsys.readouterr().out
    assert "builtin" in out and "Lanczos" in out
    assert "broken.safetensors" in out and "no checkpoint" in out and "notes.txt" not in out
    assert "absent: no such folder" in out


def test_models_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("models", "inspect", "builtin") == 0
    out = capsys.readouterr().out
    assert "a checkpoint" in out and "unet/" in out and "sha256" in out
    upscaler = Path(tilehires.__file__).parent / "builtin" / "upscale_2x.safetensors"
    assert command("models", "inspect", str(upscaler)) == 0
    out = capsys.readouterr().out
    assert "an upscaler" in out and "2x" in out
    assert command("models", "inspect", "nowhere.safetensors") == ExitCode.MISSING
    assert "hint: " in capsys.readouterr().err


def test_doctor_finds_nothing_missing_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor") == 0, "the tests' own environment lacks something: read the output"
    out = capsys.readouterr().out
    for word in ("python", "torch", "memory", "free disk", "built-in model", "presets: ", "Nothing is missing."):
        assert word in out


def test_doctor_says_how_to_get_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib import metadata

    monkeypatch.setattr(metadata, "requires", lambda name: ["no-such-package>=2", "click>=8", 'x; extra == "test"'])
    assert command("doctor") == ExitCode.MISSING
    assert "pip install 'no-such-package>=2'" in capsys.readouterr().out


def test_clean_empties_the_cache_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    cache = Path("output/.tilehires/cache/ab")
    cache.mkdir(parents=True)
    (cache / "ab1.npy").write_bytes(b"x" * 100)
    Path("output/a.png").write_bytes(b"image")
    assert command("clean") == 0
    assert not list(cache.glob("*")) and Path("output/a.png").read_bytes() == b"image"
    assert "1 files" in capsys.readouterr().out
    assert command("clean", "elsewhere") == ExitCode.USAGE
    assert not Path("elsewhere").exists(), "clean makes no folders"


def test_report_is_rebuilt(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("report", "output") == ExitCode.USAGE
    assert "hint: " in capsys.readouterr().err
    Path("output/report").mkdir(parents=True)
    counts = {"done": 0, "cached": 0, "flagged": 0, "failed": 0, "skipped": 0}
    body = {"version": 1, "run": {"started": "", "finished": "", "command": ""}, "summary": counts, "images": []}
    Path("output/report/report.json").write_text(json.dumps(body))
    assert command("report", "output") == 0
    assert Path("output/report/index.html").is_file()


def test_the_samplers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from tilehires.diffusion import samplers

    assert command("models", "--samplers") == ExitCode.OK
    out = capsys.readouterr().out
    for name in (*samplers.names(), *samplers.schedules(), *samplers.UNSUPPORTED):
        assert name in out
    assert "DPMSolverMultistep algorithm_type=dpmsolver++" in out
    assert "DPM++ 2S a has no equal in diffusers" in out and "LCM in a hires pass" in out
