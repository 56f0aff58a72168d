"""Mistakes that users make: each is answered in this package's words, before anything compiles.

A row is what a user would write, words that name the argument or the leaf, and words of the mend or
of what is expected. `benchmarks.reliability` tries more of them, and whether anything was written.
"""

import pathlib
import traceback

import jax
import pytest

import trainkit
from tests.mistakes import growing, rules, runs, training
from trainkit.cli.main import main

ROOMS = {
    "step": training.STEP,
    "batch": training.BATCH,
    "model": training.MODELS,
    "evaluation": training.EVALUATION,
    "fit": runs.FIT,
    "hooks and loggers": runs.HOOKS,
    "data": runs.DATA,
    "checkpoints": runs.CHECKPOINTS,
    "command": runs.CLI,
    "placement": rules.PLACEMENT,
    "rules": rules.RULES,
    "schedules": rules.SCHEDULES,
    "laws": rules.LAWS,
    "growth": growing.GROWTH,
    "progressive": growing.PROGRESSIVE,
}
EVERY = {f"{room}: {name}": row for room, rows in ROOMS.items() for name, row in rows.items()}
# What only a run can show: the first of two runs, and what a function of the user's returns.
LATE = {
    "evaluation: evaluating with the train step",
    "checkpoints: the folder of another run",
    "checkpoints: the folder of another rule",
}
OWN = pathlib.Path(trainkit.__file__).parent


def test_there_are_a_hundred():
    assert len(EVERY) >= 100
    assert min(map(len, ROOMS.values())) >= 8


def answer(call, capsys):
    """What is said to a mistake."""
    if isinstance(call, str):
        try:
            status = main(call.split())
        except SystemExit as ended:
            status = ended.code
        assert status == 2
        return capsys.readouterr().err
    with pytest.raises((TypeError, ValueError, KeyError)) as caught:
        call()
    place = traceback.extract_tb(caught.value.__traceback__)[-1].filename
    assert OWN in pathlib.Path(place).parents, f"raised in {place}: {caught.value}"
    return str(caught.value.args[0])


@pytest.mark.parametrize("name", EVERY)
def test_a_mistake_is_answered_with_its_mend(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    compiled, compile_ = [], jax.stages.Lowered.compile

    def counted(lowered, *args, **options):
        compiled.append(lowered)
        return compile_(lowered, *args, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counted)
    call, argument, mend = EVERY[name]
    said = answer(call, capsys)
    assert argument in said
    assert mend in said
    assert not compiled or name in LATE
