"""The benchmarks' tables, command line and peers. No test looks at a time."""

import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import document, plots
from benchmarks.__main__ import chosen, main, module_of
from benchmarks.effort import Effort
from benchmarks.paired import blocks
from benchmarks.parts import ON_REQUEST, PARTS, training, update
from benchmarks.peers import environment
from benchmarks.peers.worker import Worker
from benchmarks.rows import Row, parse, table

ROWS = [
    Row("a / b", 1.25, 1.0, 1.5, 7, "", "target ≥ 1", "2026-01-02", "python -m benchmarks x:y"),
    Row("own", 12.5, 12.0, 13.0, 3, "s CPU", "", "2026-01-02", "python -m benchmarks x:z"),
]


def test_a_table_is_read_as_it_was_written():
    assert parse(table(ROWS)) == ROWS


def test_what_is_missing_is_read_as_it_was_written():
    row = Row.missing("over PyTorch", "could not be\ninstalled: a | b")
    (found,) = parse(table([row]))
    assert math.isnan(found.value)
    assert found.note == "could not be installed: a / b"


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1234"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")]
)
def test_numbers_have_three_digits(value, text):
    assert table([Row.of("x", [value])]).splitlines()[-1].split("|")[2].strip() == text


def test_a_row_is_held_against_its_target():
    rows = Row.of("x", [0.9, 1.0, 1.2], least=0.98), Row.of("x", [1.2], most=1.1)
    assert [row.note for row in rows] == ["target ≥ 0.98", "target ≤ 1.1, missed"]
    assert (rows[0].low, rows[0].value, rows[0].high) == pytest.approx((0.95, 1.0, 1.1))


def test_a_section_is_appended_then_replaced_row_by_row():
    page = document.updated("# Title\n\nProse.\n", "x, cpu", "x", "A processor", ROWS)
    again = Row("own", 9.0, 9.0, 9.0, 3, "s CPU", "", "2026-02-02", "python -m benchmarks x:z")
    page = document.updated(page, "x, cpu", "x", "A processor", [again])
    assert page.startswith("# Title\n\nProse.\n\n<!-- measured: x, cpu -->\n")
    assert parse(page) == [ROWS[0], again]
    other = document.updated(page, "x, gpu", "x", "A GPU", ROWS[:1])
    assert list(document.sections(other)) == ["x, cpu", "x, gpu"]


def test_a_row_that_its_command_no_longer_prints_is_removed():
    page = document.updated("", "x, cpu", "x", "A processor", ROWS)
    new = Row("renamed", 1.0, 1.0, 1.0, 3, command=ROWS[1].command)
    assert parse(document.updated(page, "x, cpu", "x", "A processor", [new])) == [ROWS[0], new]


def test_rows_of_another_environment_are_not_kept():
    page = document.updated("", "x, cpu", "x", "A processor", ROWS)
    assert parse(document.updated(page, "x, cpu", "x", "Another", ROWS[1:])) == ROWS[1:]


def test_every_row_of_the_page_has_its_command():
    for section in document.sections(document.PAGE.read_text()).values():
        for row in parse(section):
            *_, name = row.command.split()
            assert row.command == f"python -m benchmarks {name}"
            assert chosen([name])


def test_sides_take_turns_and_the_first_blocks_do_not_count():
    calls = []

    def side(name):
        return lambda: calls.append(name) or len(calls)

    took = blocks({"a": side("a"), "b": side("b")}, rounds=20)
    assert [len(x) for x in took.values()] == [20, 20]
    rounds = {tuple(calls[i : i + 2]) for i in range(2, len(calls), 2)}
    assert rounds == {("a", "b"), ("b", "a")}
    assert min(took["a"].min(), took["b"].min()) == 3


def test_help_knows_every_part_and_case(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for part in PARTS + ON_REQUEST:
        assert f"  {part} " in text
        assert ", ".join(module_of(part).CASES) in text
        assert module_of(part).__doc__.splitlines()[0] in text


def test_every_module_of_parts_is_a_part():
    modules = {path.stem for path in (document.ROOT / "benchmarks" / "parts").glob("[a-z]*.py")}
    assert modules == set(PARTS + ON_REQUEST)


@pytest.mark.parametrize("name", ["nothing", "step:nothing"])
def test_unknown_parts_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        main([name])
    assert "one of" in capsys.readouterr().err


def test_a_quick_run_writes_rows_with_their_command(tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks", "step:memory", "growth:memory", "--quick"]
    # As a user has it: this run's flags would simulate devices twice.
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [*command, "--page", str(page)],
        cwd=document.ROOT, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {row.command.split()[-1]: row for row in parse(page.read_text())}
    assert found["step:memory"].value == pytest.approx(1 / 8, rel=0.02)
    assert found["growth:memory"].value == pytest.approx(1, abs=0.05)  # its own target


@pytest.fixture
def without_peers(monkeypatch, tmp_path):
    """An empty environment, and requirements that pip refuses without asking anyone."""
    monkeypatch.setattr(environment, "FOLDER", tmp_path / "peers")
    nowhere = [str(tmp_path / "nowhere.whl")]
    monkeypatch.setattr(environment, "needs", lambda peer: nowhere)


def test_a_peer_that_cannot_be_installed_is_reported(without_peers):
    with pytest.raises(environment.Missing, match=r"could not be installed: ERROR: .*nowhere"):
        environment.python_of("torch")
    pythons, missing = training.found_pythons()
    assert set(pythons) == {"trainkit", "Flax + Optax by hand"}
    assert set(missing) == {"PyTorch", "PyTorch compiled", "Keras on JAX"}
    times = {side: [np.ones(3)] for side in pythons}
    reached = {side: [{"seconds": 1.0, "steps": 10, "accuracy": 1.0}] for side in pythons}
    rows = list(training.rows("mlp", Effort(), times, reached, missing))
    assert [r.value for r in rows if "by hand" in r.name] == [1.0, 1.0]
    reported = [r for r in rows if "could not be installed" in r.note]
    assert [math.isnan(r.value) for r in reported] == [True] * 3


def test_updates_are_measured_without_the_peer(without_peers, monkeypatch):
    monkeypatch.setitem(update.SIZES, "small", ([(4,)] * 3, 2))
    with jax.numpy_dtype_promotion("standard"):  # what a user has; Optax's bias correction needs it
        rows = list(update.updates("small", Effort(quick=True)))
    assert sum("could not be installed" in row.note for row in rows) == 2
    assert all(row.value > 0 for row in rows if "installed" not in row.note)


def test_a_side_that_fails_says_why(tmp_path):
    with pytest.raises(environment.Missing, match=r"does not run: .*no_such_side"):
        Worker(sys.executable, "no_such_side")


def test_a_slope_is_the_exponent():
    sizes = [1, 2, 4, 8]
    assert plots.slope(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
