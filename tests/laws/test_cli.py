"""`trainkit laws`, called as the command calls it."""

import pytest

from trainkit.laws.cli import main


def test_a_correct_rule_exits_with_zero(capsys):
    assert main(["optax:sgd", "--like", "sgd", "learning_rate=0.1", "--law", "oracle"]) == 0
    assert "every law that was checked holds" in capsys.readouterr().out


def test_a_wrong_rule_exits_with_one_and_prints_the_table(capsys):
    argv = ["tests.laws.mutants:adam", "fault=no bias correction", "--like", "adam",
            "learning_rate=1e-3", "lr=1e-3", "--law", "oracle"]  # fmt: skip
    assert main(argv) == 1
    assert "oracle" in capsys.readouterr().out


def test_a_schedule(capsys):
    argv = ["optax:linear_schedule", "--like", "linear_schedule", "init_value=1.0",
            "end_value=0.0", "transition_steps=10"]  # fmt: skip
    assert main(argv) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["optax"], "package.module:factory"),
        (["optax:adamm"], "did you mean"),
        (["no_such_module:x"], "cannot import"),
        (["optax:adam"], "learning_rate=…"),
        (["optax:adam", "learning_rate"], "name=value"),
        (["optax:adam", "learning_rate=1e-3", "nothing=1"], "takes no nothing"),
    ],
)
def test_bad_input_is_named(argv, words, capsys):
    assert main(argv) == 2
    assert words in capsys.readouterr().err
