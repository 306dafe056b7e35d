"""Imports go one way: the map of the house, kept true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tfseg

ROOT = Path(tfseg.__file__).parent
# A module may import from its own room and from the rooms named here, and nothing else of the package.
GROUND = {
    "tfseg",
    "errors",
    "spaces",
    "words",
    "names",
    "config_checks",
    "config",
    "approaches",
    "session",
    "plain",
    "presets",
    "run",
    "progress",
    "quiet",
    "pages",
}
LIGHT = GROUND | {"data"}
ROOMS = {
    "tfseg": set(),
    "errors": set(),
    "progress": set(),
    "quiet": set(),
    "pages": set(),
    "spaces": {"errors"},
    "words": {"errors"},
    "session": {"errors"},
    "approaches": set(),
    "names": set(),
    "config_checks": {"errors", "names", "words"},
    "config": {"config_checks", "errors", "names", "spaces", "words"},
    "plain": {"errors", "config"},
    "presets": {"config"},
    "run": {"errors", "tfseg"},
    "experiment": {"errors", "config", "session"},
    "data": GROUND,
    "losses": LIGHT,
    "metrics": LIGHT | {"losses"},
    "layers": LIGHT | {"losses", "metrics"},
    "models": LIGHT | {"losses", "metrics", "layers"},
    "training": LIGHT | {"losses", "metrics", "layers", "models"},
    "evaluation": LIGHT | {"losses", "metrics", "layers", "models"},
    "export": LIGHT | {"losses", "metrics", "layers", "models", "evaluation"},
    "jobs": LIGHT | {"losses", "metrics", "layers", "models", "training", "evaluation", "export"},
    "benchmarks": LIGHT | {"losses", "metrics", "layers", "models", "training", "evaluation", "export"},
    "commands": LIGHT | {"models", "evaluation", "export", "jobs", "benchmarks"},
    "cli": {"commands", "errors"},
    "__main__": {"cli"},
}


def room_of(module: str) -> str:
    """The first part below the package: a folder or a single module."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "tfseg"


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, inside functions and for type checking too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            is_module = {alias.name: (ROOT.parent / node.module.replace(".", "/") / alias.name) for alias in node.names}
            for name, target in is_module.items():
                below = target.is_dir() or target.with_suffix(".py").is_file()
                names.add(f"{node.module}.{name}" if below else node.module)
    return names


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_down_only(path):
    inside = path.relative_to(ROOT).with_suffix("").parts
    room = "tfseg" if inside == ("__init__",) else inside[0]
    assert room in ROOMS, f"{room} is a new room: say in this test what it may import"
    own = {name for name in imported(path) if name.split(".")[0] == "tfseg"}
    wrong = sorted(name for name in own if room_of(name) not in ROOMS[room] | {room})
    assert not wrong, f"{path.relative_to(ROOT)} must not import {wrong}"


def test_the_rooms_have_an_order():
    """Without circles: every room can be placed after those that it imports."""
    placed: set[str] = set()
    while len(placed) < len(ROOMS):
        ready = {room for room, below in ROOMS.items() if room not in placed and below <= placed}
        assert ready, f"circle among {sorted(set(ROOMS) - placed)}"
        placed |= ready


def test_nothing_imports_the_experiments():
    for path in files():
        assert not any(name.split(".")[0] in ("experiments", "tests") for name in imported(path)), path


def test_experiments_use_the_command_lines_parts_only():
    ground = {"cli", "config", "names", "presets", "experiment", "run", "quiet", "errors", "progress"}
    for path in sorted((ROOT.parent / "experiments").glob("*.py")):
        rooms = {room_of(name) for name in imported(path) if name.split(".")[0] == "tfseg"}
        assert rooms <= ground | {"jobs", "data", "evaluation"}, path


@pytest.mark.parametrize(
    "source", ["from tfseg.models.unet import unet", "import tfseg.models", "def f():\n    from tfseg import models"]
)
def test_this_test_sees_every_kind_of_import(tmp_path, source):
    (tmp_path / "module.py").write_text(source)
    assert {room_of(name) for name in imported(tmp_path / "module.py")} == {"models"}
