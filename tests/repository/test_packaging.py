"""What is built holds every file of the three folders and nothing else, and works where it is installed."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.repository.layers import BELOW, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

UV = Path(sys.executable).parent / "uv"

_NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.so")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end; its output, or everything it said if it failed."""
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads: the build then leaves nothing here, and nobody edits it meanwhile."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in [*BELOW, "tests", "docs", "deploy"]:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=_NOT_SOURCE)
    for name in ["pyproject.toml", "uv.lock", "README.md", "LICENSE", ".gitignore", ".python-version"]:
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    run(UV, "build", "--quiet", "--python", sys.executable, "--wheel", "--out-dir", tree / "dist", cwd=tree)
    return next((tree / "dist").glob("*.whl"))


def environment(folder: Path, tree: Path, *install: str | Path) -> Path:
    """A new virtual environment with this installed, and the versions of its dependencies that the lock names."""
    bounds = folder / "bounds.txt"
    named = run(UV, "export", "--quiet", "--frozen", "--no-dev", "--no-hashes", "--no-emit-project", cwd=tree)
    bounds.write_text(named)
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "env", cwd=folder)
    python = folder / "env/bin/python"
    run(UV, "pip", "install", "--quiet", "--python", python, "--constraints", bounds, *install, cwd=folder)
    return python


def assert_no_name_is_taken(python: Path) -> None:
    """Another project's ``engine`` or ``workers`` is theirs alone."""
    looking = f"import importlib.util as u; print([u.find_spec(name) for name in {list(BELOW)}])"
    assert run(python, "-c", looking, cwd=python.parent).strip() == str([None] * len(BELOW))


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_every_file_of_the_three_folders_and_nothing_else(tree: Path, wheel: Path) -> None:
    on_disk = {
        f"perdure/{path.relative_to(tree).as_posix()}"
        for folder in BELOW
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }
    held = members(wheel)
    assert {name for name in held if ".dist-info/" not in name} == on_disk
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)


def test_the_source_archive_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    run(UV, "build", "--quiet", "--python", sys.executable, "--sdist", "--out-dir", tmp_path, cwd=tree)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    unpacked = next((tmp_path / "unpacked").iterdir())
    run(UV, "build", "--quiet", "--python", sys.executable, "--wheel", "--out-dir", tmp_path, cwd=unpacked)
    assert members(next(tmp_path.glob("*.whl"))) == members(wheel)


def test_the_installed_wheel_works(tree: Path, wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path, tree, wheel)
    assert_no_name_is_taken(python)
    where = run(python, "-c", "import perdure.engine as e; print(e.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path / "env")
    run(python, "-c", "import perdure.capabilities, perdure.workers", cwd=tmp_path)
    command = python.parent / "perdure"
    assert "perdure" in run(command, "--help", cwd=tmp_path)
    assert run(command, "exec", "-s", "s", "--state", tmp_path / "state", "6 * 7", cwd=tmp_path) == "42\n"


def test_an_editable_install_is_the_source_itself(tree: Path, tmp_path: Path) -> None:
    python = environment(tmp_path, tree, "--editable", tree)
    assert_no_name_is_taken(python)
    where = run(python, "-c", "import perdure.engine as e; print(e.__file__)", cwd=tmp_path).strip()
    assert Path(where).resolve() == (tree / "engine/__init__.py").resolve()
    assert "perdure" in run(python.parent / "perdure", "--help", cwd=tmp_path)
