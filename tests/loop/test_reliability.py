"""The measure of what a run survives, in short: what it tries, it tries, and a run survives it."""

import json
import pathlib
import re

import pytest

from benchmarks.reliability.aims import AIMS, owner_of
from benchmarks.reliability.corruptions import ALL
from benchmarks.reliability.results import measure, read, table


def test_a_killed_and_a_damaged_run_end_bitwise_where_the_undisturbed_one_does(tmp_path):
    results = tmp_path / "results.jsonl"
    aimed = list(AIMS).index("deleting a step")
    damaged = ALL.index(("the newest step", "damaged, and an older one too"))
    # As if all but the last of each had been made.
    done = [("aimed", seed) for seed in range(aimed)]
    done += [("corruptions", seed) for seed in range(damaged)]
    rows = [{"trial": t, "seed": s, "what": "before", "verdict": "equal"} for t, s in done]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    measure({"kills": 1, "aimed": aimed + 1, "corruptions": damaged + 1}, results)
    made = read(results)[len(done) :]
    assert [(row["trial"], row["seed"], row["verdict"]) for row in made] == [
        ("kills", 0, "equal"),
        ("aimed", aimed, "equal"),
        ("corruptions", damaged, "equal"),
    ]
    assert f"| corruptions | before | {damaged} | {damaged} | 0 | 0 | 0 | 0 |" in table(results)


@pytest.mark.parametrize("where", AIMS)
def test_what_is_aimed_at_is_there(where):
    assert callable(getattr(owner_of(AIMS[where]), AIMS[where].name))


def test_every_promise_of_the_docs_has_tests_that_exist():
    root = pathlib.Path(__file__).parents[2]
    page = (root / "docs" / "reliability.md").read_text()
    promises = page[page.index("| promise |") : page.index("Limits.")].splitlines()[2:]
    tests = "".join(file.read_text() for file in (root / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    for promise in filter(None, promises):
        named = re.findall(r"`(test_\w+)`", promise)
        assert named, promise
        assert set(named) <= there, promise
