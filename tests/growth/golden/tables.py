"""Every plan that is recorded: table -> model -> variant -> a function that makes the plan."""

from tests.growth.golden.cases import Table, of_models
from tests.growth.golden.parts import PARTS

MODELS = ("zoo", "unforeseen", "odd", "mixtures", "published", "deeper")  # in the registry
TABLES: dict[str, Table] = {
    **{table: of_models(table) for table in MODELS},
    "parts": {**of_models("parts"), **PARTS},
}
