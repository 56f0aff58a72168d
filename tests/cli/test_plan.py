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


def test_a_growing_run_has_a_table_for_each_stage_and_each_growth():
    done = plan("progressive_lm", "--devices", "4", "--placement", "fsdp")
    assert done.returncode == 0, done.stderr
    heads = [line for line in done.stdout.splitlines() if " · " in line]
    assert heads == [
        "stage 0, width 32, depth 0 · fsdp on 4 × cpu, for each device:",
        "growth to stage 1 · program on 4 × cpu, for each device:",
        "stage 1, width 32, depth 2 · fsdp on 4 × cpu, for each device:",
    ]


def test_the_largest_micro_batch_is_found():
    where = "--devices", "2", "--placement", "jit", "--micro-batch", "--memory", "0.02"
    done = plan("mnist", *where, "--", "--batch-size", "4096")
    assert done.returncode == 1, done.stderr  # the whole batch at a time does not fit
    assert "of 20 MB: TOO LARGE" in done.stdout
    assert "micro-batch the largest that fits has" in done.stdout
    assert "of a device's 2,048 examples: microbatches=" in done.stdout


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
        (["mnist", "--micro-batch"], "--micro-batch needs --memory"),
        (["mnist", "--memory", "-1"], "memory must be finite and greater than 0"),
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
