"""Right rules that strangers wrote and the kit accused, each with a wrong neighbour."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.laws.strangers.chains import averaged, clipped_chain, private
from tests.laws.strangers.directions import schedule_free, sophia_like
from tests.laws.strangers.factors import dion
from tests.laws.strangers.muon import muon_bf16
from tests.laws.strangers.preconditioners import soap
from trainkit import laws
from trainkit import transforms as tt

tmap = jax.tree.map
PROGRAMS = ["jit is eager", "scan is a loop", "vmap is a loop"]


def holds(make, names, **more):
    report = laws.check(make, laws=names, examples=0, **more)
    report.raise_for_failures()
    assert [r.outcome for r in report.results] == ["holds"] * len(names)
    return report


def broken(make, name, **more):
    (failure,) = laws.check(make, laws=[name], examples=0, **more).failures
    return failure


def test_a_rule_that_computes_in_bfloat16_is_rounded_as_that_rounds():
    report = holds(muon_bf16(), [*PROGRAMS, "transposition"],
                   claims={"transposes": True, "shape factor": "sqrt(max(1, out/in))"})  # fmt: skip
    assert any("which is what rounding to 0.0078" in note for note in report.notes)


def test_what_is_no_rounding_of_bfloat16_is_still_said():
    def update(g, s, p=None):
        size = 1.1 if isinstance(jax.tree.leaves(g)[0], jax.core.Tracer) else 1.0
        low = lambda x: (-0.1 * size * x.astype(jnp.bfloat16)).astype(x.dtype)
        return tmap(low, g), s

    assert "jitted" in broken(lambda: optax.GradientTransformation(lambda p: (), update),
                              "jit is eager").message  # fmt: skip


def test_an_update_to_a_point_that_the_state_implies_is_rounded_as_parameters_are():
    holds(schedule_free(), ["jit is eager", "scan is a loop"])


def test_the_basis_of_a_null_space_may_be_another_one_on_other_devices():
    holds(soap(), ["placements"])


def test_a_key_for_each_leaf_in_their_order_is_no_use_of_names():
    holds(dion(), ["leaf names"])


def test_a_rule_that_draws_may_still_not_use_names():
    def update(g, s, p=None):
        noise = jax.random.normal(jax.random.key(0), ())
        size = lambda path: 2.0 if "bias" in jax.tree_util.keystr(path) else 1.0
        return jax.tree_util.tree_map_with_path(lambda k, x: x * size(k) + 0 * noise, g), s

    broken(lambda: optax.GradientTransformation(lambda p: (), update), "leaf names")


def test_an_argument_of_the_whole_tree_is_none_for_a_part_of_it():
    extra = lambda params, grads: {"hessian": tmap(jnp.square, grads)}
    report = holds(sophia_like(), ["masked and partitioned"], extra_args=extra)
    assert any("hessian is of the whole tree" in note for note in report.notes)


@pytest.mark.parametrize("fault", [None, "clip_first", "clip_one_side", "clip_rho"])
def test_an_update_is_within_its_bound(fault):
    more = {
        "extra_args": lambda params, grads: {"hessian": tmap(jnp.square, grads)},
        "claims": {"bounded": {"norm": "element", "bound": 0.01}},
    }
    if fault is None:
        holds(sophia_like(), ["bounded"], **more)
    else:
        assert "over the bound 0.01" in broken(sophia_like(fault), "bounded", **more).message


def test_the_rate_of_a_decay_may_follow_a_schedule():
    holds(clipped_chain(), ["decoupled decay"])
    broken(clipped_chain("decay_first"), "decoupled decay")


def test_the_decay_of_an_average_of_parameters_has_an_effect():
    holds(averaged(), ["hyper-parameters"])

    def unused(lr=0.1, decay=0.9):
        def update(g, mean, p=None):
            mean = tmap(lambda m, g: decay * m + g, mean, g)
            return tmap(lambda g: -lr * g, g), mean

        return optax.GradientTransformation(lambda p: tmap(jnp.zeros_like, p), update)

    assert "decay=0.9" in broken(unused, "hyper-parameters").message


def test_an_empty_tree_has_no_number_of_examples():
    holds(private(), ["structure"], claims=["per example"])


def test_a_count_of_weak_type_is_named():
    def update(g, s, p=None):
        return g, {"n": s["n"] + 1}

    make = lambda: optax.GradientTransformation(lambda p: {"n": jnp.array(0)}, update)
    assert "the state's 'n' has a weak type" in broken(make, "one compile").message


def test_a_sum_in_float32_has_lost_its_small_eigenvalues():
    """In float64 the same happens once the state has float32's digits; what is worse is told."""
    make = lambda: tt.shampoo(1e-2, b1=0.0, sums=True, graft=None, precondition_frequency=1)
    report = holds(make, ["float64"], level="strict")
    assert any("gradients and state does in float64" in note for note in report.notes)


def test_digits_that_are_lost_outside_the_state_are_told():
    def update(g, s, p=None):
        s = tmap(lambda m, g: 0.9 * m + 0.1 * g, s, g)
        return tmap(lambda m: -2e4 * (jnp.sqrt(1 + 1e-5 * m) - 1), s), s

    make = lambda: optax.GradientTransformation(lambda p: tmap(jnp.zeros_like, p), update)
    assert "is off the float64 one" in broken(make, "float64", level="strict").message


@pytest.mark.parametrize(("kind", "ok"), [(jnp.bfloat16, False), (jnp.float32, True)])
def test_a_count_in_bfloat16_stops(kind, ok):
    def update(g, s, p=None):
        s = s + 1
        return tmap(lambda x: -0.1 * x / (1 - 0.9 ** s.astype(x.dtype)), g), s

    make = lambda: optax.GradientTransformation(lambda p: jnp.zeros((), kind), update)
    report = laws.check(make, laws=["bfloat16"], examples=0)
    assert report.ok == ok
    assert all("stops at 256: keep counts in int32" in f.message for f in report.failures)
