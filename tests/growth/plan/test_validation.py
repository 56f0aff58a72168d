"""What is wrong with the input is said before anything happens, by name, with what mends it."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth import zoo
from trainkit import TrainState, growth
from trainkit.growth import GrowthError


def mlp(p, x):
    return jax.nn.gelu(x @ p["in"] + p["b"]) @ p["out"]


def f(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def shapes(n):
    return {"in": f(5, n), "b": f(n), "out": f(n, 3)}


def ones(tree):
    return jax.tree.map(lambda s: np.ones(s.shape, s.dtype), tree)


class TwoLayers(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.gelu(nn.Dense(self.width)(x)))


class Mine(NamedTuple):
    speed: dict


net, _ = zoo.REGISTRY["residual layers"].at()


def layers(width, depth):
    return zoo.REGISTRY["residual layers"].at(width=width, depth=depth)[1]


X, XS = f(2, 5), np.ones((2, 5), np.float32)
KEY = jax.random.key(0)
TX = optax.adam(1e-3)
SMALL, BIG = ones(shapes(4)), ones(shapes(8))
DEEP, DEEPER = ones(layers(4, 2)), ones(layers(4, 3))


def without(tree, name):
    return {key: value for key, value in tree.items() if key != name}


@pytest.fixture(scope="module")
def plans():
    return (
        growth.plan(mlp, mlp, shapes(4), shapes(8), X),
        growth.plan(net, net, layers(4, 2), layers(8, 2), X),
        growth.plan(net, net, layers(4, 2), layers(4, 3), X),
    )


def planned(small=None, big=None, x=X, a=mlp, b=mlp, **how):
    return growth.plan(a, b, small or shapes(4), big or shapes(8), x, **how)


nested = lambda p, x: mlp(p["a"], x)
PLAN = {
    "another function": (
        lambda: planned(b=lambda p, x: jax.nn.relu(x @ p["in"] + p["b"]) @ p["out"]),
        r"(?s)first difference.*small: .*test_validation.*big: .*test_validation",
    ),
    "more equations": (lambda: planned(b=lambda p, x: 2 * mlp(p, x)), "ends here"),
    "a leaf is missing": (lambda: planned(without(shapes(4), "b")), "(?s)'b'.*small_params"),
    "another shape": (lambda: planned({**shapes(4), "in": f(6, 4)}), "6 → 5|shrink from 6 to 5"),
    "shapes of big do not fit": (lambda: planned(big={**shapes(8), "out": f(7, 3)}), "big_params"),
    "shrinks": (lambda: planned(shapes(8), shapes(4)), r"(?s)axis 0 of b.*plan\.shrink"),
    "a result shrinks": (lambda: planned(big={**shapes(8), "out": f(8, 2)}), "axis 1 of out"),
    "another input": (lambda: planned(x=f(2, 6)), "inputs have the shape"),
    "no function": (lambda: planned(a=3), "must be callable"),
    "dtypes": (
        lambda: planned(big={**shapes(8), "b": f(8, dtype=jnp.bfloat16)}),
        "b is float32 in the small and bfloat16",
    ),
    "no leaves": (lambda: growth.plan(mlp, mlp, {}, {}, X), "small_params has no leaves"),
    "a string among them": (
        lambda: planned({"a": shapes(4), "s": "x"}, {"a": shapes(8), "s": "x"}, a=nested, b=nested),
        r"(?s)s of small_params is a str.*eqx\.partition",
    ),
    "no units": (lambda: planned(shapes(0)), "axis 0 of b has no units to copy"),
    "other containers": (
        lambda: planned(
            big=list(shapes(8).values()),
            b=lambda p, x: mlp({"in": p[0], "b": p[1], "out": p[2]}, x),
        ),
        "(?s)no 'in'.*containers",
    ),
    "unknown operator": (lambda: planned(how="twice"), "no operator 'twice'"),
    "append nothing": (lambda: planned(append=[("zzz", 1)]), "names no axis that grows"),
    "append a string": (lambda: planned(append="in"), "append must be a list"),
    "deeper, narrower": (
        lambda: growth.plan(net, net, layers(8, 2), layers(4, 3), X), "layers/0/down would shrink"
    ),
    "no plan": (lambda: growth.Plan.from_json("{"), "not a growth plan"),
    "no plan either": (lambda: growth.Plan.from_json('{"version": 1}'), "not a growth plan"),
    "nothing": (lambda: growth.Plan.from_json(None), "text must be a string"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAN)
def test_plan(name):
    call, says = PLAN[name]
    with pytest.raises((TypeError, ValueError), match=says):
        call()


GROW = {
    "no key": (SMALL, {}, r"key=jax\.random\.key"),
    "a negative seed": (SMALL, {"key": -3}, "it is a seed"),
    "a word": (SMALL, {"key": "a"}, "^key must be a random key or a seed, not 'a'; give jax"),
    "how": (SMALL, {"key": KEY, "how": "odd"}, "uneven, noise, zero_out"),
    "missing": (without(SMALL, "b"), {"key": KEY}, r"missing \['b'\]"),
    "None": ({**SMALL, "b": None}, {"key": KEY}, r"missing \['b'\]"),
    "unknown": ({**SMALL, "z": SMALL["b"]}, {"key": KEY}, r"not in the plan \['z'\]"),
    "a list": (list(SMALL.values()), {"key": KEY}, "pass the tree that the plan was made from"),
    "nothing": ({}, {"key": KEY}, "missing"),
    "dtype": ({**SMALL, "b": np.ones(4, np.int32)}, {"key": KEY}, "b has shape .* dtype int32"),
    "a number": ({**SMALL, "b": 1.0}, {"key": KEY}, "b is a float"),
    "shapes": (shapes(4), {"key": KEY}, r"(?s)b is a ShapeDtypeStruct.*eval_shape"),
    "the big ones": (BIG, {"key": KEY}, r"b has shape \(8,\)"),
    "like": (SMALL, {"key": KEY, "like": SMALL}, "big_params that the plan was made from"),
}


@pytest.mark.parametrize("name", GROW)
def test_grow(name, plans):
    params, options, says = GROW[name]
    with pytest.raises((TypeError, ValueError), match=says):
        plans[0].grow(params, **options)


def moments(params, tx=TX):
    return tx.init(params)


STATE = {
    "another rule": ((optax.sgd(0.1, 0.9), moments(SMALL), SMALL, BIG), {}, "that tx is the tr"),
    "no rule": ((3, moments(SMALL), SMALL, BIG), {}, "tx is a int"),
    "exchanged": ((moments(SMALL), TX, SMALL, BIG), {}, "tx is a tuple"),
    "none": ((TX, None, SMALL, BIG), {}, "at its top is NoneType"),
    "of the big model": ((TX, moments(BIG), SMALL, BIG), {}, r"'b' has shape \(8,\)"),
    "of another size": ((TX, moments(ones(shapes(5))), SMALL, BIG), {}, r"'b' has shape \(5,\)"),
    "of another model": ((TX, moments(DEEP), SMALL, BIG), {}, "is not a leaf of the param"),
    "a leaf less": ((TX, moments(without(SMALL, "b")), SMALL, BIG), {}, "'b' is missing"),
    "small ones that are big": ((TX, moments(SMALL), BIG, BIG), {}, r"b has shape \(8,\)"),
    "big ones that are small": (
        (TX, moments(SMALL), SMALL, SMALL),
        {},
        r"grown_params: b has shape \(4,",
    ),
    "reset a typo": ((TX, moments(SMALL), SMALL, BIG), {"reset": ["zz"]}, "matches no leaf"),
    "reset no pattern": ((TX, moments(SMALL), SMALL, BIG), {"reset": ["("]}, "regular expression"),
    "unknown state": (
        (optax.GradientTransformation(Mine, lambda u, s, p=None: (u, s)), Mine(SMALL), SMALL, BIG),
        {},
        r"Mine is not in the table.*slots=\{Mine",
    ),
    "slots of no class": ((TX, moments(SMALL), SMALL, BIG), {"slots": {"Adam": {}}}, "must map a"),
    "slots of no kind": (
        (TX, moments(SMALL), SMALL, BIG),
        {"slots": {Mine: {"speed": "momentum"}}},
        "Mine.speed is 'momentum'",
    ),
    "factored": (
        (optax.adafactor(1e-3), moments(ones(shapes(5)), optax.adafactor(1e-3)), SMALL, BIG),
        {},
        "'b' holds rows",
    ),
}


@pytest.mark.parametrize("name", STATE)
def test_grow_opt_state(name, plans):
    given, options, says = STATE[name]
    with pytest.raises(ValueError, match=says):
        plans[0].realise(KEY).opt_state(*given, **options)


def test_reset_takes_one_pattern(plans):
    grown = plans[0].realise(KEY).opt_state(TX, moments(SMALL), SMALL, BIG, reset="^in$")
    assert grown[0].mu["in"].shape == (5, 8)


def test_plans_of_other_models(plans):
    _, other, deep = plans
    with pytest.raises(GrowthError, match="not those of the plan"):
        other.realise(KEY).opt_state(TX, moments(SMALL), SMALL, BIG)
    with pytest.raises(GrowthError, match=r"layers/0/down has shape nothing"):
        other.shrink(BIG)
    with pytest.raises(GrowthError, match="not those of the plan"):
        other.mup().init(SMALL, KEY)
    with pytest.raises(GrowthError, match="the gradient layers/0/down is missing"):
        other.realise(KEY).exact(TX).update(BIG, moments(BIG), BIG)
    with pytest.raises(GrowthError, match="layers/2/down' is not a leaf"):
        deep.realise(KEY).opt_state(TX, moments(DEEPER), DEEP, DEEPER)


def test_exact(plans):
    follow = plans[0].realise(KEY).exact(TX)
    with pytest.raises(ValueError, match="needs the parameters"):
        follow.update(BIG, moments(BIG))
    with pytest.raises(GrowthError, match=r"the gradient b has shape \(4,\)"):
        follow.update(SMALL, moments(BIG), BIG)
    with pytest.raises(GrowthError, match=r"the parameter b has shape \(4,\)"):
        follow.update(BIG, moments(BIG), SMALL)
    with pytest.raises(GrowthError, match=r"'b' has shape \(4,\)"):
        follow.update(BIG, moments(SMALL), BIG)
    with pytest.raises(GrowthError, match="tx is a str"):
        plans[0].realise(KEY).exact("adam")
    for anneal in ("soon", -5, True):
        with pytest.raises(ValueError, match="anneal="):
            plans[0].realise(KEY).exact(TX, anneal=anneal)


def test_shrink_and_activations(plans):
    shrink = plans[0].shrink
    for given, options, says in [
        (SMALL, {}, r"b has shape \(4,\)"),
        (without(BIG, "b"), {}, "b has shape nothing"),
        ({**BIG, "b": 1.0}, {}, "b is a float"),
        (shapes(8), {}, "b is a ShapeDtypeStruct"),
        (BIG, {"score": "luck"}, "magnitude, gradient, activation"),
        (BIG, {"score": "gradient"}, "needs grads="),
        (BIG, {"score": "gradient", "grads": SMALL}, r"grads: b has shape \(4,\)"),
        (BIG, {"how": "halve"}, "'prune' or 'merge'"),
    ]:
        with pytest.raises(ValueError, match=says):
            shrink(given, **options)
    with pytest.raises(GrowthError, match="activations are those of the big model"):
        growth.activations(plans[0], mlp, mlp, SMALL, XS)


def test_certificates(plans):
    certificate = plans[0].realise(KEY).certificate
    for params, inputs, options, says in [
        (BIG, [XS], {"tx": TX}, r"b has shape \(8,\)"),
        (SMALL, [], {"tx": TX}, "missing 1 required"),
        (SMALL, [np.ones((2, 7), np.float32)], {"tx": TX}, "inputs have the shape"),
        (SMALL, [XS], {"tx": None}, "tx is a NoneType"),
        (SMALL, [XS], {"tx": TX, "opt_state": optax.sgd(0.1, 0.9).init(SMALL)}, "that tx is the"),
    ]:
        with pytest.raises(GrowthError, match=says):
            certificate(mlp, mlp, params, *inputs, **options)
    state = TrainState.create(TwoLayers(4).init(KEY, XS)["params"], TX)
    way = growth.grow(state, TwoLayers(4), TwoLayers(8), XS, tx=TX, with_map=True)[1]
    with pytest.raises(GrowthError, match="that tx is the"):
        way.certificate(TwoLayers(4), TwoLayers(8), state, XS, tx=optax.sgd(0.1, 0.9))
    with pytest.raises(GrowthError, match="the state is not the small model's"):
        way.certificate(TwoLayers(8), TwoLayers(8), state, XS, tx=TX)


def test_states():
    params = TwoLayers(4).init(KEY, XS)["params"]
    state = TrainState.create(params, TX)
    big = TX.init(TwoLayers(8).init(KEY, XS)["params"])
    for given, small, options, says in [
        (state, TwoLayers(4), {"tx": None}, "tx is a NoneType"),
        (params, TwoLayers(4), {}, "not a TrainState"),
        (state, TwoLayers(8), {}, "the state is not the small model's: params/Dense_0"),
        (state, TwoLayers, {}, "is the class TwoLayers"),
        (state, None, {}, "must be a Linen module"),
        (state, TwoLayers(4), {"key": "a"}, GROW["a word"][2]),
        (state, TwoLayers(4), {"reset": ["Dense_7"]}, "matches no leaf"),
        (state.replace(params={"params": params}), TwoLayers(4), {}, "not the small model's"),
        (state.replace(opt_state=big), TwoLayers(4), {}, "'Dense_0/kernel' has shape"),
    ]:
        with pytest.raises((TypeError, ValueError), match=says):
            growth.grow(given, small, TwoLayers(6), XS, **{"tx": TX, **options})
