"""Imports point downward only; relative inside a folder, absolute across; the guest imports nobody."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {"capabilities": set(), "engine": {"capabilities"}, "workers": {"engine", "capabilities"}}
FOLDERS = tuple(MAY_IMPORT)
#: A line that says that a file of the guest is the host's view of a module the guest is given otherwise.
PRELOADED = "# re-export for the host; the guest gets it preloaded"

MODULES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str, int]]:
    """Return (dots, name, line) of every import, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", node.lineno))
        elif isinstance(node, ast.Import):
            found += [(0, alias.name, node.lineno) for alias in node.names]
    return found


def faults(path: Path) -> list[str]:
    folder = path.parts[0]
    depth = len(path.parts) - 1
    wrong = []
    for dots, name, line in imports(path):
        where = f"{path}:{line}"
        if dots > depth:
            wrong.append(f"{where} climbs out of {folder}")
        if dots == 0 and name.split(".")[0] == "perdure":
            target = name.split(".")[1] if "." in name else ""
            if target == folder and "guest" not in name:
                wrong.append(f"{where} imports {name} absolutely inside {folder}")
            elif target != folder and target not in MAY_IMPORT[folder]:
                wrong.append(f"{where} imports {name}: {folder} may not know it")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downward(path: Path) -> None:
    assert faults(path) == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[:2] == ("workers", "guest")], ids=str)
def test_the_guest_imports_the_standard_library_only(path: Path) -> None:
    if PRELOADED in (ROOT / path).read_text():
        return
    foreign = [
        f"{path}:{line} imports {name}"
        for dots, name, line in imports(path)
        if dots == 0 and name.split(".")[0] not in sys.stdlib_module_names | {"_perdure_cloudpickle", "numpy"}
    ]
    assert foreign == []


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    wrong = ROOT / "capabilities" / "_wrong_for_a_test.py"
    wrong.write_text("from perdure.engine import Client\nfrom ...other import thing\n")
    try:
        assert len(faults(wrong.relative_to(ROOT))) == 2
    finally:
        wrong.unlink()


PUBLIC = [path for path in MODULES if path.name == "__init__.py"]


@pytest.mark.parametrize("path", PUBLIC, ids=str)
def test_an_init_is_the_public_list_and_nothing_else(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text())
    allowed = (ast.ImportFrom, ast.Import, ast.Assign, ast.AnnAssign, ast.Expr)
    assert all(isinstance(node, allowed) for node in tree.body), f"{path} does something"
    names: list[str] = []
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            assert isinstance(target, ast.Name)
            assert target.id == "__all__"
            assert node.value is not None
            names = ast.literal_eval(node.value)
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name)), "__all__ is in order"
