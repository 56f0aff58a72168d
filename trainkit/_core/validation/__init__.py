"""Argument checks: bad input is refused before anything is compiled.

`values` checks options, `trees` checks trees of arrays, and `steps` checks the inputs of a train
step. Every message has one form: "name must be ..., not ...; how to fix it". Read `values` first.
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
