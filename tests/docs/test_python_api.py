"""The code on docs/python-api.md runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.batches import draw

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"


def test_the_worked_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    draw(tmp_path / "input" / "room.png", 32, 24)
    monkeypatch.chdir(tmp_path)
    said: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), said)
    assert said["summary"].exit_code == 0
    [(image, name, spread)] = said["samplings"]
    assert (image, name) == ("room.png", "hires: sampling") and spread > 0
    assert (tmp_path / "output" / "room.png").read_bytes() != (tmp_path / "output-grain" / "room.png").read_bytes()


def test_importing_the_callbacks_loads_nothing_heavy() -> None:
    code = "import sys, tilehires; tilehires.Hook(print); tilehires.Callbacks()\n"
    code += "print(sorted({'torch', 'numpy', 'pydantic', 'PIL'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
