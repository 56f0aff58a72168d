"""Published architectures by family; see `making`."""

from tests.growth.published import attention, fields, images, machinery, recurrent, relations
from tests.growth.published.making import MODELS, REFUSED

__all__ = [
    "MODELS",
    "REFUSED",
    "attention",
    "fields",
    "images",
    "machinery",
    "recurrent",
    "relations",
]
