"""Writes the golden plans anew, or shows one: see the package's docstring."""

import json
import sys

import tests.conftest  # noqa: F401  (as many devices as the tests have)
from tests.growth.golden.cases import TABLES
from tests.growth.golden.records import known, write


def main(*name: str) -> None:
    if name:
        table, model, variant = name
        print(json.dumps(known(TABLES[table][model][variant]).full, indent=1, ensure_ascii=False))
        return
    for table, models in TABLES.items():
        found = {
            model: {variant: known(case).record for variant, case in cases.items()}
            for model, cases in models.items()
        }
        write(table, found)
        print(f"{table}: {len(found)} models, {sum(map(len, found.values()))} plans")


if __name__ == "__main__":
    main(*sys.argv[1:])
