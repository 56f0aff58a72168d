"""Mistakes with samplers, splits, corpora and functions of a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trainkit
from benchmarks.reliability.mistakes import base
from benchmarks.reliability.mistakes.base import Mistake, Mistakes, batch, nan, of_options
from trainkit.data import CharCorpus, Prefetch, Sampler, pad_batch, pad_image, random_shift, split
from trainkit.data import staged as make_staged
from trainkit.progressive import Data


def mistakes() -> Mistakes:
    found = of_options(
        "Sampler",
        lambda **o: Sampler(o.pop("data", batch()), o.pop("batch_size", 4), **o),
        {
            "batch_size": [0, -1, 9, 2.0, "4", True, nan, None],
            "seed": [-1, 1.5, "0", True, nan, None, 2**63],
            "shuffle": ["no", None, 1],
            "process_index": [-1, 1, "0", True, 0.0],
            "process_count": [0, "1", True, 1.5],
        },
    )
    for name, data, says in (
        ("None", None, ("data", "no arrays")),
        ("a number", 3, ("data", "must be an array")),
        ("a string", "mnist", ("data", "must be")),
        ("a list of lists", [[1.0, 2.0]], ("data", "must be an array")),
        ("uneven leaves", {"x": np.ones(3), "y": np.ones(4)}, ("data/y", "examples")),
        ("scalars", {"x": np.ones(())}, ("data/x", "examples")),
        ("no examples", {"x": np.ones((0, 2))}, ("data", "0 examples")),
        ("a generator", (i for i in range(3)), ("data", "must be")),
        (
            "a class of its own without len",
            type("Set", (), {"__getitem__": None})(),
            ("data", "len"),
        ),
    ):
        found[f"Sampler(data={name})"] = Mistake(lambda out, data=data: Sampler(data, 2), says)
    for value in ((1,), (0, -1), (0, 9), "start", None, (0.5, 0), (True, 0), (nan, 0)):
        found[f"Sampler.restore({base.shown(value)})"] = Mistake(
            lambda out, value=value: base.sampler().restore(value), ("position", "epoch")
        )
    found |= of_options(
        "split",
        lambda **o: split(batch(), **o),
        {
            "validation": [-0.1, 1.0, 2, nan, "0.1", True, None],
            "test": [1.5, "0", True],
            "seed": [-1, "0", 1.5, True, None],
        },
    )
    corpus = CharCorpus.from_text("to be or not to be")
    found |= of_options(
        "CharCorpus.windows",
        lambda **o: corpus.windows(o.pop("length", 4), **o),
        {"length": [0, 99, 1.5, "4", True], "stride": [0, 1.5, "1", True]},
        says="",
    )
    found |= of_options(
        "CharCorpus.split",
        lambda **o: corpus.split(**o),
        {"validation": [-0.1, 1, "0.1", True, nan], "test": ["0", nan]},
    )
    found |= of_options(
        "CharCorpus.from_text",
        lambda **o: CharCorpus.from_text(o.pop("text", "abc"), **o),
        {"text": [3, b"abc", None], "vocabulary": [3, ["a"]]},
    )
    found |= of_options(
        "Prefetch",
        lambda **o: Prefetch(o.pop("stream", iter([])), o.pop("put", lambda x: x), **o),
        {"size": [-1, 1.5, "2", True], "put": [None, 3], "stream": [3, None]},
    )
    found |= of_options(
        "staged",
        lambda **o: make_staged(batch(), o.pop("batch_size", 4), **o)(Data()),
        {"batch_size": [0, "4", True, 1.5], "seed": [-1, "0", True]},
    )
    found |= of_options(
        "Data",
        lambda **o: Data(**o),
        {
            "subset": [0, 0.0, 1.5, -1, "all", True, nan],
            "sequence_length": [0, 1.5, "8", True],
            "resolution": [0, 1.5, "8", True],
            "batch_size": [0, 1.5, "8", True],
        },
    )
    images, key = jnp.ones((2, 4, 4, 1)), jax.random.key(0)
    calls: dict[str, tuple[Any, tuple[str, ...]]] = {
        "pad_batch(size='9')": (lambda: pad_batch(batch(), "9"), ("size", "must be")),
        "pad_batch(size too small)": (lambda: pad_batch(batch(), 3), ("size=3", "at least", "8")),
        "pad_image(padding=-1)": (lambda: pad_image(images, -1), ("padding", "must be")),
        "pad_image(a vector)": (lambda: pad_image(jnp.ones(3), 1), ("images", "height")),
        "random_shift(pixels=1.5)": (
            lambda: random_shift(key, images, 1.5),
            ("pixels", "must be"),
        ),
        "random_shift(key=0)": (lambda: random_shift(0, images, 1), ("key", "jax.random.key")),
        "random_shift(key=None)": (
            lambda: random_shift(None, images, 1),
            ("key", "jax.random.key"),
        ),
        "normalise(std=0)": (
            lambda: trainkit.data.normalise(jnp.ones(3), 0.0, 0.0),
            ("std", "must be"),
        ),
        "normalise(mean='a')": (
            lambda: trainkit.data.normalise(jnp.ones(3), "a"),
            ("mean", "must be"),
        ),
        "read_idx(no file)": (lambda: trainkit.data.read_idx("nowhere"), ("nowhere", "missing")),
        "data_dir(no folder)": (lambda: trainkit.data.data_dir("nowhere"), ("nowhere", "folder")),
    }
    found |= {
        name: Mistake(lambda out, call=call: call(), says) for name, (call, says) in calls.items()
    }
    return found | _regularise()


def _regularise() -> Mistakes:
    r, key = trainkit.regularise, jax.random.key(0)
    ones = jnp.ones((4, 3))
    found = of_options(
        "mixup", lambda **o: r.mixup(o.pop("key", key), ones, ones, **o),
        {"alpha": [-1, nan, "0.2", True], "key": [0, None, "0"]}, says="",
    )  # fmt: skip
    found |= of_options(
        "distillation_loss", lambda **o: r.distillation_loss(ones, ones, **o),
        {"temperature": [0, nan, "2", True], "alpha": [2, nan, "1"]},
    )  # fmt: skip
    found |= of_options(
        "hard_examples", lambda **o: r.hard_examples(jnp.ones(4), **o),
        {"fraction": [0, 2, nan, "1", True]},
    )  # fmt: skip
    found |= of_options(
        "importance_sample",
        lambda **o: r.importance_sample(o.pop("key", key), jnp.ones(4), **({"count": 2} | o)),
        {"count": [0, 1.5, "2", True], "mix": [2, nan, "0"], "key": [0, None]}, says="",
    )  # fmt: skip
    found |= of_options(
        "prune", lambda **o: r.prune(o.pop("sparsity", 0.5), **o),
        {"sparsity": [2, -0.1, nan, "0.5", True], "every": [0, 1.5, "1", True]},
    )  # fmt: skip
    found |= of_options(
        "ensemble_init", lambda **o: r.ensemble_init(lambda k: ones, key, **o),
        {"members": [0, 1.5, "2", True]},
    )  # fmt: skip
    found |= of_options(
        "sweep", lambda **o: trainkit.sweep.sweep(lambda rate: rate, **({"rate": [0.1]} | o)),
        {"rate": [[], 0.1, "0.1", ["a"], None, [True]], "batch": [0, 1.5, "1", True]},
    )  # fmt: skip
    found["sweep(no function)"] = Mistake(
        lambda out: trainkit.sweep.sweep(3, rate=[0.1]), ("run", "must be")
    )
    return found
