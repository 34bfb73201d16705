"""Wheel, sdist and editable installs, made and used for real."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "capabilities", "workers")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", out, ROOT)
    return out


def sources() -> set[str]:
    return {
        f"perdure/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".md")
    }


def test_the_wheel_holds_every_file_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name for name in inside if not name.endswith((".so", ".md"))} == sources()


def test_the_sdist_holds_what_the_tests_and_the_docs_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "engine/client.py", "docs/design.md"} <= inside


def test_an_installed_wheel_runs_code_in_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    place = tmp_path / "venv"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, place)
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", place / "bin" / "python", wheel)
    perdure = place / "bin" / "perdure"
    assert "durab" in run(perdure, "run", "--help") + run(perdure, "--help")
    assert run(perdure, "exec", "-s", "s", "--state", tmp_path / "state", "6 * 7", cwd=tmp_path) == "42\n"


def test_the_editable_install_is_one_path() -> None:
    code = "import perdure.engine, perdure.workers; print(perdure.engine.__file__)"
    found = run(sys.executable, "-c", code, cwd=Path("/")).strip()
    assert Path(found).resolve() == ROOT / "engine" / "__init__.py"
