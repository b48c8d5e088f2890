"""The documentation says what the program does: settings, commands, checks, exit codes, presets, examples, links."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from tilehires.batch.plan import plan
from tilehires.cli import COMMANDS, cli
from tilehires.config import Config
from tilehires.config.layers import sections
from tilehires.config.presets import shipped
from tilehires.errors import ExitCode, TilehiresError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if page.name != "design.md"]  # the house plan, which is ahead of the program
SETTINGS = {f"{name}.{key}" for name, section in sections().items() for key in section.model_fields}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_generated_pages_are_current() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_docs.py"))["pages"]()
    for path, text in made.items():
        assert path.is_file(), f"{name_of(path)} is missing: run python tools/make_docs.py"
        assert path.read_text(encoding="utf-8") == text, f"{name_of(path)} is stale: run python tools/make_docs.py"
    gone = set((DOCS / "commands").glob("*.md")) - set(made)
    assert not gone, f"no command has these pages: delete {sorted(map(name_of, gone))}"


def test_every_command_has_a_page_and_stands_in_the_help() -> None:
    for name in COMMANDS:
        assert f"# tilehires {name}\n" in (DOCS / "commands" / f"{name}.md").read_text(encoding="utf-8")


def test_every_setting_says_what_it_does() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for name, section in sections().items():
        for key, field in section.model_fields.items():
            assert field.description, f"{name}.{key} needs a description in config/settings.py"
            assert f"| `{name}.{key}` |" in page, (
                f"{name}.{key} is not in docs/settings.md: run python tools/make_docs.py"
            )


def test_every_check_is_documented() -> None:
    page = (DOCS / "checks.md").read_text(encoding="utf-8")
    names = {entry.name for entry in entry_points(group="tilehires.checks") if entry.value.startswith("tilehires.")}
    assert names, "no check is registered: is the package installed?"
    assert not {name for name in names if f"| `{name}` |" not in page}, "put it into the table of docs/checks.md"


def test_every_exit_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "exit-codes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(ExitCode), "docs/exit-codes.md and errors.ExitCode differ"


@pytest.mark.parametrize("name", shipped())
def test_every_preset_loads_and_plans(name: str, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    config = Config.load(name).with_layer({"model": {"checkpoint": "builtin"}, "run": {"device": "cpu"}}, "test")
    if config.settings.hires.checkpoint == "":
        config = config.with_layer({"hires": {"checkpoint": "builtin"}}, "test")
    [row] = plan(config, tmp_path / "a.png", tmp_path / "out")
    assert not row.error, f"configs/{name}.toml can't be planned: {row.error}"


@pytest.mark.parametrize("name", shipped())
def test_every_preset_says_what_it_is_for(name: str) -> None:
    first = shipped()[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# "), f"configs/{name}.toml: its first line stands in docs/settings.md"


def examples() -> list[tuple[str, str]]:
    """(page, command line) of every `tilehires …` in a code block or in backticks."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.splitlines() if line.startswith("tilehires ")]
        lines += re.findall(r"(?<!`)`(tilehires [^`\n]+)`(?!`)", text)
        found += [(name_of(page), line) for line in lines if "[" not in line and "…" not in line]
    return found


@pytest.mark.parametrize(("page", "line"), examples())
def test_examples_use_what_exists(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command | None = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        command = command.get_command(click.Context(command), name)
        assert command is not None, f"{page}: {line!r}: there is no command {name!r}"
    known = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)} if command else set()
    for word in words:
        flag = word.partition("=")[0]
        assert not flag.startswith("-") or flag in known | {"--help", "-h"}, f"{page}: {line!r}: there is no {flag}"
    for setting in re.findall(r"--set (\w+\.\w+)=", line):
        assert setting in SETTINGS, f"{page}: {line!r}: there is no setting {setting}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for section, key in re.findall(rf"`(?:--set )?({'|'.join(sections())})\.([a-z_]+)(?: ?=[^`]*)?`", text):
        assert f"{section}.{key}" in SETTINGS, f"{name_of(page)} names a setting {section}.{key} that there isn't"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}, which isn't there"


def patterns() -> list[re.Pattern[str]]:
    """What messages look like by docs/when-something-goes-wrong.md."""
    page = (DOCS / "when-something-goes-wrong.md").read_text(encoding="utf-8")
    texts = [row[2].replace("\\|", "|") for row in re.findall(r"^\| ((`+)(.*?)\2) \|", page, re.MULTILINE)]
    return [re.compile(".*".join(map(re.escape, text.split("…"))), re.DOTALL) for text in texts]


@pytest.mark.parametrize(
    "words",
    [
        ("run", "nowhere"),
        ("run", "--set", "hires.sclae=2"),
        ("run", "--set", "hires"),
        ("run", "-c", "nothing"),
        ("run", "--checkpoint", "missing.safetensors"),
        ("clean", "nowhere"),
        ("models", "inspect", "missing.pt"),
    ],
)
def test_errors_that_happen_stand_on_the_page_of_errors(words: tuple[str, ...]) -> None:
    with pytest.raises(TilehiresError) as raised:
        cli.main(list(words), standalone_mode=False)
    found = [one.pattern for one in patterns() if one.fullmatch(raised.value.message) and len(one.pattern) > 8]
    assert found, f"no row for: {raised.value.message}"


def test_messages_are_read_from_whatever_gives_them() -> None:
    tools = runpy.run_path(str(ROOT / "tools" / "make_docs.py"))
    tree = ast.parse("def f(a):\n why = f'{a} is ' + ('odd' if a else b())\n return why")
    for given, texts in {"f(1)": ["… is odd"], "why": ["… is odd"], "a + 1": ["……"], "g(1)": []}.items():
        assert tools["_texts"](ast.parse(given, mode="eval").body, tree) == texts
