"""Mistakes on the command line, and in arguments of the laws."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import optax

import trainkit.transforms as tt
from benchmarks.reliability.mistakes.base import Mistake, Mistakes, Said, nan, of_options
from trainkit import laws


def mistakes() -> Mistakes:
    return _laws() | _commands()


def _laws() -> Mistakes:
    check = lambda **o: laws.check(o.pop("tx", optax.sgd(0.1)), **({"laws": ["purity"]} | o))
    table: dict[str, list[Any]] = {
        "like": ["sdg", 3, True, "cosine_decay_schedule"],
        "claims": ["od", 3, {"odd": "yes"}, ["nothing"]],
        "laws": ["puriti", 3, [], [3]],
        "level": ["hard", None, True],
        "examples": [-1, 1.5, "25", True, None],
        "seed": [-1, 1.5, "0", True, None],
        "seconds": [0, "300", True, nan],
        "extra_args": [3, "value", ["value"]],
        "hyperparams": [3, "lr", {"learning_rate": 0.1}],
    }
    found = of_options("laws.check", check, table, says="")
    found |= of_options(
        "laws.check_schedule",
        lambda **o: laws.check_schedule(
            o.pop("fn", optax.constant_schedule(0.1)), **({"laws": ["schedule purity"]} | o)
        ),
        {
            "like": ["cosin_decay_schedule", 3, "adam"],
            "level": ["hard"],
            "examples": [-1, True],
            "seed": ["0", True],
            "claims": ["rising", 3],
        },
        says="",
    )
    calls: dict[str, tuple[Any, tuple[str, ...]]] = {
        "laws.check(None)": (lambda: laws.check(None), ("optax.GradientTransformation",)),
        "laws.check(a string)": (lambda: laws.check("sgd"), ("optax.GradientTransformation",)),
        "laws.check(a factory with arguments)": (
            lambda: laws.check(optax.sgd),
            ("learning_rate", "lambda"),
        ),
        "laws.check(a factory that gives None)": (
            lambda: laws.check(lambda: None),
            ("factory", "optax.GradientTransformation"),
        ),
        "laws.check(a factory that raises)": (
            lambda: laws.check(lambda: 1 / 0),
            ("factory", "ZeroDivisionError"),
        ),
        "laws.check(a schedule)": (
            lambda: laws.check(optax.constant_schedule(0.1)),
            ("count", "lambda"),
        ),
        "laws.check(hyperparams of another rule)": (
            lambda: laws.check(optax.sgd(0.1), like="sgd", hyperparams={"b1": 0.9}),
            ("b1", "learning_rate"),
        ),
        "laws.check(hyperparams without like)": (
            lambda: laws.check(optax.sgd(0.1), hyperparams={"learning_rate": 0.1}),
            ("hyperparams", "like="),
        ),
        "laws.check_schedule(3)": (lambda: laws.check_schedule(3), ("schedule", "optax.constant")),
        "laws.check_schedule(a rule)": (
            lambda: laws.check_schedule(tt.sgd(0.1)),
            ("schedule", "check"),
        ),
    }
    return found | {
        name: Mistake(lambda out, call=call: call(), says) for name, (call, says) in calls.items()
    }


def _command(*arguments: str, cwd: Path) -> Any:
    """Runs a command line in this process; returns the message if it refuses."""
    from trainkit.cli.main import main

    told = io.StringIO()
    here = Path.cwd()
    try:
        os.chdir(cwd)
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            try:
                code = main(arguments)
            except SystemExit as left:  # of argparse and tyro
                code = left.code
    finally:
        os.chdir(here)
    return Said(told.getvalue()) if code == 2 else None


def _commands() -> Mistakes:
    train = ("train", "mnist")
    lines: dict[tuple[str, ...], tuple[str, ...]] = {
        ("trian",): ("'trian'", "'train'"),
        ("train", "mnsit"): ("'mnsit'", "'mnist'"),
        ("train", "--seed", "1"): ("--seed", "NAME"),
        ("train", "../mnist"): ("'../mnist'", "mnist"),
        (*train, "--seed", "-1"): ("--seed", "from 0 to"),
        (*train, "--seed", "1.5"): ("seed", "int"),
        (*train, "--seed", "zero"): ("seed", "int"),
        (*train, "--epochs", "0"): ("epochs", "above 0"),
        (*train, "--epochs", "-1"): ("epochs", "above 0"),
        (*train, "--epochs", "two"): ("epochs", "int"),
        (*train, "--batch-size", "0"): ("batch-size", "above 0"),
        (*train, "--batch-size", "1000000"): ("--batch-size", "examples"),
        (*train, "--learning-rate", "nan"): ("learning-rate", "above 0"),
        (*train, "--learning-rate", "inf"): ("learning-rate", "finite"),
        (*train, "--learning-rate", "-1"): ("learning-rate", "above 0"),
        (*train, "--learning-rate", "fast"): ("learning-rate", "float"),
        (*train, "--model", "rnn"): ("model", "mlp"),
        (*train, "--placement", "sinlge"): ("placement", "single"),
        (*train, "--devices", "two"): ("devices", "int"),
        (*train, "--devices", "0"): ("devices", "at least 1"),
        (*train, "--devices", "9999"): ("--devices", "at most"),
        (*train, "--epoch", "1"): ("epoch", "epochs"),
        (*train, "--data", "/nowhere"): ("/nowhere", "folder"),
        (*train, "--out", "/proc/run"): ("/proc/run", "cannot be written"),
        ("train", "linear_regression", "--seed", "-1"): ("--seed", "from 0 to"),
        ("train", "quadratic", "--steps", "0"): ("--steps", "must be"),
        ("train", "quadratic", "--noise", "-1"): ("noise", "must be"),
        ("train", "quadratic", "--seed", "-1"): ("--seed", "must be"),
        ("train", "quadratic", "--steps", "many"): ("steps", "int"),
        ("devices", "all"): ("devices", "no arguments"),
        ("laws",): ("package.module:factory", "required"),
        ("laws", "optax"): ("optax", "package.module:factory"),
        ("laws", "optax:adm", "--like", "adam"): ("adm", "adam"),
        ("laws", "nowhere:adam"): ("nowhere", "import"),
        ("laws", "optax:adam", "learning_rate"): ("'learning_rate'", "name=value"),
        ("laws", "optax:adam"): ("learning_rate", "learning_rate="),
        ("laws", "optax:adam", "learning_rate=1", "--like", "adm"): ("'adm'", "'adam'"),
        ("laws", "optax:adam", "learning_rate=1", "--level", "hard"): ("level", "strict"),
        ("laws", "optax:adam", "learning_rate=1", "--examples", "few"): ("examples", "int"),
        ("laws", "optax:adam", "learning_rate=1", "--examples", "-1"): ("examples", "least 0"),
        ("laws", "optax:adam", "learning_rate=1", "--seed", "-1"): ("seed", "least 0"),
        ("laws", "optax:adam", "learning_rate=1", "--seconds", "nan"): ("seconds", "greater"),
        ("laws", "optax:adam", "learning_rate=1", "--law", "puriti"): ("'puriti'", "'purity'"),
        ("laws", "optax:adam", "--like", "adam", "learning_rate=fast"): ("learning_rate", "number"),
    }
    found = {
        f"trainkit {' '.join(line)}": Mistake(
            lambda out, line=line: _command(*line, cwd=out.parent), says
        )
        for line, says in lines.items()
    }

    def into_file(out: Path) -> Any:
        out.write_text("mine")
        return _command(*train, "--out", str(out), cwd=out.parent)

    def among_files(out: Path) -> Any:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
        return _command(*train, "--out", str(out), "--overwrite", cwd=out.parent)

    def shadowed(out: Path) -> Any:
        """A user's experiment with the name of a shipped one, in the folder and its parent."""
        for folder in (out, out.parent):
            own = folder / "experiments" / "quadratic"
            own.mkdir(parents=True)
            (own / "train.py").write_text("raise SystemExit(0)")
        return _command("train", "quadratic", "--steps", "many", cwd=out)

    found["trainkit train mnist --out FILE"] = Mistake(into_file, ("out", "file"))
    found["trainkit train mnist --out FOLDER of others"] = Mistake(
        among_files, ("out", "thesis.tex")
    )
    found["trainkit train a shadowed experiment"] = Mistake(shadowed, ("steps", "int"))
    return found
