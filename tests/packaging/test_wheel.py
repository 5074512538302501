"""The wheel holds what the checkout holds, and its commands run from an empty directory."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("metal_kernels", "dsv4_mlx", "convert", "cli")
LEFT_OUT = "dsv4_mlx/training/"
CARRIED = {".py", ".metal", ".cu", ".cuh", ".c", ".toml"}

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    """What the command prints; a failure shows both of its streams."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout keeps no build folders."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", copy / "dist", copy, cwd=copy)
    return next((copy / "dist").glob("dsv4_mlx-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment that has our wheel and borrows the dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", query, cwd=folder).strip())
    # A plain path line: nothing in the borrowed folder, our editable install included, is started.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder)
    return folder / "bin"


def test_every_source_and_data_file_but_training_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    expected = {
        name
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if "__pycache__" not in (name := file.relative_to(ROOT).as_posix())
        and file.is_file()
        and (file.suffix in CARRIED or "/nano/" in name)
    }
    trained = {name for name in expected if name.startswith(LEFT_OUT)}
    assert f"{LEFT_OUT}data/help.toml" in trained
    assert expected - trained <= packed and trained.isdisjoint(packed)
    tops = {name.partition("/")[0] for name in packed}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_commands_run_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    where = "import dsv4_mlx; print(dsv4_mlx.__file__)"
    location = run(installed / "python", "-c", where, cwd=tmp_path)
    assert Path(location.strip()).is_relative_to(installed.parent)
    assert "dsv4-mlx 0." in run(installed / "dsv4-chat", "--version", cwd=tmp_path)
    assert "SRC DST" in run(installed / "python", "-m", "convert", "--help", cwd=tmp_path)
    assert "SRC DST" in run(installed / "dsv4-convert", "--help", cwd=tmp_path)


def test_the_installed_program_answers_with_its_own_model(installed: Path, tmp_path: Path) -> None:
    answer = run(installed / "dsv4-chat", "-p", "Who are you?", "--think", "none", cwd=tmp_path)
    assert "nano" in answer
