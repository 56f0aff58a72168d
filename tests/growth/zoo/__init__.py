"""The zoo: every model that the tests of growth know, small enough to grow in a test.

`registry` says how a test asks for models. The other files hold them: `classics` is what people
grow first, `unforeseen` what the rules were not written with, `odd` one trap each, `mixtures` of
experts, `published` architectures as their authors write them, `depth` those that gain layers,
`linen_layers`, `lookups` and `row_means` one part of a model in all its forms, `shared` what tests
of several mechanisms use. A new model goes where it fits, and its plans into `tests/growth/golden`.
"""

from tests.growth.zoo import (  # noqa: F401  (they add)
    classics,
    depth,
    linen_layers,
    lookups,
    mixtures,
    odd,
    published,
    row_means,
    shared,
    unforeseen,
)
from tests.growth.zoo.registry import REGISTRY, Model, models

__all__ = ["REGISTRY", "Model", "models"]
