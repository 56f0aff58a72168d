"""The report over Optax: what it covers, and that nothing in it is without a reason."""

import re
import tomllib
import warnings
from pathlib import Path

import optax
import pytest

from tools.optax_report.names import REASONS, public, reason
from tools.optax_report.page import classify, page
from tools.optax_report.programs import errors, shows
from tools.optax_report.rows import constructions
from trainkit.laws import DEVIATIONS, RULES, SCHEDULES
from trainkit.laws.oracles import PAPERS
from trainkit.laws.oracles.catalogue import plain_name
from trainkit.laws.protocol import is_transformation

ROOT = Path(__file__).parents[2]
KINDS = {"bug", "documented limitation", "law not claimed"}


@pytest.fixture(scope="module")
def rows():
    return constructions()


def test_every_name_with_a_reference_has_a_row(rows):
    assert {plain_name(x) for x in {*RULES, *SCHEDULES} - {*PAPERS}} <= {
        plain_name(row) for row in rows
    }
    assert len(rows) >= 140


def test_every_row_can_be_made(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these names are on their way out of Optax
        for row, expression in rows.items():
            made = eval(expression, {"optax": optax})
            assert is_transformation(made) or callable(made), row


def test_every_public_name_has_a_row_or_a_reason(rows):
    covered = {row.split(",")[0] for row in rows}
    for name, made in public():
        if name not in covered and name.rpartition(".")[2] not in covered:
            assert reason(name, made), name
    assert not set(REASONS) & covered
    assert set(REASONS) <= {name for name, _ in public()}


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


def test_the_page_says_where_optax_departs_from_papers():
    page = (ROOT / "docs" / "laws-of-optax.md").read_text()
    words = {(d.paper, d.optax) for d in DEVIATIONS.values()}
    for paper, ours in words:
        assert f"| {paper} | {ours} | " in page
    assert len(re.findall("<summary>Program ", page)) == len(words)


def programs():
    text = (ROOT / "docs" / "laws-of-optax.md").read_text()
    return re.findall(r"```text\n(# .*?)\n```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_every_program_of_the_page_fails_by_itself(part):
    chosen = programs()[part::10]
    assert chosen
    for program, error in zip(chosen, errors(chosen), strict=True):
        assert shows(error), f"it ends in {error!r}:\n{program}"


def test_a_program_that_does_not_fail_or_is_none_shows_nothing():
    found = errors(["assert 1 == 2, 'no'", "x = 1", "undefined", "from trainkit import laws"])
    assert found[0] == "AssertionError: no"
    assert [shows(error) for error in found] == [True, False, False, False]


def test_a_page_prints_only_programs_that_fail():
    failure = {"law": "purity", "level": "standard", "message": "it parts"}
    rows = {"adam": "optax.adam()", "sgd": "optax.sgd()"}
    outcomes = {
        row: {"results": [["purity", "standard", "broken", ""]], "failures": [failure | {
            "reproducer": f"assert False, {row!r}" + "  # longer" * (row == "sgd")}]}
        for row in rows
    }  # fmt: skip
    text = lambda good: "\n".join(page({}, rows, outcomes, 1, lambda ps: [good in p for p in ps]))
    assert "Reproducer (adam, purity)" in text("adam")
    assert "Reproducer (sgd, purity)" in text("sgd")
    assert "none of those that the kit wrote fails" in text("lion")
