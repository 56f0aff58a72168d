"""`trainkit plan`."""

import subprocess
import sys

import pytest


def plan(*arguments):
    command = [sys.executable, "-m", "trainkit", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_says_what_each_placement_needs():
    where = "--devices", "4", "--placement", "pmap", "single"
    done = plan("mnist", *where, "--", "--batch-size", "64")
    assert done.returncode == 0, done.stderr
    assert "mlp · pmap on 4 × cpu, for each device:" in done.stdout
    assert "1 all-reduce of 2.68 MB" in done.stdout
    assert "mlp · single on 1 × cpu, for each device:" in done.stdout
    assert "nothing is sent" in done.stdout


def test_it_says_what_a_step_of_a_round_sends():
    where = "--devices", "4", "--placement", "shard_map", "periodic", "--steps-per-call", "50"
    done = plan("mnist", *where, "--", "--batch-size", "64")
    assert done.returncode == 0, done.stderr
    assert "4.02 MB a step: 50 all-reduce of 134 MB" in done.stdout
    # Parameters and both moments of Adam, once in 50 steps.
    assert "241 kB a step: 3 all-reduce of 8.04 MB" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mnits"], "did you mean 'mnist'"),
        (["quadratic"], "quadratic has no function programs(config, **where)"),
        (["mnist", "--", "--batch-size", "60", "--model", "cnn"], "60"),
        (["mnist", "--topology", "v5e:4x4"], "pip install 'trainkit[tpu-plan]'"),
        (["mnist", "--devices", "0"], "--devices 0 must be at least 1"),
        (["mnist", "--steps-per-call", "0"], "--steps-per-call 0 must be at least 1"),
        (["mnist", "--placement", "fdsp"], "invalid choice: 'fdsp'"),
        (["mnist", "--", "--epochs", "0"], "--epochs is 0"),
    ],
)
def test_what_cannot_be_planned_is_named(arguments, words):
    done = plan(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
