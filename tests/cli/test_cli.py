"""The command, as somebody uses it who has never seen it."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trainkit
from trainkit import cli
from trainkit.cli import train

PROJECT = Path(trainkit.__file__).resolve().parents[1]

TINY = '''
"""A tiny experiment, of a few numbers."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Config:
    """Add up some numbers.

    More about it.
    """

    count: int = 3
    """How many numbers."""
    scale: float = 1.0
    """What they are multiplied with."""
    kind: Literal["even", "odd"] = "even"
    """Which numbers."""
    out: str | None = None
    """Where to put the sum."""
    wrong: str = ""
    """What goes wrong."""
    compiles: bool = False
    """Compile something."""


def run(config):
    if config.wrong == "input":
        raise ValueError("These numbers cannot be added: use others.")
    if config.wrong == "bug":
        int("not a number")
    if config.compiles:
        import jax

        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.jit(lambda x: x + 1)(1.0)
    print(f"{config.kind} {config.count} {config.scale}")
'''


def main(capsys, *arguments):
    status = cli.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of one's own with an experiment in it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "experiments" / "tiny").mkdir(parents=True)
    (folder / "experiments" / "tiny" / "train.py").write_text(TINY)
    (folder / "experiments" / "notes").mkdir()  # no experiment
    return folder


def command(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "trainkit", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_first_page_says_what_there_is_and_how_to_begin(capsys, arguments):
    status, out, err = main(capsys, *arguments)
    assert (status, err) == (0, "")
    for word in ("train EXPERIMENT", "devices", "trainkit train mnist"):
        assert word in out


def test_every_command_that_is_listed_is_there(capsys):
    _, out, _ = main(capsys, "--help")
    listed = [line.split()[0] for line in out.split("\n\n")[1].splitlines()[1:]]
    for word in listed:
        assert main(capsys, word, "--help")[0] == 0 if word in ("train", "devices") else word


@pytest.mark.parametrize(("word", "near"), [("trian", "train"), ("device", "devices")])
def test_an_unknown_command_gets_the_near_one(capsys, word, near):
    status, _, err = main(capsys, word)
    assert status == 2
    assert f"There is no command '{word}'; did you mean '{near}'? There are: train, " in err


def test_devices(capsys):
    status, out, _ = main(capsys, "devices")
    assert status == 0
    assert "8 devices:" in out
    assert out.count("  cpu  cpu") == 8
    assert f"jax {__import__('jax').__version__}" in out
    assert "xla_force_host_platform_device_count" in out
    assert main(capsys, "devices", "--help")[0] == 0
    assert main(capsys, "devices", "all")[0] == 2


@pytest.mark.parametrize("arguments", [["train"], ["train", "--help"]])
def test_train_lists_the_experiments_with_their_first_lines(capsys, arguments):
    status, out, _ = main(capsys, *arguments)
    assert status == 0
    assert "  mnist" in out
    assert "a dense or a convolutional network on MNIST." in out


def test_an_unknown_experiment_gets_the_near_one_and_all_there_are(capsys):
    status, _, err = main(capsys, "train", "minst")
    assert status == 2
    assert "There is no experiment 'minst'; did you mean 'mnist'? There are:" in err
    status, _, err = main(capsys, "train", "--model", "cnn")
    assert status == 2
    assert "trainkit train NAME --model" in err


def test_experiments_are_found_from_below_and_without_importing_them(project, monkeypatch):
    monkeypatch.chdir(project / "experiments" / "notes")
    found = train.experiments()
    assert found["tiny"] == project / "experiments" / "tiny"
    assert "mnist" in found
    assert "notes" not in found
    assert "experiments.tiny" not in sys.modules


def test_our_own_experiments_come_first_and_nobody_elses_are_run(project, monkeypatch):
    ours = train.experiments()["mnist"]
    planted = project / "experiments" / "mnist"
    planted.mkdir()
    (planted / "train.py").write_text(TINY)
    monkeypatch.chdir(project / "experiments" / "notes")
    assert train.experiments()["mnist"] == ours
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(train, "_is_ours_or_the_systems", lambda path: False)
    assert "tiny" not in train.experiments()
    monkeypatch.chdir(project)
    assert "tiny" in train.experiments()
    shutil.rmtree(planted)


def test_options_come_typed_from_the_dataclass(project):
    done = command(project, "train", "tiny", "--count", "5", "--scale", "2e-1", "--kind", "odd")
    assert (done.returncode, done.stdout, done.stderr) == (0, "odd 5 0.2\n", "")


@pytest.mark.parametrize("out", [None, "there/run"])
def test_what_a_run_compiled_is_kept_for_the_next(project, out):
    options = ["--compiles", *([] if out is None else ["--out", out])]
    done = command(project, "train", "tiny", *options, JAX_COMPILATION_CACHE_DIR="")
    assert (done.returncode, done.stderr) == (0, "")
    parent = project / ("runs" if out is None else "there")
    assert list((parent / ".compiled").glob("*/*-cache"))


def test_a_run_needs_no_folder_for_compiled_programs(project, tmp_path):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "run")
    done = command(project, "train", "tiny", "--out", out, JAX_COMPILATION_CACHE_DIR="")
    assert (done.returncode, done.stdout) == (0, "even 3 1.0\n")
    assert "Compiled programs are not kept" in done.stderr


def test_the_help_of_an_experiment_explains_each_option(project):
    done = command(project, "train", "tiny", "--help")
    assert done.returncode == 0
    for shown in ("trainkit train tiny", "Add up some numbers.", "How many numbers.", "{even,odd}"):
        assert shown in done.stdout
    assert "default: 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--cuont", "5"], ["--cuont", "--count"]),
        (["--count", "three"], ["--count", "three", "INT"]),
        (["--kind", "prime"], ["--kind", "prime", "even", "odd"]),
        (["--scale"], ["--scale"]),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(project, arguments, named):
    done = command(project, "train", "tiny", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in named:
        assert word in done.stdout + done.stderr


def test_what_a_user_did_wrong_is_a_message_and_a_bug_is_a_traceback(project):
    done = command(project, "train", "tiny", "--wrong", "input")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: These numbers cannot be added: use others.\n"
    done = command(project, "train", "tiny", "--wrong", "input", TRAINKIT_TRACEBACK="1")
    assert "Traceback" in done.stderr


def test_commands_that_are_not_asked_for_are_not_imported():
    code = (
        "import sys, trainkit.cli; print([m for m in sys.modules if 'tyro' in m or 'orbax' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@dataclasses.dataclass
class Options:
    out: str = "runs"
    overwrite: bool = False
    resume: str = "same run"
    weight_decay: float = 0.0


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("give another folder as out=.", "give another folder with --out."),
        (
            'as out=, throw it away by overwrite=True, or by resume="new hyperparameters", if',
            "with --out, throw it away by --overwrite, or by --resume 'new hyperparameters', if",
        ),
        (
            'by resume="new data", or choose another output folder.',
            "by --resume 'new data', or choose another output folder.",
        ),
        ("weight_decay=0.1 is large", "--weight-decay 0.1 is large"),
        ("the schedule about=3 is no option", "the schedule about=3 is no option"),
    ],
)
def test_the_words_of_a_refusal_are_those_of_the_command(message, said):
    assert train._with_flags(message, Options) == said
