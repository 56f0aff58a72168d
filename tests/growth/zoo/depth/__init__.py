"""Models that gain layers: however they hold them, whatever makes a new one do nothing."""

from tests.growth.zoo.depth import (  # noqa: F401  (they add)
    experiments,
    libraries,
    linen_modules,
    operated,
    plain_layers,
    residual_layers,
    transformers,
)
