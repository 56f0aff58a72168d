"""Every plan of every model that these tests know is what it was when it was recorded.

A guard for changes that are not meant to change what growth proves. The records, in
`tests/growth/golden`, are hashes of what a plan says of each leaf and of the map it makes of it.
Where a change is meant, write them anew with `python -m tests.growth.golden`, and say why.

Another version of JAX may trace a model to another number of equations, which is compared under the
version that the records were made with.
"""

import functools
import json

import jax
import pytest

from tests.growth.golden import records
from tests.growth.golden.tables import TABLES

kept = functools.cache(records.read)
SHOWN = 3  # leaves of one plan whose facts are shown in full


def changes(variant, before, now, by_version=()):
    """What of one plan is not as recorded, as text; nothing where all is."""
    if before is None:
        return [f"{variant!r} was not recorded"]
    found, leaves = now.record, now.record.get("leaves", {})
    lines = [
        f"{name}: {before.get(name)} → {found.get(name)}"
        for name in sorted({*before, *found} - {"leaves", *by_version})
        if before.get(name) != found.get(name)
    ]
    old = before.get("leaves", {})
    changed = [path for path in sorted({*old, *leaves}) if old.get(path) != leaves.get(path)]
    for path in changed:
        lines.append(f"{path} (plan.map): {old.get(path)} → {leaves.get(path)}")
    if not lines:
        return []
    if "message" in now.full:
        lines.append(f"it says now: {now.full['message']}")
    else:
        lines.append(f"now: {json.dumps(now.full['axes'])}")
        for path in [path for path in changed if path in leaves][:SHOWN]:
            lines.append(f"now {path}: {json.dumps(now.full['leaves'][path])}")
            lines.append(f"    its map: {json.dumps(now.full['maps'][path])}")
    return [f"{variant!r}:", *(f"  {line}" for line in lines)]


@pytest.mark.parametrize(
    ("table", "model"), [(table, model) for table, models in TABLES.items() for model in models]
)
@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")
def test_plans_are_what_they_were(table, model):
    before, cases = kept(table).models.get(model, {}), TABLES[table][model]
    by_version = () if kept(table).jax == jax.__version__ else ("equations",)
    assert not before.keys() - cases.keys(), "recorded, and gone"
    lines = []
    for variant, case in cases.items():
        lines += changes(variant, before.get(variant), records.known(case), by_version)
    if lines:
        told = f"`python -m tests.growth.golden {table} {model!r} VARIANT` shows a plan in full"
        text = "\n".join([f"the plans of {model!r} in {table} changed ({told}):", *lines])
        pytest.fail(text, pytrace=False)


@pytest.mark.parametrize("table", TABLES)
def test_no_model_is_recorded_and_gone(table):
    assert not kept(table).models.keys() - TABLES[table].keys()
