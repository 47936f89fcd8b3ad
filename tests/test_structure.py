"""What the documents say of the tree is the tree."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from bench import reference, reference_commands, reference_metrics
from policies.strategy import PLACEMENTS, POLICIES
from proxy.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
FOLDERS = ("proxy", "policies", "telemetry", "bench")


def modules(folder: str) -> set[str]:
    """Python files and subfolders of a package, its __init__ left out."""
    here = ROOT / folder
    files = {file.name for file in here.glob("*.py")} - {"__init__.py"}
    return files | {f"{sub.name}/" for sub in here.iterdir() if sub.is_dir() and sub.name != "__pycache__"}


def told(folder: str) -> set[str]:
    """What ARCHITECTURE.md's tree names in a folder."""
    tree = re.search(r"```\n(proxy/.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    assert tree is not None
    block = re.search(rf"^{folder}/.*?(?=^\w|\Z)", tree[1], re.DOTALL | re.MULTILINE)
    assert block is not None
    names: set[str] = set()
    for line in block[0].splitlines()[1:]:
        head = re.match(r"  ((?:[\w/]+(?:\.py)? ?)+)(?:  |$)", line)
        names |= set(head[1].split()) if head else set()
    return names | ({"profiles/"} if folder == "telemetry" else set())


def test_the_tree_in_architecture_is_the_tree() -> None:
    for folder in FOLDERS:
        assert told(folder) == modules(folder), folder


def test_every_module_has_a_sentence_at_its_door() -> None:
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            assert file.read_text().startswith('"""'), file


def test_every_command_policy_and_placement_can_be_imported() -> None:
    for path in (*COMMANDS.values(), *POLICIES.values(), *PLACEMENTS.values()):
        module, _, name = path.partition(":")
        assert getattr(import_module(module), name)


def test_every_command_and_policy_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in (*COMMANDS, *POLICIES, *PLACEMENTS):
        assert f"`{name}`" in readme or f"`paceline {name}`" in readme, name


def test_the_packages_are_what_is_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert tuple(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == FOLDERS


@pytest.mark.parametrize("written", [reference, reference_metrics, reference_commands])
def test_a_reference_is_what_the_code_says(written: ModuleType) -> None:
    assert written.PAGE.read_text() == written.page(), "python -m bench.reference"
    assert not re.search(r"\|\s*\|$", written.page(), re.MULTILINE), "a row without a meaning"


def test_every_command_has_its_options_told() -> None:
    page = reference_commands.page()
    for command, path in reference_commands.commands(main, "paceline"):
        assert f"## {path}\n" in page
        assert command.help, path
        assert all(option in page for parameter in command.params for option in parameter.opts if option.startswith("--"))


def test_documents_link_to_what_there_is() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#[^)\s]*)?\)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
