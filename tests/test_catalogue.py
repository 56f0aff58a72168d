"""The catalogue page: written from the docstrings as they are, and complete."""

import importlib.util
import pathlib

import pytest

import trainkit.schedules
import trainkit.transforms

DOCS = pathlib.Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_catalogue", DOCS / "make_catalogue.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_docstrings_say(make):
    written = (DOCS / "catalogue.md").read_text()
    assert written == make.page(), "run: python docs/make_catalogue.py"


def test_every_public_rule_and_schedule_is_in_it(make):
    text = (DOCS / "catalogue.md").read_text()
    for module in (trainkit.transforms, trainkit.schedules):
        for name in module.__all__:
            thing = getattr(module, name)
            # States and types are described where they are used.
            kinds = isinstance(thing, type) and name[0].isupper()
            if not kinds and name not in ("rule", "has_updated", "dequantise", "Schedule"):
                assert f"`{name}`" in text, name


def test_every_entry_has_its_picture(make):
    names = [n for rules in make.RULES.values() for n in rules]
    names += [*make.SCHEDULES, *make.DRIVEN, *(n for n, (_, m) in make.AS_THEY_ARE.items() if m)]
    assert len(names) == len(set(names))
    for name in names:
        assert (DOCS / "img" / f"{name}.png").stat().st_size > 500, name
