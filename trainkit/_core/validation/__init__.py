"""Argument checks: bad input is refused before anything is compiled.

Input: a value and the name of its argument. Output: the value, or an error of one form: "name must
be ..., not ...; how to fix it". `values` checks numbers and choices, `kinds` other options, `trees`
trees of arrays, and `steps` the inputs of a train step. Read `values` first.
"""

from trainkit._core.validation.kinds import (
    SEEDS,
    bound,
    flag,
    function,
    key_of,
    listed,
    mapping,
    path,
    random_key,
    text,
)
from trainkit._core.validation.trees import (
    differences,
    leading_size,
    need_params,
    params_are_floating,
    same_structure,
    same_tree,
)
from trainkit._core.validation.values import (
    BETA,
    BOUND,
    HYPERPARAMETERS,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    choice,
    concrete,
    hyperparameter,
    integer,
    keyword_names,
    keywords,
    kind,
    named_options,
    near,
    number,
    transformation,
)

__all__ = [
    "BETA",
    "BOUND",
    "HYPERPARAMETERS",
    "NOT_NEGATIVE",
    "POSITIVE",
    "SEEDS",
    "SHARE",
    "bound",
    "choice",
    "concrete",
    "differences",
    "flag",
    "function",
    "hyperparameter",
    "integer",
    "key_of",
    "keyword_names",
    "keywords",
    "kind",
    "leading_size",
    "listed",
    "mapping",
    "named_options",
    "near",
    "need_params",
    "number",
    "params_are_floating",
    "path",
    "random_key",
    "same_structure",
    "same_tree",
    "text",
    "transformation",
]
