"""The report over Optax: what it covers, and that nothing in it is without a reason."""

import tomllib
import warnings
from pathlib import Path

import optax
import pytest

from trainkit.laws import RULES, SCHEDULES
from trainkit.laws.intake import is_transformation
from trainkit.laws.optax_page import classify
from trainkit.laws.optax_rows import constructions
from trainkit.laws.oracles.catalogue import plain_name

ROOT = Path(__file__).parents[2]
KINDS = {"bug", "documented limitation", "law not claimed"}


@pytest.fixture(scope="module")
def rows():
    return constructions()


def test_every_name_with_a_reference_has_a_row(rows):
    assert (set(RULES) | set(SCHEDULES)) <= {plain_name(row) for row in rows}
    assert len(rows) >= 140


def test_every_row_can_be_made(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these names are on their way out of Optax
        for row, expression in rows.items():
            made = eval(expression, {"optax": optax})
            assert is_transformation(made) or callable(made), row


def test_every_class_has_a_reason():
    entries = tomllib.loads((ROOT / "docs" / "laws-of-optax.toml").read_text())["violation"]
    for entry in entries:
        assert entry["class"] in KINDS
        assert len(entry["reason"]) > 40
        assert set(entry) <= {"rule", "law", "message", "class", "reason"}


def test_what_nobody_classified_shows_as_such():
    failure = {"law": "purity", "message": "something new"}
    assert classify({}, "adam", failure)[0] == "unclassified"
    classes = {"violation": [{"rule": "adam", "class": "bug", "reason": "because"}]}
    assert classify(classes, "adam, nesterov", failure) == ("bug", "because")
    assert classify(classes, "adamw", failure)[0] == "unclassified"


def test_the_page_is_whole(rows):
    page = (ROOT / "docs" / "laws-of-optax.md").read_text()
    assert f"Optax {optax.__version__}: all {len(rows)} constructions" in page
    assert "| Unclassified | 0 | 0 | 0 | 0 |" in page
    assert "not checked" not in page
    for expression in rows.values():
        assert f"| `{expression}` | ".replace("\n", " ") in page
