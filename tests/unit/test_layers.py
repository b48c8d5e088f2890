"""Imports point down only (docs/design.md, "Layers"). Read from the source, so that imports inside functions count as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tilehires"

# From the top down. A module may import from its own layer's package and from any below, never from above.
LAYERS = (
    ("cli",),
    ("regress",),
    ("batch",),
    ("report",),
    ("records",),
    ("stages",),
    ("callbacks",),
    ("diffusion",),
    ("upscalers", "detectors", "checks", "metadata"),
    ("tiling",),
    ("memory",),
    ("images",),
    ("config",),
    ("geometry", "errors", "progress", "files", "scratch"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TORCH_FREE = ("callbacks", "cli", "config", "errors", "geometry", "progress", "records", "tiling/grid")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def layer(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "tilehires" and len(parts) > 1 else None


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Dotted names that a file imports: "tilehires.files" for both ways of writing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "tilehires":
                found |= {f"tilehires.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own in ("__init__", "__main__"):
        return
    assert own in RANK, f"{path.name} is in no layer: put it into LAYERS and into docs/design.md"
    for name in imports(path):
        other = layer(name)
        if other is None or other == own or other not in RANK:
            continue
        # geometry, errors, progress, files and scratch are the ground: they may stand on one another.
        assert RANK[other] > RANK[own] or RANK[own] == len(LAYERS) - 1, (
            f"{path.relative_to(PACKAGE)} imports {name}, which lies above or beside it: move the code, or pass the value"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_what_must_be_quick_imports_no_torch(path: Path) -> None:
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    if not name.startswith(TORCH_FREE):
        return
    heavy = {
        n for n in imports(path, top_only=True) if n.split(".")[0] in ("torch", "diffusers", "transformers", "cv2")
    }
    assert not heavy, f"{name} imports {heavy} when it is loaded: import inside the function that needs it"


def test_files_stay_readable() -> None:
    long = {p.relative_to(PACKAGE).as_posix(): n for p in modules() if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"longer than 400 lines, split by what they do: {long}"
    assert not list(PACKAGE.rglob("utils.py")), "utils.py says nothing: name the module after what it holds"


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from tilehires.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    for heavy in ("torch", "numpy", "pydantic", "PIL", "cv2", "diffusers"):
        assert heavy not in loaded, f"tilehires --help imports {heavy}: it must be as quick as click itself"
