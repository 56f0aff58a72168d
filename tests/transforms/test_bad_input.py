"""What is refused, and that the message names it."""

import inspect
import math

import jax
import jax.numpy as jnp
import pytest

import trainkit.transforms as tt
from trainkit._core.validation import values

P = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}


@pytest.mark.parametrize("rate", [-1.0, -1e-9, math.nan, math.inf, -math.inf, jnp.float32(-1)])
@pytest.mark.parametrize(
    "make",
    [
        tt.sgd, tt.momentum, tt.nesterov, tt.dynamic_gd, tt.adagrad, tt.rmsprop, tt.adam, tt.adamw,
        tt.lion, tt.muon, tt.adafactor, tt.sophia, tt.schedule_free, tt.schedule_free_adamw,
        tt.soap, tt.lbfgs, tt.newton_cg, tt.gauss_newton, tt.sgld, tt.mars, tt.adam_mini, tt.lars,
        tt.scion, tt.normuon, tt.yogi, tt.amsgrad, tt.radam, tt.shampoo, tt.dion, tt.kron,
    ],
)  # fmt: skip
def test_rates(make, rate):
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
        make(rate)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda b: tt.sgd(0.1, momentum=b), "momentum"),
        (lambda b: tt.momentum(0.1, b), "beta"),
        (lambda b: tt.nesterov(0.1, b), "beta"),
        (lambda b: tt.rmsprop(0.1, decay=b), "decay"),
        (lambda b: tt.adam(0.1, b1=b), "b1"),
        (lambda b: tt.adam(0.1, b2=b), "b2"),
        (lambda b: tt.adamw(0.1, b2=b), "b2"),
        (lambda b: tt.lion(0.1, b1=b), "b1"),
        (lambda b: tt.muon(0.1, beta=b), "beta"),
        (lambda b: tt.soap(0.1, shampoo_beta=b), "shampoo_beta"),
        (lambda b: tt.average_params(tt.sgd(0.1), b), "decay"),
    ],
)
@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, math.nan])
def test_betas(make, name, beta):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\)"):
        make(beta)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tt.adamw(0.1, weight_decay=-1.0), "weight_decay"),
        (lambda: tt.adam(0.1, eps=-1.0), "eps"),
        (lambda: tt.l1(-1.0), "strength"),
        (lambda: tt.l2(math.nan), "strength"),
        (lambda: tt.clip_by_global_norm(0.0), "max_norm"),
        (lambda: tt.clip_by_norm(-1.0), "max_norm"),
        (lambda: tt.clip_by_value(math.nan), "max_value"),
        (lambda: tt.clip_adaptive(0.0), "clipping"),
        (lambda: tt.gradient_noise(-1.0), "eta"),
        (lambda: tt.sgld(0.1, num_data=0), "num_data"),
        (lambda: tt.sgld(0.1, prior=-1.0), "prior"),
        (lambda: tt.momentum(0.1, convention="both"), "'both'"),
        (lambda: tt.newton_cg(max_iterations=0), "max_iterations"),
        (lambda: tt.lbfgs(memory_size=0), "memory_size"),
        (lambda: tt.soap(0.1, precondition_frequency=0), "precondition_frequency"),
        (lambda: tt.sophia(0.1, update_interval=0), "update_interval"),
        (lambda: tt.quantise_moments(tt.adam(0.1), block=0), "block"),
        (lambda: tt.scion(0.1, norms={"w": "nuclear"}), "nuclear"),
        (lambda: tt.shampoo(0.1, graft="adamw"), "'adamw'; did you mean 'adam'"),
        (lambda: tt.shampoo(0.1, start_preconditioning_step=0), "start_preconditioning_step"),
        (lambda: tt.dion(0.1, rank_fraction=0.0), r"rank_fraction must be in \(0, 1\]"),
        (lambda: tt.dion(0.1, rank_fraction=1.5), r"rank_fraction must be in \(0, 1\]"),
        (lambda: tt.scion(0.1, radius=0.0), "radius"),
        (lambda: tt.schedule_free(0.1, 0.0), r"schedule_free: b1 must be in \(0, 1\).*'swa'"),
        (lambda: tt.schedule_free_adamw(b1=0), r"schedule_free_adamw: b1 must be in \(0, 1\)"),
        (lambda: tt.cautious(tt.adam(0.1), 0.0), "slack"),
        (lambda: tt.lookahead(tt.adam(0.1), 0), "sync_period"),
        (lambda: tt.lookahead(tt.adam(0.1), 5, 0.5, outer=tt.sgd(1.0)), "slow_step_size or outer"),
    ],
)
def test_other_hyperparameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_injected_b1_of_0_is_refused_too():
    with pytest.raises(ValueError, match=r"b1 must be in \(0, 1\)"):
        tt.inject(tt.schedule_free)(0.1, b1=0.0).init(P)


def test_a_string_is_no_rate():
    with pytest.raises(TypeError, match=r"adam: learning_rate.*'1e-3'"):
        tt.adam("1e-3")


@pytest.mark.parametrize(
    "tx",
    [tt.adamw(0.1), tt.lion(0.1), tt.l1(0.1), tt.muon(0.1), tt.sgld(0.1), tt.clip_adaptive(0.1),
     tt.named(a=tt.adamw(0.1)), tt.stochastic_rounding(tt.sgd(0.1))],
)  # fmt: skip
def test_the_parameters_are_asked_for(tx):
    with pytest.raises(ValueError, match=r"needs the parameters.*update\(updates, state, params\)"):
        tx.update(P, tx.init(P))


@pytest.mark.parametrize("tx", [tt.adamw(0.1), tt.adam(0.1), tt.sgd(0.1, 0.9)])
def test_the_first_path_that_differs_is_named(tx):
    state = tx.init(P)
    params = P if tx.needs_params else None
    with pytest.raises(ValueError, match="'dense/bias'"):
        tx.update({"dense": {"kernel": P["dense"]["kernel"]}}, state, params)
    bad = {"dense": {"kernel": P["dense"]["kernel"], "gain": jnp.ones(3)}}
    with pytest.raises(ValueError, match="'dense/gain'"):
        tx.update(bad, state, params)
    # Of one tree but another shape: broadcasting would hide it.
    with pytest.raises(ValueError, match=r"\(1, 3\) at 'dense/kernel'.*\(2, 3\)"):
        tx.update({"dense": {"kernel": jnp.ones((1, 3)), "bias": jnp.ones(3)}}, state, params)


def test_traced_hyperparameters_pass():
    make = jax.jit(lambda rate: tt.sgd(rate).update(P, tt.sgd(rate).init(P))[0])
    assert make(-1.0)["dense"]["bias"].tolist() == [1, 1, 1]


def test_clips_survive_what_overflows():
    for dtype, huge in ((jnp.float32, 1e20), (jnp.float32, 3e38), (jnp.float16, 300.0)):
        g = {"a": jnp.full(8, huge, dtype), "b": jnp.full(8, -huge, dtype)}
        # Of 16 equal entries in one norm, or of 8 in each of two.
        for tx, size in ((tt.clip_by_global_norm(1.0), 1 / 4), (tt.clip_by_norm(1.0), 8**-0.5)):
            u, _ = tx.update(g, tx.init(g))
            found = jnp.concatenate([u["a"], -u["b"]]).astype(jnp.float32)
            assert jnp.allclose(found, size, rtol=2e-3)
            assert u["a"].dtype == dtype


def test_clips_of_infinities_zeros_and_nan():
    tx = tt.clip_by_global_norm(2.0)
    update = lambda *x: tx.update(jnp.array(x), tx.init(jnp.array(x)))[0].tolist()
    assert update(jnp.inf, 5.0, -jnp.inf, 0.0) == pytest.approx([2**0.5, 0, -(2**0.5), 0])
    assert update(0.0, 0.0) == [0, 0]
    assert update(1e-42, 0.0) == pytest.approx([1e-42, 0], abs=1e-42)
    assert update(0.5, -1.0) == [0.5, -1.0]
    assert math.isnan(update(math.nan, 1.0)[0])
    w = jnp.ones((2, 2))
    adaptive = tt.clip_adaptive(0.5)
    u, _ = adaptive.update(jnp.array([[1e30, jnp.inf], [1e30, 1.0]]), adaptive.init(w), w)
    assert u.ravel().tolist() == pytest.approx([0.5, 0.5 * 2**0.5, 0.5, 0.0])


# -- every factory of the package, by its signature ----------------------------------------------

GIVEN = {
    "learning_rate": 0.1, "strength": 0.1, "max_norm": 1.0, "max_value": 1.0, "clipping": 0.5,
    "eta": 0.1, "step_size": 0.1,
}  # fmt: skip
BAD_COUNTS = (-1, 0.5, 2**31, True)


def bad_values(parameter):
    """On the bounds that do not belong to it, and outside."""
    if parameter not in values.HYPERPARAMETERS:
        return BAD_COUNTS
    interval = values.HYPERPARAMETERS[parameter]
    outside = [math.nan]
    if interval.get("finite", True):
        outside.append(math.inf)
    if "least" in interval:
        outside += [interval["least"] - 1e-9, interval["least"] - 1.0]
    if "above" in interval:
        outside += [interval["above"], interval["above"] - 1.0]
    if "below" in interval:
        outside += [interval["below"], interval["below"] + 0.5]
    return outside


# Parameters with a number for a default that no check is for: seeds, and axes, of either sign.
FREE = {"key", "output_axis"}
# Those that the factory itself checks, with tests of their own above.
OWN_CHECKS = {("adafactor", "decay_rate"), ("sgld", "prior"), ("dion", "rank_fraction")}


def arguments(factory):
    """Those that the factory cannot be called without."""
    signature = inspect.signature(factory)
    return {n: GIVEN[n] for n, p in signature.parameters.items() if n in GIVEN}


def makes_a_rule(thing):
    if not inspect.isfunction(thing) or hasattr(thing, "init"):
        return False
    empty = [p for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
    if any(p.name not in GIVEN for p in empty):
        return False
    return isinstance(thing(**arguments(thing)), tt.Rule)


FACTORIES = {n: getattr(tt, n) for n in tt.__all__ if makes_a_rule(getattr(tt, n))}
HYPERPARAMETERS = [
    (name, parameter)
    for name, factory in FACTORIES.items()
    for parameter in inspect.signature(factory).parameters
    if parameter in {**values.HYPERPARAMETERS, **values.COUNTS}
]


def test_the_signatures_are_found():
    assert len(FACTORIES) >= 45
    assert len(HYPERPARAMETERS) >= 140


@pytest.mark.parametrize("name", FACTORIES)
def test_every_number_is_checked_by_its_name(name):
    for parameter in inspect.signature(FACTORIES[name]).parameters.values():
        number = isinstance(parameter.default, int | float)
        if number and not isinstance(parameter.default, bool) and parameter.name not in FREE:
            known = parameter.name in {**values.HYPERPARAMETERS, **values.COUNTS}
            own = (name, parameter.name) in OWN_CHECKS
            assert known or own, parameter.name


@pytest.mark.parametrize(("name", "parameter"), HYPERPARAMETERS)
def test_every_hyperparameter_of_every_rule(name, parameter):
    factory = FACTORIES[name]
    for bad in bad_values(parameter):
        # The rule itself is named too; where two names are one factory, by either.
        with pytest.raises(ValueError, match=rf"^\w+: {parameter} must be"):
            factory(**{**arguments(factory), parameter: bad})


@pytest.mark.parametrize("name", FACTORIES)
def test_every_rule_asks_for_the_parameters_or_does_without(name):
    tx = FACTORIES[name](**arguments(FACTORIES[name]))
    state = tx.init(P)
    if tx.needs_params:
        with pytest.raises(ValueError, match=rf"{tx.name} needs the parameters: call update"):
            tx.update(P, state)
    else:
        jax.eval_shape(tx.update, P, state)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_rule_names_the_path_where_trees_part(name):
    tx = FACTORIES[name](**arguments(FACTORIES[name]))
    missing = {"dense": {"kernel": P["dense"]["kernel"]}}
    reshaped = {"dense": {"kernel": jnp.ones((1, 3)), "bias": jnp.ones(3)}}
    for updates, path in ((missing, "'dense/bias'"), (reshaped, "'dense/kernel'")):
        with pytest.raises(ValueError, match=rf"^{tx.name}: .*{path}"):
            tx.update(updates, tx.init(P), P)


@pytest.mark.parametrize("name", FACTORIES)
def test_leaves_without_elements_are_left_alone(name):
    tx = FACTORIES[name](**arguments(FACTORIES[name]))
    params = {"m": jnp.zeros((0, 3)), "v": jnp.ones(2), "wide": jnp.zeros((3, 0))}
    loss = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))
    flat = lambda p: jnp.concatenate([x.ravel() for x in jax.tree.leaves(p)])
    extra = {"value": loss(params), "grad": params, "value_fn": loss, "residual_fn": flat}
    accepted = inspect.signature(tx.update).parameters
    known = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    updates, _ = tx.update(params, tx.init(params), params, **(extra if known else {}))
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    assert jnp.all(jnp.isfinite(updates["v"]))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tt.accumulate(tx, 2), tt.average_params, tt.skip_nonfinite, tt.quantise_moments,
        tt.stochastic_rounding, lambda tx: tt.unfreeze_at(tx, 1), lambda tx: tt.named(a=tx),
        lambda tx: tt.groups([(".*", tx)]),
    ],
)  # fmt: skip
def test_what_stands_around_rules_passes_on_and_is_checked(wrap):
    with pytest.raises(TypeError, match=r"gradient transformation.*int"):
        wrap(3)
    tx = wrap(tt.adamw(0.1))
    state = tx.init(P)
    with pytest.raises(ValueError, match=r"needs the parameters.*update\(updates, state, params\)"):
        tx.update(P, state)
    with pytest.raises(ValueError, match="'dense/bias'"):
        tx.update({"dense": {"kernel": P["dense"]["kernel"]}}, state, P)


def test_a_mask_of_other_leaves():
    for tx in (tt.adamw(0.1, mask={"v": True}), tt.inject(tt.adamw(0.1, mask={"v": True}))):
        with pytest.raises(
            ValueError, match=r"mask must be .* like the parameters, 'w', not .*'v'"
        ):
            tx.init({"w": jnp.ones(3)})
    for mask in ({"dense": True}, {"dense": {"kernel": True, "bias": False}}, True):
        tt.adamw(0.1, mask=mask).init(P)


def test_nesterov_without_a_momentum():
    with pytest.raises(ValueError, match=r"sgd: nesterov=True .* momentum=0.9"):
        tt.sgd(0.1, nesterov=True)
    tt.sgd(0.1, momentum=0.9, nesterov=True)


def test_a_rule_without_its_name():
    with pytest.raises(TypeError, match=r"named: a transformation must have a name: named\(adam="):
        tt.named(tt.adam(1.0))
