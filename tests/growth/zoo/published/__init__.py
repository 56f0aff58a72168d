"""Published architectures by family; see `making`."""

from tests.growth.zoo.published import (  # noqa: F401  (they add)
    attention,
    fields,
    images,
    machinery,
    recurrent,
    relations,
)
