"""Dense to experts, and more experts; float64, everything random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from tests.growth.zoo.depth.operated import Dense
from tests.growth.zoo.mixtures import TOKENS, Mixture
from trainkit import growth
from trainkit.growth.opt_state.exact import exact as follow_exactly

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(6, 4))


def mixture(p, x, k, chosen_only):
    logits = x @ p["router"] + p["shift"]
    if chosen_only:
        top, which = jax.lax.top_k(logits, k)
        gates = jax.nn.softmax(top)
    else:
        gates, which = jax.lax.top_k(jax.nn.softmax(logits), k)
    one_hot = jax.nn.one_hot(which, p["router"].shape[1], dtype=x.dtype)
    combine = jnp.einsum("tk,tke->te", gates, one_hot)
    h = jax.nn.gelu(jnp.einsum("td,edf->tef", x, p["up"]) + p["b"])
    return jnp.einsum("tef,efd,te->td", h, p["down"], combine)


def shapes(count, hidden=5):
    return {
        "router": (4, count), "shift": (count,), "up": (count, 4, hidden), "b": (count, hidden),
        "down": (count, hidden, 3),
    }  # fmt: skip


def apply(model, params, x):
    with jax.numpy_dtype_promotion("standard"):  # Flax promotes in its norms
        return model.apply({"params": params}, x)


def initial(model, x):
    """Initial parameters with nothing at 0 or 1."""
    with jax.numpy_dtype_promotion("standard"):
        params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    return jax.tree.map(
        lambda a: a + 0.1 * np.random.default_rng(a.size).normal(size=a.shape), params
    )


def draw(count, seed=0):
    sizes = shapes(count)
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=size)) for name, size in sizes.items()}


@pytest.mark.parametrize("chosen_only", [True, False])
@pytest.mark.parametrize("how", ["even", "uneven", "noise"])
def test_more_experts_are_exact(chosen_only, how):
    small, big = draw(3), draw(6)
    plan = growth.Plan.of_experts(small, big, last="down")
    grown = plan.grow(small, key=jax.random.key(0), how=how)
    wanted = mixture(small, X, 2, chosen_only)
    np.testing.assert_allclose(mixture(grown, X, 4, chosen_only), wanted, rtol=1e-11, atol=1e-12)
    separate = bool((grown["down"][0] != grown["down"][1]).any())
    assert separate == (how != "even")


@pytest.mark.slow
def test_more_experts_have_exact_gradient_factors():
    small, big = draw(3), draw(6)
    plan = growth.Plan.of_experts(small, big)
    slope = lambda p, k: jax.grad(lambda q: jnp.sum(jnp.sin(mixture(q, X, k, True))))(p)
    old, new = slope(small, 2), slope(plan.grow(small, how="even"), 4)
    for name, leaf in plan.realise(how="even").leaves.items():
        (axis,) = [a for a in leaf.axes if a is not None]
        d = leaf.axes.index(axis)
        wanted = np.repeat(old[name], 2, axis=d) / 2
        np.testing.assert_allclose(new[name], wanted, rtol=1e-10, atol=1e-12)
        assert (axis.gradient * leaf.gradient == 0.5).all()


def follow(tx, exact, before, after, steps=40):
    """Trains both models, (loss, params, state) each, and gives the two trees of parameters."""

    def run(loss, tx, params, state):
        def step(carry, i):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, i), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jnp.arange(steps))[0][0]

    with jax.numpy_dtype_promotion("standard"):  # optax.adam raises a float to its int count
        return jax.jit(
            lambda: (run(before[0], tx, *before[1:]), run(after[0], exact, *after[1:]))
        )()


RULES = {
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "sgd": optax.sgd(0.05, momentum=0.9),
}


@pytest.mark.parametrize("rule", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_grown_mixture_follows_the_small_one(rule):
    """Forty steps of experts that are chosen anew in every one of them; the widths grow as well."""
    tx, small = RULES[rule], draw(3)
    big = jax.tree.map(lambda s: jnp.zeros(s), shapes(6, 8), is_leaf=lambda s: isinstance(s, tuple))
    fn = lambda k: lambda p, x: mixture(p, x, k, True)
    plan = growth.plan(fn(2), fn(4), small, big, X)
    loss = lambda k: (
        lambda p, i: jnp.mean((fn(k)(p, X + jnp.sin(i + jnp.arange(4.0))) - jnp.cos(X[:, :3])) ** 2)
    )
    grown = plan.grow(small, how="even")
    state = tx.init(small)
    grown_state = plan.realise(how="even").opt_state(tx, state, small, grown)
    exact = plan.realise(how="even").exact(tx)
    a, b = follow(tx, exact, (loss(2), small, state), (loss(4), grown, grown_state))
    moved = np.abs(fn(2)(a, X) - fn(2)(small, X)).max()
    np.testing.assert_allclose(fn(4)(b, X), fn(2)(a, X), rtol=0, atol=1e-10)
    assert moved > 0.05


def test_a_state_grows_without_being_told_how():
    """Linen, the default operator: the function is kept and the copies of an expert differ."""
    tx = optax.adam(1e-2)
    x = jnp.asarray(TOKENS[0])
    models = [Mixture(dtype=x.dtype, **s) for s in ({}, {"experts": 6, "k": 4, "hidden": 7})]
    state = trainkit.TrainState.create(initial(models[0], x), tx)
    grown = growth.grow(state, *models, x, tx=tx)
    before, after = (apply(m, s.params, x) for m, s in zip(models, (state, grown), strict=True))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)
    down = grown.params["VmapFeedForward_0"]["Dense_0"]["kernel"]
    assert down.shape == (6, 7, 4)
    assert (down[::2] != down[1::2]).any()
    assert grown.opt_state[0].mu["router"]["kernel"].shape == (4, 6)


def test_a_dense_layer_becomes_experts():
    rng = np.random.default_rng(2)
    dense = {
        "wi": jnp.asarray(rng.normal(size=(4, 5))),
        "b": jnp.asarray(rng.normal(size=5)),
        "down": jnp.asarray(rng.normal(size=(5, 3))),
    }
    grown = growth.Plan.of_mixture(dense, draw(3), names={"up": "wi"}).grow(
        dense, how="even", like=draw(3)
    )
    wanted = jax.nn.gelu(X @ dense["wi"] + dense["b"]) @ dense["down"]
    np.testing.assert_allclose(mixture(grown, X, 2, True), wanted, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(grown["router"], draw(3)["router"])
    # Gates that do not sum to 1 change the function: the condition is needed.
    assert np.abs(mixture(grown, X, 2, False) - wanted).max() > 0.01


def dense_state(tx):
    """A dense model's state after a few steps."""
    x = jnp.asarray(TOKENS[0])
    params = initial(Dense(), x)
    state = trainkit.TrainState.create(params, tx)
    with jax.numpy_dtype_promotion("standard"):
        loss = lambda p: jnp.sum(jnp.sin(apply(Dense(), p, x)))
        grads = jax.jit(jax.grad(loss))(params)
        updates, moments = tx.update(grads, state.opt_state, params)
    return state.replace(params=optax.apply_updates(params, updates), opt_state=moments), x


def test_a_dense_state_becomes_a_mixtures():
    """Names are found, moments are shared out, the function is kept, and training goes on."""
    tx = RULES["adamw"]
    state, x = dense_state(tx)
    big = Mixture(dtype=x.dtype)
    grown, way = growth.grow(state, Dense(), big, x, tx=tx, with_map=True)
    assert way.proof == "measured"
    plan = growth.Plan.of(way.plan)
    np.testing.assert_allclose(
        apply(big, grown.params, x),
        apply(Dense(), state.params, x),
        rtol=0,
        atol=1e-12,
    )
    assert plan.depth == "experts"
    assert growth.Plan.from_json(plan.to_json()) == plan
    old, new = state.opt_state[0], grown.opt_state[0]
    mine, theirs = "mlp", "VmapFeedForward_0"
    for e in range(3):
        for slot, factor in (("mu", 1 / 3), ("nu", 1 / 9)):
            before = getattr(old, slot)[mine]["Dense_1"]["kernel"]
            after = getattr(new, slot)[theirs]["Dense_1"]["kernel"][e]
            np.testing.assert_allclose(after, before * factor, rtol=1e-12)
    assert (new.mu["router"]["kernel"] == 0).all()
    assert (new.nu["router"]["kernel"] > 0).all()  # never 0 under an old count
    assert not any(g.exact_gradient for n, g in way.leaves.items() if theirs in n)
    # The experts' gradients sum to the dense layer's: exact continuation follows it.
    loss = lambda m: (
        lambda p, i: jnp.mean(
            (apply(m, p, x + jnp.sin(i + jnp.arange(5.0))) - jnp.cos(x[:, :2])) ** 2
        )
    )
    exact = follow_exactly(tx, way.under("params"), state.params)
    a, b = follow(
        tx,
        exact,
        (loss(Dense()), state.params, state.opt_state),
        (loss(big), grown.params, grown.opt_state),
    )
    np.testing.assert_allclose(apply(big, b, x), apply(Dense(), a, x), rtol=0, atol=1e-10)


UNLIKE = {
    "matrices alone": lambda: optax.masked(
        optax.trace(0.9), lambda tree: jax.tree.map(lambda x: x.ndim == 2, tree)
    ),
    "stacks": lambda: optax.masked(
        optax.trace(0.9), lambda tree: jax.tree.map(lambda x: x.ndim > 2, tree)
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_rule_that_goes_by_the_number_of_axes_is_refused(name):
    """One expert's leaf has one axis more than that of the dense layer."""
    tx = UNLIKE[name]()
    state, x = dense_state(tx)
    grow = functools.partial(growth.grow, state, Dense(), Mixture(dtype=x.dtype), x, tx=tx)
    with pytest.raises(growth.GrowthError, match="a mask or a label depends on the number of"):
        grow()
    assert grow(reset=True).params["VmapFeedForward_0"]["Dense_1"]["kernel"].ndim == 3


def summed_rows() -> optax.GradientTransformation:
    """The sum of squares along the first axis of each leaf, of which an expert has another."""
    init = lambda params: optax.TraceState(jax.tree.map(lambda p: jnp.zeros(p.shape[:1]), params))
    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def test_a_slot_of_another_size_for_one_expert_is_refused():
    tx = summed_rows()
    state, x = dense_state(tx)
    with pytest.raises(growth.GrowthError, match="but that of one expert is") as caught:
        growth.grow(state, Dense(), Mixture(dtype=x.dtype), x, tx=tx)
    assert "grow with reset=True" in str(caught.value)


def test_gates_that_do_not_sum_to_one_are_asked_for():
    tx = optax.sgd(1e-2)
    state, x = dense_state(tx)
    big = Mixture(dtype=x.dtype, over_all=True)
    with pytest.raises(growth.GrowthError, match="gates of the chosen experts do not sum to 1"):
        growth.grow(state, Dense(), big, x, tx=tx)
    grown = growth.grow(state, Dense(), big, x, tx=tx, how="experts")
    assert grown.params["VmapFeedForward_0"]["Dense_1"]["kernel"].shape == (3, 4, 5)


def test_names_that_do_not_tell_are_given():
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float64)
    dense = {"gate": shape(4, 5), "up": shape(4, 5)}
    big = {"router": shape(4, 3), "w1": shape(3, 4, 5), "w2": shape(3, 4, 5)}
    fn = lambda p: jnp.zeros(2)
    plan = functools.partial(growth.plan, fn, fn, dense, big)
    with pytest.raises(growth.GrowthError, match=r"several leaves .* gate .*: w1, w2"):
        plan(how="experts")
    named = plan(how=growth.Operator(depth="experts", names=(("w1", "gate"), ("w2", "up"))))
    small = {"gate": jnp.ones((4, 5)), "up": jnp.zeros((4, 5))}
    grown = named.grow(small, key=jax.random.key(0))
    assert (grown["w1"] == 1).all()
    assert (grown["w2"] == 0).all()
    assert (grown["router"] != 0).any()


def planned(fn, k, more=2):
    """The plan for `fn(p, x, k)` from 3 experts to a multiple."""
    small, big = draw(3), draw(3 * more)
    return growth.plan(lambda p, x: fn(p, x, k[0]), lambda p, x: fn(p, x, k[1]), small, big, X)


def test_what_the_plan_refuses_it_explains():
    with pytest.raises(growth.GrowthError, match="choose 2 times as many, k=4"):
        planned(lambda p, x, k: mixture(p, x, k, True), (2, 2))
    big = {**draw(7)}
    with pytest.raises(growth.GrowthError, match="to a multiple of 3"):
        growth.plan(
            lambda p, x: mixture(p, x, 2, True),
            lambda p, x: mixture(p, x, 4, True),
            draw(3),
            big,
            X,
        )

    def first(p, x, k):
        gates = jax.nn.softmax(x @ p["router"])
        best = jax.nn.one_hot(jnp.argmax(gates, -1), gates.shape[-1], dtype=x.dtype)
        return jnp.sum(gates * best, -1)

    with pytest.raises(growth.GrowthError, match="argmax") as caught:
        planned(first, (1, 1))
    assert "3→6" in str(caught.value)

    def numbered(p, x, k):
        return jnp.sum(jax.lax.top_k(x @ p["router"], k)[1].astype(x.dtype), -1)

    with pytest.raises(growth.GrowthError, match="indices of chosen entries") as caught:
        planned(numbered, (2, 4))
    assert "router (axis 1: 3→6)" in str(caught.value)

    def best_alone(p, x, k):
        return p["down"][jax.lax.top_k(x @ p["router"], k)[1][:, :1]].sum((1, 2))

    with pytest.raises(growth.GrowthError, match="some copies of a chosen entry"):
        planned(best_alone, (2, 4))

    def sorted_by_expert(p, x, k):
        which = jax.lax.top_k(x @ p["router"], k)[1].reshape(-1)
        return jnp.repeat(x, k, axis=0)[jnp.argsort(which)]

    with pytest.raises(growth.GrowthError, match="of_experts"):
        planned(sorted_by_expert, (2, 4))


def test_refusals():
    with pytest.raises(growth.GrowthError, match="3 → 7"):
        growth.Plan.of_experts(draw(3), draw(7))
    with pytest.raises(growth.GrowthError, match="of_mixture"):
        growth.Plan.of_experts({"w": jnp.ones(2)}, {"v": jnp.ones(2)})
    with pytest.raises(growth.GrowthError, match="no leaf of the mixture fits the dense leaf wi"):
        growth.Plan.of_mixture({"wi": jnp.ones((4, 7))}, draw(3))
    with pytest.raises(growth.GrowthError, match="nor a stack of it"):
        growth.Plan.of_mixture({"up": jnp.ones((5, 4))}, draw(3))
    with pytest.raises(growth.GrowthError, match="no leaf nothing"):
        growth.Plan.of_mixture({}, draw(3), names={"up": "nothing"})
