"""Two processes give what one gives, bit for bit, and end together.

The trials are those of benchmarks/reliability/processes.py; two of them run by default.
"""

import argparse
import importlib.util
import json
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "reliability" / "processes.py"
spec = importlib.util.spec_from_file_location("processes_trials", PATH)
trials = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trials)


def here(what, folder, **changes):
    """What this process ends with, on two of its devices."""
    options = {"placement": "jit", "trouble": "", "steps": trials.STEPS, "devices": 2}
    options |= {"folder": folder, "first": True, "here": False, **changes}
    folder.mkdir(exist_ok=True)
    what(argparse.Namespace(**options))
    return json.loads((folder / "end.json").read_text())


def test_every_placement_is_bitwise_that_of_one_process(tmp_path):
    expected = here(trials.several, tmp_path / "one")
    found = trials.two("several", tmp_path / "two")
    assert found == expected


def test_a_signal_to_one_stops_both_and_one_process_goes_on(tmp_path):
    process = trials.launch(trials.program("train", tmp_path / "run", "--trouble", "term"))
    text = trials.finish(process, 143, "interrupted by SIGTERM")
    assert text.count("was ended by SIGTERM") == 1
    expected = here(trials.train, tmp_path / "one")
    assert trials.compared(here(trials.train, tmp_path / "run"), expected) == "equal"


@pytest.mark.slow
@pytest.mark.parametrize("name", trials.SCENARIOS)
def test_trial(name, tmp_path):
    assert trials.SCENARIOS[name](tmp_path) in ("equal", "clean")
