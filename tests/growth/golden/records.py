"""Plans as short records, and the files that hold them: one line a case, sorted."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from tests.growth.golden import facts
from tests.growth.golden.cases import Case
from trainkit.growth import GrowthError

FOLDER = pathlib.Path(__file__).parent
Record = dict[str, Any]


class Known(NamedTuple):
    """What is known of one case: its record, and what the hashes in it stand for."""

    record: Record
    full: Record


@contextmanager
def mode() -> Iterator[None]:
    """Float64, in which rounding stays behind the digits that count, and JAX's own promotion."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def known(case: Case) -> Known:
    """Plans, or is refused."""
    with mode():
        try:
            plan = case()
        except GrowthError as error:
            full = facts.refusal(error)
            # The words of a refusal may be made better; what it is about is recorded.
            return Known({k: v for k, v in full.items() if k != "message"}, full)
        leaves, maps, whole = facts.facts(plan), facts.maps(plan), facts.whole(plan)
    hashes = {path: f"{facts.short(leaves[path])}.{facts.short(maps[path])}" for path in leaves}
    record = {**whole, "axes": facts.short(whole["axes"]), "leaves": hashes}
    return Known(record, {**whole, "leaves": leaves, "maps": maps})


class Kept(NamedTuple):
    """A file of records: model -> variant -> record, and the version of JAX that traced them."""

    jax: str
    models: dict[str, dict[str, Record]]


def read(table: str) -> Kept:
    data = json.loads((FOLDER / f"{table}.json").read_text(encoding="utf-8"))
    models = {
        name: {variant: _unpacked(record, model["leaves"]) for variant, record in model["cases"]}
        for name, model in data["models"].items()
    }
    return Kept(data["jax"], models)


def write(table: str, models: Mapping[str, Mapping[str, Record]]) -> None:
    """The paths of a model's leaves stand in a line of their own, before its cases."""
    dumps = lambda x: json.dumps(x, ensure_ascii=False, sort_keys=True)
    blocks = []
    for model, cases in sorted(models.items()):
        paths = sorted({path for record in cases.values() for path in record.get("leaves", ())})
        lines = [dumps([name, _packed(record, paths)]) for name, record in sorted(cases.items())]
        head = f'{dumps(model)}: {{"leaves": {dumps(paths)}, "cases": [\n'
        blocks.append(head + ",\n".join(lines) + "\n]}")
    text = f'{{"jax": {dumps(jax.__version__)}, "models": {{\n' + ",\n".join(blocks) + "\n}}\n"
    (FOLDER / f"{table}.json").write_text(text, encoding="utf-8")


def _packed(record: Record, paths: list[str]) -> Record:
    if "leaves" not in record:
        return record
    return {**record, "leaves": " ".join(record["leaves"].get(path, "-") for path in paths)}


def _unpacked(record: Record, paths: list[str]) -> Record:
    if "leaves" not in record:
        return record
    hashes = zip(paths, record["leaves"].split(" "), strict=True)
    return {**record, "leaves": {path: text for path, text in hashes if text != "-"}}
