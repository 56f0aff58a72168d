"""The networks that grow in the experiments, in float32 as they are there."""

from __future__ import annotations

import numpy as np

from experiments.progressive_lm.model import Transformer
from experiments.progressive_mnist.models import CNN, MLP
from tests.growth.zoo import registry
from tests.growth.zoo.building import linen
from tests.growth.zoo.depth.making import add, refused

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
TEXT = np.random.default_rng(0).integers(0, 11, (2, 6), np.int32)
TAGS = {"front_end": "linen", "dtype": None}
LANGUAGE = {"vocabulary": 11, "width": 8, "head_size": 8}

add(
    "attention", "language model", linen(Transformer, (TEXT,)), LANGUAGE | {"depth": 2},
    {"wider too": {"width": 16, "depth": 4}}, TEXT, **TAGS,
)  # fmt: skip
add(
    "attention", "language model, no block yet", linen(Transformer, (TEXT,)),
    LANGUAGE | {"depth": 0}, {"deeper": {"depth": 2}}, TEXT,
    refused=refused("deeper", "does not belong to a sequence of layers"), **TAGS,
)  # fmt: skip
add(
    "perceptron", "images, perceptron", linen(MLP, (IMAGES,)), {"hidden": (4,)},
    {"wider too": {"hidden": (8, 12)}}, IMAGES, hows=("identity",), of="hidden", **TAGS,
)  # fmt: skip
registry.add(
    "deeper", "convolution", "images, convolutions", linen(CNN, (IMAGES,)),
    {"channels": (2, 3), "dense": 4}, {"wider": {"channels": (4, 6), "dense": 8}}, (IMAGES,),
    **TAGS,
)  # fmt: skip
