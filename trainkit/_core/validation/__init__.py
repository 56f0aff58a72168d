"""Argument checks: bad input is refused before anything is compiled.

Input: a value and the name of its argument. Output: the value, or an error of one form: "name must
be ..., not ...; how to fix it". `values` checks options, `trees` trees of arrays, and `steps` the
inputs of a train step. Read `values` first.
"""

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
    function,
    hyperparameter,
    integer,
    keyword_names,
    keywords,
    kind,
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
    "SHARE",
    "choice",
    "concrete",
    "differences",
    "function",
    "hyperparameter",
    "integer",
    "keyword_names",
    "keywords",
    "kind",
    "leading_size",
    "near",
    "need_params",
    "number",
    "params_are_floating",
    "same_structure",
    "same_tree",
    "transformation",
]
