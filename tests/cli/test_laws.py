"""`trainkit laws`, called as the command calls it."""

import optax
import pytest

from trainkit.cli.laws import main


def raises():
    raise RuntimeError("no data")


def needs_heat():
    warm = lambda g, s, p=None, *, heat, **more: (optax.tree.scale(heat, g), s)
    return optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), warm)


def test_an_extra_argument_is_given_by_name(capsys):
    argv = ["tests.cli.test_laws:needs_heat", "--law", "purity", "--extra", "heat=0.5"]
    assert main(argv) == 0


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
        (["optax:sgd", "--like", "sdg", "learning_rate=1e-3"], "did you mean 'sgd'"),
        (["optax:sgd", "--law", "orcle", "learning_rate=1e-3"], "did you mean 'oracle'"),
        (["optax:sgd", "--claim", "od", "learning_rate=1e-3"], "did you mean 'odd'"),
        (
            ["optax:sgd", "--like", "linear_schedule", "learning_rate=1e-3"],
            "must not be a schedule",
        ),
        (["optax:__version__"], "of type str"),
        (["tests.cli.test_laws:raises"], "raised RuntimeError: no data"),
        (["tests.cli.test_laws:needs_heat"], "--extra name=value"),
        (["optax:adam", "learning_rate=1e-3", "nothing=1"], "takes no nothing"),
    ],
)
def test_bad_input_is_named(argv, words, capsys):
    assert main(argv) == 2
    assert words in capsys.readouterr().err
