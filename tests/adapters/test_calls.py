"""How modules are called: several inputs, names, modes of every kind, what they sow, pretrained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import trainkit
from trainkit.adapters.batches import call_of
from trainkit.growth import grow

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
TX = optax.sgd(0.1)
rng = np.random.default_rng(0)
BATCH = {
    "image": rng.normal(size=(8, 5)).astype(np.float32),
    "other": rng.normal(size=(8, 5)).astype(np.float32),
    "label": rng.integers(0, 3, 8).astype(np.int32),
}


class Two(nn.Module):
    @nn.compact
    def __call__(self, a, *, b):
        return {"logits": nn.Dense(3)(a * 2 + b), "more": a}


class TwoNNX(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, a, *, b):
        return {"logits": self.layer(a * 2 + b), "more": a}


INPUTS = {
    "names": {"a": "image", "b": "other"},
    "a function": lambda batch: trainkit.Call((batch["image"],), {"b": batch["other"]}),
}


@pytest.mark.parametrize("inputs", list(INPUTS))
@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_several_inputs_by_name_and_a_chosen_output(library, inputs):
    make, module = (
        (trainkit.from_linen, Two()) if library == "linen" else (trainkit.from_nnx, TwoNNX())
    )
    model = make(module, CROSS_ENTROPY, inputs=INPUTS[inputs], outputs="logits")
    state = model.state(TX, BATCH)
    layer = state.params["Dense_0" if library == "linen" else "layer"]
    wanted = (BATCH["image"] * 2 + BATCH["other"]) @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(model.predict(state, BATCH), wanted, rtol=1e-5, atol=1e-6)
    step = trainkit.make_train_step(model, TX)
    _, metrics = step(step.place(state), BATCH)
    loss = float(CROSS_ENTROPY(wanted, BATCH["label"]).mean())
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert "accuracy" in metrics


def test_inputs_in_order_and_what_is_one_argument():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, a, b):
            return nn.Dense(3)(a - b)

    model = trainkit.from_linen(Sum(), CROSS_ENTROPY, inputs=("image", "other"))
    state = model.state(TX, BATCH)
    kernel = state.params["Dense_0"]["kernel"]
    np.testing.assert_allclose(
        model.predict(state, BATCH),
        (BATCH["image"] - BATCH["other"]) @ kernel,
        rtol=1e-4,
        atol=1e-5,
    )
    pair = type(trainkit.Call())((1, 2), {})
    assert call_of(pair) is pair
    graph = optax.EmptyState()  # a named tuple is one argument, a tuple is several
    assert call_of(graph).args == (graph,)


def test_a_model_grows_with_the_inputs_that_it_is_trained_with():
    class Net(nn.Module):
        width: int

        @nn.compact
        def __call__(self, a, *, b):
            return nn.Dense(3)(nn.gelu(nn.Dense(self.width)(a + b)))

    small, big = (
        trainkit.from_linen(Net(n), CROSS_ENTROPY, inputs={"a": "image", "b": "other"})
        for n in (4, 6)
    )
    state = small.state(TX, BATCH)
    grown = grow(state, small, big, BATCH, tx=TX)
    assert grown.params["Dense_1"]["kernel"].shape == (5, 6)
    np.testing.assert_allclose(
        big.predict(grown, BATCH), small.predict(state, BATCH), rtol=1e-4, atol=1e-5
    )


# -- modes -----------------------------------------------------------------------------------------


def linen_with(argument, inverted, field=False):
    """A module with dropout that is told by an argument or a field of this name that it trains."""

    class Net(nn.Module):
        if field:
            __annotations__ = {argument: bool}
            vars()[argument] = inverted  # as in evaluation

        @nn.compact
        def __call__(self, x, **mode):
            said = getattr(self, argument) if field else mode[argument]
            return nn.Dense(3)(nn.Dropout(0.5, deterministic=said if inverted else not said)(x))

    if field:
        return Net()
    source = f"def call(self, x, {argument}): return self.run(x, {argument}={argument})"
    made = {}
    exec(source, made)

    class Named(nn.Module):
        def setup(self):
            self.inner = Net()

        def run(self, x, **mode):
            return self.inner(x, **mode)

        __call__ = made["call"]

    return Named()


MODES = [
    ("train", False), ("training", False), ("is_training", False), ("is_train", False),
    ("enable_dropout", False), ("deterministic", True), ("inference", True), ("eval_mode", True),
]  # fmt: skip


def drops(model):
    state = model.state(TX, BATCH)
    apply = lambda train, seed: model.apply(
        state.params, state.model_state, model.inputs(BATCH), jax.random.key(seed), train=train
    )[0]
    assert (apply(False, 0) == apply(False, 1)).all()
    return bool((apply(True, 0) != apply(True, 1)).any())


@pytest.mark.parametrize("field", [False, True], ids=["argument", "field"])
@pytest.mark.parametrize(("name", "inverted"), MODES)
def test_the_usual_names_of_a_mode(name, inverted, field):
    assert drops(trainkit.from_linen(linen_with(name, inverted, field), CROSS_ENTROPY))


@pytest.mark.parametrize("field", [False, True], ids=["argument", "field"])
def test_another_name_is_said(field):
    module = linen_with("use_dropout", False, field)
    assert drops(trainkit.from_linen(module, CROSS_ENTROPY, mode={"use_dropout": True}))
    with pytest.raises(ValueError, match=r"neither an argument of that name .* nor a field"):
        trainkit.from_linen(Two(), CROSS_ENTROPY, mode={"dropping": True})


class Switched(nnx.Module):
    """Told by an attribute of its own, or by one of the usual name."""

    def __init__(self, name="use_dropout"):
        self.layer = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        setattr(self, name, False)
        self.name = name

    def __call__(self, x):
        return self.layer(self.dropout(x, deterministic=not getattr(self, self.name)))


def test_attributes_of_nnx_modules():
    assert drops(trainkit.from_nnx(Switched("training"), CROSS_ENTROPY))
    assert drops(trainkit.from_nnx(Switched(), CROSS_ENTROPY, mode={"use_dropout": True}))
    with pytest.raises(ValueError, match="computes the same in training and in evaluation"):
        trainkit.from_nnx(Switched(), CROSS_ENTROPY).state(TX, BATCH)


class Fixed(nn.Module):
    what: str

    @nn.compact
    def __call__(self, x):
        if self.what == "statistics":
            x = nn.BatchNorm(use_running_average=True)(x)
        if self.what == "dropout":
            x = nn.Dropout(0.5, deterministic=True)(x)
        if self.what == "attention":
            x = nn.MultiHeadDotProductAttention(1, dropout_rate=0.5, deterministic=True)(x[None])[0]
        if self.what == "no rate":
            x = nn.Dropout(0.0)(x, deterministic=True)
        return nn.Dense(3)(x)


@pytest.mark.parametrize("what", ["statistics", "dropout", "attention", "no rate"])
def test_one_mode_where_there_should_be_two_is_refused(what):
    model = trainkit.from_linen(Fixed(what), CROSS_ENTROPY)
    if what == "no rate":
        model.state(TX, BATCH)
        return
    with pytest.raises(ValueError, match=r"(?s)Fixed has dropout or batch .* mode=\{\}"):
        model.state(TX, BATCH)
    trainkit.from_linen(Fixed(what), CROSS_ENTROPY, mode={}).state(TX, BATCH)


# -- sown values -----------------------------------------------------------------------------------


class Sowing(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        h = nn.gelu(nn.Dense(self.width)(x))
        self.sow("losses", "size", jnp.square(h).sum(-1))
        return nn.Dense(3)(h)


class SowingNNX(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        out = self.layer(x)
        self.sow(nnx.Intermediate, "size", jnp.square(out).sum(-1))
        return out


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_the_loss_sees_what_is_sown_and_the_state_does_not_keep_it(library):
    collection = "losses" if library == "linen" else "intermediates"

    def loss(outputs, batch, sown):
        size = sown[collection]["size"][0]
        return CROSS_ENTROPY(outputs, batch["label"]) + 0.1 * size, {"size": size}

    module = Sowing() if library == "linen" else SowingNNX()
    make = trainkit.from_linen if library == "linen" else trainkit.from_nnx
    with_sown, without = make(module, loss), make(module, CROSS_ENTROPY)
    results = {}
    for name, model in (("with", with_sown), ("without", without)):
        state = model.state(TX, BATCH)
        assert not jax.tree.leaves(state.model_state)
        step = trainkit.make_train_step(model, TX)
        state = step.place(state)
        for _ in range(2):
            state, metrics = step(state, BATCH)
            results.setdefault(name, metrics)
        assert step.compiles == 1
        assert not jax.tree.leaves(state.model_state)
    first, plain = results["with"], results["without"]
    size = float(first["size"])
    assert size > 0
    assert float(first["loss"]) == pytest.approx(float(plain["loss"]) + 0.1 * size, rel=1e-5)
    state = with_sown.state(TX, BATCH)
    evaluated = trainkit.make_eval_step(with_sown).over(state, [BATCH])
    assert evaluated["size"] == pytest.approx(size, rel=1e-5)


def test_what_is_sown_does_not_grow():
    small, big = (trainkit.from_linen(Sowing(n), CROSS_ENTROPY) for n in (4, 6))
    state = small.state(TX, BATCH)
    grown = grow(state, small, big, BATCH, tx=TX)
    np.testing.assert_allclose(
        big.predict(grown, BATCH), small.predict(state, BATCH), rtol=1e-4, atol=1e-5
    )
    bare = grow(state, Sowing(4), Sowing(6), BATCH["image"], tx=TX)
    assert jax.tree.structure(bare.params) == jax.tree.structure(grown.params)


# -- pretrained parameters -------------------------------------------------------------------------


def test_pretrained_parameters_are_taken_or_the_leaf_is_named():
    model = trainkit.from_linen(Sowing(), CROSS_ENTROPY)
    params = jax.tree.map(lambda x: np.asarray(x) + 1, model.state(TX, BATCH).params)
    state = model.state(TX, BATCH, params=params)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    with pytest.raises(ValueError, match=r'pass variables\["params"\]'):
        model.state(TX, BATCH, params={"params": params})
    wrong = {**params, "Dense_1": {**params["Dense_1"], "kernel": np.ones((4, 7), np.float32)}}
    with pytest.raises(ValueError, match=r"Dense_1/kernel' is float32\[4, 7\], .* float32\[4, 3\]"):
        model.state(TX, BATCH, params=wrong)
