"""The first experiment, on a small part of its data."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.mnist import train
from experiments.mnist.models import CNN, MLP, halved
from trainkit._core.run_files import read_metrics
from trainkit.data import DataError, mnist
from trainkit.loop.run_folder import OutputError


@pytest.fixture
def small(monkeypatch):
    """A fiftieth of the digits."""
    parts = [{name: leaf[: len(leaf) // 50] for name, leaf in part.items()} for part in mnist()]
    monkeypatch.setattr(train, "mnist", lambda path: parts)


def sizes(module):
    variables = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((2, 28, 28, 1)), train=False), jax.random.key(0)
    )
    return {
        "/".join(str(key.key) for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
    }


def test_the_cnn_is_the_one_described():
    assert sizes(CNN()) == {
        "Conv_0/kernel": (3, 3, 1, 32),
        "Conv_0/bias": (32,),
        "Conv_1/kernel": (3, 3, 32, 64),
        "Conv_1/bias": (64,),
        "Dense_0/kernel": (7 * 7 * 64, 128),
        "Dense_0/bias": (128,),
        "Dense_1/kernel": (128, 10),
        "Dense_1/bias": (10,),
    }


def test_the_mlp_is_the_one_described():
    assert [shape for name, shape in sizes(MLP()).items() if "kernel" in name] == [
        (784, 512),
        (512, 512),
        (512, 10),
    ]


def dropped(module, images):
    """The share of zeros that each dropout layer makes, in their order."""
    found = []

    def watch(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            alive = np.asarray(args[0]) != 0
            found.append(1 - (np.asarray(out) != 0)[alive].mean())
        return out

    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with nn.intercept_methods(watch):
        variables = module.init(keys, images, train=False)
        found.clear()
        module.apply(variables, images, train=True, rngs={"dropout": jax.random.key(2)})
    return found


def test_dropout_is_that_of_the_description():
    images = jax.random.normal(jax.random.key(3), (16, 28, 28, 1))
    # Of at least 16 · 128 / 3 values each, so the spread is below .02.
    np.testing.assert_allclose(dropped(CNN(), images), [0.25, 0.25, 0.5], atol=0.08)
    np.testing.assert_allclose(dropped(MLP(), images), [0.2, 0.2], atol=0.08)


def test_halving_is_max_pooling_in_value_and_gradient():
    x = jax.random.normal(jax.random.key(0), (3, 6, 8, 5))
    weights = jax.random.normal(jax.random.key(1), (3, 3, 4, 5))
    pool = lambda x: nn.max_pool(x, (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(halved(x), pool(x))
    gradients = [jax.grad(lambda x, f=f: (f(x) * weights).sum())(x) for f in (halved, pool)]
    np.testing.assert_array_equal(*gradients)


def test_it_learns_reports_and_goes_on(small, tmp_path, capsys):
    config = train.Config(epochs=4, out=str(tmp_path / "run"), batch_size=64)
    accuracy = train.run(config)
    out = capsys.readouterr().out
    assert accuracy > 0.8  # of 200 digits after 68 steps; chance is .1
    assert f"Test accuracy: {accuracy:.2%}" in out
    report = tmp_path / "run" / "report.html"
    assert f"Report: {report}" in out
    assert f"{accuracy:.2%}" in report.read_text()
    rows = read_metrics(tmp_path / "run")
    rates = [row["learning_rate"] for row in rows if row["kind"] == "train"]
    assert rates == sorted(rates, reverse=True)
    # 1e-3 · (1 + cos(π · 49/68)) / 2, of the fiftieth step.
    assert rates[0] == pytest.approx(1e-3 * (1 + np.cos(np.pi * 49 / 68)) / 2, rel=1e-5)
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    assert [row["epoch"] for row in evaluations] == [1, 2, 3, 4]
    # The same command again trains no more and says the same.
    assert train.run(config) == accuracy
    assert len(read_metrics(tmp_path / "run")) == len(rows)
    # Another one is refused, and what is there stays.
    with pytest.raises(OutputError, match=r"seed: 0 there, 1 now"):
        train.run(dataclasses.replace(config, seed=1))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4 * 17
    # Unless it is to go on with them.
    more = dataclasses.replace(config, epochs=5, learning_rate=5e-4, resume="new hyperparameters")
    train.run(more)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 5 * 17
    assert train.run(dataclasses.replace(more, resume="same run"))


def test_bad_input_is_refused_before_a_folder_is_made(small, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="devices=64, but there are 8"):
        train.run(train.Config(out=str(out), placement="jit", devices=64))
    with pytest.raises(ValueError, match="divi"):
        train.run(train.Config(out=str(out), placement="jit", batch_size=100))
    with pytest.raises(ValueError, match="--epochs is 0; it must be above 0"):
        train.Config(epochs=0)
    monkeypatch.setattr(train, "mnist", mnist)
    with pytest.raises(DataError, match="train-images"):
        train.run(train.Config(out=str(out), data=str(tmp_path)))
    assert not out.exists()
