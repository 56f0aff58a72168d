"""What is in a wheel and in a source distribution, built as an installer builds them."""

import email
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import trainkit

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = (
    ".ci", "benchmarks", "docs", "examples", "experiments", "tests", "tools", "trainkit",
)  # fmt: skip


def files(folder):
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both, from a copy, as a build writes into the sources."""
    copy, out = tmp_path_factory.mktemp("copy") / "trainkit", tmp_path_factory.mktemp("dist")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in filter(pathlib.Path.is_file, ROOT.iterdir()):
        shutil.copy(file, copy)
    code = (
        f"from setuptools.build_meta import *; build_sdist({str(out)!r}); build_wheel({str(out)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


def test_a_wheel_has_the_package_its_data_and_the_experiments(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        about = email.message_from_bytes(archive.read(metadata))
    assert names >= files("trainkit")
    assert names >= {f"trainkit/{name}" for name in files("experiments")}
    assert {name.split("/")[0] for name in names} == {"trainkit", metadata.split("/")[0]}
    for field in ("Author", "Keywords", "Classifier", "Summary", "License-Expression"):
        assert about[field], field


def test_a_source_distribution_has_what_its_own_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in FOLDERS:
        assert names >= files(folder), folder
    assert names >= {"Makefile", "constraints.txt", "pyproject.toml", "README.md", "CHANGELOG.md"}


def test_the_version_is_the_same_everywhere():
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == trainkit.__version__
    assert f"\nversion: {trainkit.__version__}\n" in (ROOT / "CITATION.cff").read_text()
