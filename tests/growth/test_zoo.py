"""The registry says what there is: every tag means something, and every model has one place."""

import ast
import collections
import pathlib

import pytest

from tests.growth import zoo
from tests.growth.golden.records import FOLDER
from tests.growth.zoo.registry import FAMILIES, FRONT_ENDS, HOWS

GROWTH = pathlib.Path(__file__).parent
TAGS = [
    *(("family", family) for family in FAMILIES),
    *(("front_end", front_end) for front_end in FRONT_ENDS),
    *(("how", how) for how in (*HOWS, "groups", "experts")),
    *(("exact", kept) for kept in (True, False)),
]


@pytest.mark.parametrize(("tag", "value"), TAGS)
def test_every_tag_is_used(tag, value):
    assert zoo.models(**{tag: value})


def test_every_table_has_its_golden_plans():
    tables = {model.table for model in zoo.REGISTRY.values()}
    assert tables == {path.stem for path in FOLDER.glob("*.json")}


def test_a_case_is_a_variant_or_a_variant_by_an_operator():
    model = zoo.REGISTRY["rotary transformer"]
    assert list(model.cases) == [
        *(f"deeper, {how}" for how in HOWS),
        "wider",
        *(f"wider too, {how}" for how in HOWS),
    ]
    assert model.exact == ["deeper, identity", "wider", "wider too, identity"]
    assert zoo.models(family="attention", axis="depth", how="middle")["rotary transformer"] is model


def definitions(path):
    """Names of the models that a file defines: modules of a library, functions of parameters."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            bases = {base.attr for base in node.bases if isinstance(base, ast.Attribute)}
            if "Module" in bases:
                yield node.name
        if isinstance(node, ast.FunctionDef) and node.name != "_":
            arguments = [arg.arg for arg in node.args.args]
            taken = arguments[1:3] if arguments else []
            if arguments[:1] in (["p"], ["params"]) and {"x", "ids", "tokens"} & {*taken}:
                yield node.name


def test_no_model_is_defined_twice():
    places = collections.defaultdict(list)
    for path in sorted(GROWTH.rglob("*.py")):
        for name in definitions(path):
            places[name].append(str(path.relative_to(GROWTH)))
    assert len(places) > 100  # it does find them
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_test_takes_a_model_from_another():
    """What two tests use is in the zoo."""
    found = []
    for path in sorted(GROWTH.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or ".test_" not in (node.module or ""):
                continue
            models = set(definitions(GROWTH.parents[1] / f"{node.module.replace('.', '/')}.py"))
            found += [f"{path.name}: {alias.name}" for alias in node.names if alias.name in models]
    assert found == []
