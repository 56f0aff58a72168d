"""The catalogue page: written from the docstrings as they are, and complete."""

import pathlib

import trainkit.schedules
import trainkit.transforms
from tools import catalogue

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_docstrings_say():
    written = (DOCS / "catalogue.md").read_text()
    assert written == catalogue.page(), "run: python -m tools.catalogue"


def test_every_public_rule_and_schedule_is_in_it():
    text = (DOCS / "catalogue.md").read_text()
    for module in (trainkit.transforms, trainkit.schedules):
        for name in module.__all__:
            thing = getattr(module, name)
            # States and types are described where they are used.
            kinds = isinstance(thing, type) and name[0].isupper()
            if not kinds and name not in ("rule", "has_updated", "dequantise", "Schedule"):
                assert f"`{name}`" in text, name


def test_every_entry_has_its_picture():
    names = [n for rules in catalogue.RULES.values() for n in rules]
    names += [
        *catalogue.SCHEDULES,
        *catalogue.DRIVEN,
        *(n for n, (_, m) in catalogue.AS_THEY_ARE.items() if m),
    ]
    assert len(names) == len(set(names))
    for name in names:
        assert (DOCS / "img" / f"{name}.png").stat().st_size > 500, name
