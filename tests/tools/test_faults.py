"""Faults planted in a toy: which there are, which are drawn, and which of its tests sees them."""

import json

import pytest

from tools.faults import __main__ as command
from tools.faults import baseline, trials
from tools.faults.exclusions import Spans
from tools.faults.sample import draw, shares
from tools.faults.sandbox import sandbox
from tools.faults.sites import faults_in
from tools.faults.source import Edit, Source

FEW = "-p no:hypothesispytest"  # importing it takes most of the time of such a run
AREA = """import functools

LIMIT = 10


@functools.cache
def area(width: int, height: int) -> int:
    return width * height


def fits(width: int) -> bool:
    if width < 0:
        raise ValueError(f"there is no width {width + 0}")
    return bool(width <= LIMIT)


def unused(width: int) -> float:
    return width / LIMIT
"""
TESTS = """import pytest

from toy import area


def test_area():
    assert area.area(2, 3) == 6


def test_the_cache_hides_no_line():
    assert area.area(2, 3) == 6


def test_refused():
    with pytest.raises(ValueError, match="no width"):
        area.fits(-1)
    area.fits(0)


def test_fails_anyway():
    assert area.area(2, 3) == 7
"""


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "toy" / "area.py").write_text(AREA)
    (tmp_path / "tests" / "test_area.py").write_text(TESTS)
    return tmp_path


def changes(root, text):
    (root / "toy" / "area.py").write_text(text)
    faults, sources = faults_in(root, ["toy"])
    return {(f.kind, f.after) for f in faults if sources[f.file].changes(f.edit)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = a and (b or c)", {("condition", "x = (b or c)"), ("condition", "x = a "),
                                ("condition", "x = a and ( c)"), ("condition", "x = a and (b )")}),
        ("if not (a or b):\n    f()", {("condition", "if (a or b):"), ("statement", "pass"),
                                       ("condition", "if False:"), ("condition", "if True:"),
                                       ("condition", "if not ( b):"),
                                       ("condition", "if not (a ):")}),
        ("x = 2.0 if a else b", {("branches", "x = 2.0 if not (a) else b"),
                                 ("condition", "x = 2.0 if True else b"),
                                 ("condition", "x = 2.0 if False else b"),
                                 ("factor", "x = 4.0 if a else b")}),
        ("x = y[1:n, -1]", {("off by one", "x = y[2:n, -1]"), ("off by one", "x = y[0:n, -1]"),
                            ("off by one", "x = y[1:(n) + 1, -1]"),
                            ("off by one", "x = y[1:n, -2]"), ("off by one", "x = y[1:n, 0]")}),
        ("x = a * (b)  # a * b", {("factor", "x = a # a * b"), ("factor", "x = (b) # a * b")}),
        ("x = (a) / b", {("factor", "x = (a) * b"), ("factor", "x = (a) ")}),
        ("x = a + [b]", {("factor", "x = a ")}),
        ("x = a ** sqrt(b)", {("factor", "x = a "), ("factor", "x = a ** (b)")}),
        ("x += a", {("factor", "x -= a"), ("statement", "pass")}),
        ("x = min(a) == b", {("comparison", "x = max(a) == b"), ("comparison", "x = min(a) != b")}),
        ("x = a <= b", {("off by one", "x = a < b")}),
        ("f(a, k=b, l=c)", {("statement", "pass"), ("keyword", "f(a, l=c)"),
                            ("keyword", "f(a, k=b, )")}),
        ("for i in range(n):\n    continue", {("off by one", "for i in range((n) - 1):"),
                                              ("statement", "pass")}),
        ("def f() -> bool:\n    return True", {("returned", "return False")}),
        ("def f() -> int | None:\n    return x", {("returned", "return None")}),
        ("match a:\n    case b if c < d:\n        f()", {("off by one", "case b if c <= d:"),
                                                         ("statement", "pass")}),
    ],
)  # fmt: skip
def test_the_faults_of_a_line(toy, text, found):
    strip = lambda faults: {(kind, after.strip()) for kind, after in faults}
    assert strip(changes(toy, text)) == strip(found)


@pytest.mark.parametrize(
    "text",
    [
        '"""1 + 1."""',
        "__all__ = [1]",
        "Shape = A | B",
        "if TYPE_CHECKING:\n    x = 1",
        "def f(x: A[1] | B) -> C[2]: ...",
        "@dataclass(frozen=True)\nclass A: ...",
        "class AError(ValueError):\n    x = 1",
        "zip(a, strict=True)[b]",
        "x = f'{a + 1}'",
    ],
)
def test_what_is_excluded(toy, text):
    assert changes(toy, text) <= {("statement", "pass")}


def test_words_of_errors_are_excluded(toy):
    text = (
        "def f(a):\n"
        "    size = a + 1\n"
        "    if a:\n"
        "        words = _words(size)\n"
        "        fail(words, a + 2)\n"
        "    raise GrowthError(a + 3)\n"
        "def fail(words, a):\n"
        "    raise ValueError(words * 4)\n"
        "def _words(size):\n"
        "    return size * 5\n"
    )
    # No number, but whether there is an error at all.
    assert changes(toy, text) == {("condition", "if False:"), ("statement", "pass")}


def test_texts_that_are_not_ascii_keep_their_places():
    source = Source("a.py", "x = 'α → β' + y * 2\n".encode())
    assert source.text(source.tree.body[0].value) == "'α → β' + y * 2"


def test_an_edit_that_takes_a_whole_line_is_shown_with_the_line_above():
    source = Source("a.py", b"f(\n    a=1,\n)\n")
    assert source.lines(Edit(7, 11, "")) == ("f( a=1,", "f(")


def test_spans_within_spans():
    spans = Spans([(0, 10), (2, 3), (12, 14)])
    assert [at for at in range(16) if at in spans] == [*range(10), 12, 13]


def test_shares():
    assert shares({"a": 60, "b": 30, "c": 1}, 10) == {"a": 6, "b": 3, "c": 1}
    assert shares({"a": 2, "b": 1}, 10) == {"a": 2, "b": 1}
    assert sum(shares(dict.fromkeys("abcdef", 5), 4).values()) == 4


def test_a_draw_is_the_same_each_time_and_moves_little_with_the_sources(toy):
    def drawn(seed=0):
        faults, sources = faults_in(toy, ["toy"])
        return [fault.key() for fault in draw(faults, sources, 4, seed)]

    first = drawn()
    assert len(first) == 4
    assert drawn() == first
    assert any(drawn(seed) != first for seed in range(1, 9))
    (toy / "toy" / "area.py").write_text("import math\n\n" + AREA)
    assert drawn() == first


def run(toy, capsys, *more):
    command.main(["toy", "--tests", "tests", f"--pytest={FEW}", f"--root={toy}", *more])
    return capsys.readouterr().out


def test_killed_and_survived(toy, capsys):
    out = run(toy, capsys)
    assert "left out, it fails without a fault: tests/test_area.py::test_fails_anyway" in out
    lines = (toy / "build" / "faults" / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found = {r["line"]: (r["how"], r["of"]) for r in records}
    assert found == {
        # Runs at import, and so every test may see it.
        3: ("passed", 3),
        # The second test of the same call runs it too, though a cache has the result.
        8: ("failed", 2),
        12: ("failed", 1),
        13: ("failed", 1),
        14: ("passed", 1),
        18: ("not run", 0),
    }
    refused = next(r for r in records if r["line"] == 13)
    assert refused["by"] == "tests/test_area.py::test_refused"
    assert out.count("SURVIVED toy/area.py") == 3
    assert "Survivors\ntoy/area.py:3" in out
    assert (toy / "toy" / "area.py").read_text() == AREA

    # What is done is not done again; what survived is, when asked for.
    assert "1/" not in run(toy, capsys)
    assert "3/3 SURVIVED" in run(toy, capsys, "--again")

    # A reason takes a survivor out of the count.
    (toy / "tools").mkdir()
    entry = {k: v for k, v in records[0].items() if k in ("file", "before", "after")}
    reasons = toy / "tools" / "equivalent_faults.json"
    reasons.write_text(json.dumps([entry | {"reason": "no test gets there"}]))
    table = run(toy, capsys, "--report").splitlines()[1].split()
    assert table == ["toy", *"63210", "60.0", "%"]
    reasons.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="has no reason"):
        run(toy, capsys, "--report")


def test_a_test_that_gets_stuck_counts_as_one_that_fails(toy, monkeypatch):
    monkeypatch.setattr(baseline, "LEAST", 1.0)
    (toy / "toy" / "area.py").write_text("def f(n):\n    while n:\n        n -= 1\n    return n\n")
    (toy / "tests" / "test_area.py").write_text(
        "from toy.area import f\n\n\ndef test_ends():\n    assert f(3) == 0\n"
    )
    faults, sources = faults_in(toy, ["toy"])
    fault = next(fault for fault in faults if fault.after == "pass")
    with sandbox(toy, cache=toy / "build", options=FEW.split()) as place:
        known = baseline.recorded(place, list(sources), ["tests"], toy / "known.json", print)
        record = trials.trial(fault, sources[fault.file], known, place, patience=10)
    assert (record["killed"], record["how"]) == (True, "timeout")
    assert record["by"] == "tests/test_area.py::test_ends"
