"""Every kind of failure comes with a program that fails by itself and shows the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.laws import mutants
from trainkit import laws
from trainkit.laws.reproducers.names import is_library

tmap = jax.tree.map


def rule(update, init=lambda params: optax.EmptyState(), extra=False):
    kind = optax.GradientTransformationExtraArgs if extra else optax.GradientTransformation
    return lambda: kind(init, update)


def scaled(f):
    """−0.1 f(g), for every leaf by itself."""
    return rule(lambda g, s, p=None: (tmap(lambda x: -0.1 * f(x), g), s))


def branches(g, s, p=None):
    return tmap(lambda x: -0.1 * x if float(jnp.sum(x)) > 0 else -x, g), s


def names_matter(g, s, p=None, **extra):
    return tmap(lambda x: -0.1 * x * (1 + len(extra)), g), s


def float_init(params):
    first = jax.tree.leaves(params)[0]
    return jnp.zeros(2 if isinstance(first, jax.core.Tracer) else 3)


def parts_on_devices(g, s, p=None):
    try:
        i = jax.lax.axis_index("batch")
    except NameError:
        i = 0
    return tmap(lambda x: -0.1 * x * (1 + 0.1 * i), g), s


def once(every):
    """Keeps the gradient of the first step and of the second period, and no other."""
    late = lambda t: (t == 0) | (t == every)

    def update(g, s, p=None):
        t, kept = s
        return g, (t + 1, tmap(lambda a, b: jnp.where(late(t), a, b), g, kept))

    init = lambda p: (jnp.zeros([], jnp.int32), tmap(jnp.zeros_like, p))
    return optax.GradientTransformation(init, update)


def fault(name, make=mutants.adam):
    return lambda: make(fault=name)


RATE = {"learning_rate": 1e-2}

# law: (rule, further arguments of check)
RULES = {
    "purity": (fault("mutates the gradients"), {}),
    "memory": (rule(lambda g, s, p=None: (g, s), lambda p: jnp.empty(3)), {}),
    "hyper-parameters": (lambda lr=0.1, decay=0.5: optax.sgd(lr), {}),
    "jit is eager": (rule(branches), {}),
    "structure": (fault("shape of a bare array", mutants.sgd), {}),
    "no promotion": (fault("promotes to float32"), {}),
    "state fixpoint": (fault("state grows"), {}),
    "abstract init": (rule(lambda g, s, p=None: (g, s), float_init), {}),
    "one compile": (fault("weak type drifts"), {}),
    "donation": (fault("moments share buffers"), {}),
    "extra arguments": (rule(names_matter, extra=True), {}),
    "leaf names": (fault("order of leaves"), {}),
    "map params": (rule(lambda g, s, p=None: (g, s), lambda p: jnp.zeros((2, 3))),
                   {"claims": ["map params"]}),
    "mixed dtypes": (lambda: optax.adam(1e-3), {}),
    "abstract parameters": (lambda: optax.flatten(optax.adam(1e-2)), {}),
    "vmap is a loop": (rule(branches), {}),
    "scan is a loop": (fault("count becomes float"), {}),
    "element-wise": (lambda: optax.clip_by_global_norm(1.0), {"claims": ["element-wise"]}),
    "odd": (scaled(jnp.abs), {"claims": ["odd"]}),
    "degree": (scaled(jnp.square), {"claims": {"degree": 1}}),
    "permutation": (scaled(jnp.cumsum), {"claims": ["permutation"]}),
    "rotation": (scaled(jnp.sign), {"claims": ["rotation"]}),
    "decoupled decay": (fault("L2 in the gradient", lambda **k: mutants.adam(wd=0.01, **k)),
                        {"claims": {"decoupled decay": 1e-5}}),
    "bounded": (lambda: optax.sgd(0.1), {"claims": {"bounded": {"norm": "leaf rms",
                                                                "bound": 0.01}}}),
    "clip": (lambda: optax.clip(1.0), {"claims": {"clip": {"norm": "global", "bound": 1.0}}}),
    "accumulation": (lambda: optax.apply_every(3),
                     {"claims": {"accumulation": {"k": 3, "inner": optax.identity()}}}),
    "stacked": (lambda: optax.lamb(1e-2),
                {"claims": {"stacked": lambda stacked: optax.lamb(1e-2)}}),
    "guard": (lambda: optax.adam(1e-3), {"claims": ["guard"]}),
    "orthogonal maps": (lambda: optax.adam(1e-3), {"claims": ["orthogonal"]}),
    "transposition": (scaled(lambda x: jnp.cumsum(x, axis=0)), {"claims": ["transposes"]}),
    "shape factor": (lambda: optax.contrib.muon(1e-3), {"claims": {"shape factor": "1"}}),
    "singular values": (lambda: optax.sgd(0.1), {"claims": {"singular values": (0.1, 0.11)}}),
    "staleness": (lambda: optax.sgd(0.1), {"claims": {"stale": lambda every: scaled(
        jnp.sign if every > 1 else jnp.exp)()}}),
    "refreshed on time": (lambda: optax.sgd(0.1), {"claims": {"stale": once}}),
    "the basis is left again": (lambda: optax.adam(-1e-3), {"claims": ["basis"]}),
    "the basis stays orthogonal": (lambda: optax.adam(1e-3), {"claims": {"basis": "mu"}}),
    "scope": (lambda: optax.adam(1e-3), {"claims": {"scope": {"": optax.sgd(0.1)}}}),
    "fused projections": (lambda: optax.contrib.muon(1e-3), {"claims": {"fused": {"qkv": 3}}}),
    "oracle above the threshold": (lambda: optax.adafactor(1e-2, min_dim_size_to_factor=256),
                                   {"like": "adafactor", "hyperparams": RATE}),
    "wrapper order": (lambda: optax.clip(0.1), {"claims": {"commutes with": optax.scale(2.0)}}),
    "oracle": (fault("epsilon ten times"), {"like": "adam"}),
    "bfloat16": (lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2), {}),
    "zero gradients": (lambda: optax.contrib.prodigy(), {}),
    "constant gradients": (scaled(lambda x: x * 0), {"claims": ["adapts"]}),
    "descent": (scaled(jnp.negative), {"claims": {"descends": True}}),
    "differentiable": (scaled(lambda x: jnp.sqrt(jnp.abs(x))), {"claims": ["differentiable"]}),
    "line search": (lambda: optax.sgd(5.0), {"claims": ["line search"]}),
    "noise": (lambda: optax.add_noise(0.04, 0.0, key=0), {"claims": {"noise": 0.1}}),
    "oracle in float64": (lambda: optax.adafactor(1e-2),
                          {"like": "adafactor", "hyperparams": RATE}),
    "float64": (fault("promotes to float32"), {}),
    "float16": (lambda: optax.adam(1e-3), {}),
    "extremes": (lambda: optax.adam(1e-3), {}),
    "counts": (lambda: optax.adafactor(1e-2), {}),
    "no collective": (rule(parts_on_devices), {}),
    "placements": (rule(parts_on_devices), {}),
    "resume": (lambda: optax.named_chain(("one", optax.trace(0.9))), {}),
    "growth": (lambda: optax.lamb(1e-2), {"claims": ["growth"]}),
}  # fmt: skip
COSINE = {"init_value": 0.3, "decay_steps": 100, "alpha": 0.1}
LINEAR = {"init_value": 1.0, "end_value": 0.1, "transition_steps": 100}
CALLS = [0]


def counts_calls(count):
    CALLS[0] += 1
    return jnp.asarray(0.1 * CALLS[0])


SCHEDULES = {
    "defined everywhere": (lambda count: jnp.log(jnp.asarray(count, jnp.float32)), {}),
    "schedule under jit": (lambda count: 0.1 if count < 10 else 0.2, {}),
    "schedule purity": (counts_calls, {}),
    "schedule dtype": (lambda count: jnp.asarray(count, jnp.int32), {}),
    "schedule oracle": (mutants.cosine(fault="half the angle"),
                        {"like": "cosine_decay_schedule", "hyperparams": COSINE}),
    "start, peak and end": (mutants.cosine(), {"claims": {"start": 1.0}}),
    "non-negative": (lambda count: 1.0 - 0.01 * count, {"claims": ["non-negative"]}),
    "non-increasing": (lambda count: 0.01 * count, {"claims": ["non-increasing"]}),
    "non-decreasing": (lambda count: -0.01 * count, {"claims": ["non-decreasing"]}),
    "continuous": (mutants.steps(), {"claims": {"continuous": 0.1}}),
    "schedule in x64": (optax.cosine_onecycle_schedule(100, 1.0), {}),
    "horizon": (optax.linear_schedule(**LINEAR), {"like": "linear_schedule",
                                                  "hyperparams": LINEAR}),
}  # fmt: skip
# Nothing that a rule is written in can break these alone: what does breaks `purity` first.
NOT_ALONE = {"identity and associativity", "masked and partitioned", "injected is direct"}


def runs_and_fails(failure):
    assert "assert False" not in failure.reproducer
    assert mutants.runs_and_fails(failure.reproducer) is None, failure.reproducer


def test_every_law_is_in_one_of_the_lists():
    assert {law.name for law in laws.TRANSFORMATION_LAWS} == set(RULES) | NOT_ALONE
    assert {law.name for law in laws.SCHEDULE_LAWS} == set(SCHEDULES)


@pytest.mark.parametrize("law", sorted(SCHEDULES))
def test_a_schedule_fails_by_itself(law):
    fn, more = SCHEDULES[law]
    report = laws.check_schedule(fn, laws=[law], level="strict", **more)
    assert not report.ok
    runs_and_fails(report.failures[0])


CHEAP = (
    "oracle",
    "line search",
    "noise",
    "bfloat16",
    "donation",
    "accumulation",
    "placements",
    "decoupled decay",
)


@pytest.mark.parametrize(
    "law", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.slow) for n in RULES]
)
def test_a_rule_fails_by_itself(law):
    make, more = RULES[law]
    report = laws.check(make, laws=[law], level="strict", examples=3, **more)
    assert [f.law for f in report.failures][:1] == [law]
    runs_and_fails(report.failures[0])


def test_a_rule_that_gets_the_loss_fails_by_itself():
    def update(g, s, p=None, *, value, **extra):
        return tmap(lambda x: value * jnp.where(x == 0, jnp.nan, x), g), s

    report = laws.check(rule(update, extra=True), laws=["zero gradients"])
    assert "def loss_at(p, g)" in report.failures[0].reproducer
    runs_and_fails(report.failures[0])


def test_an_argument_of_ones_own_is_written_down():
    def update(g, s, p=None, *, heat, **extra):
        return tmap(lambda x: heat / x, g), s

    report = laws.check(rule(update, extra=True), laws=["zero gradients"], extra_args={"heat": 0.5})
    assert "0.5" in report.failures[0].reproducer
    runs_and_fails(report.failures[0])


def test_a_function_of_a_library_is_imported_under_any_name():
    report = laws.check(rule(lambda g, s, p=None: (tmap(jnp.abs, g), s)), laws=["odd"])
    (failure,) = report.failures
    assert "tmap = jax.tree.map" in failure.reproducer
    runs_and_fails(failure)


def test_no_array_of_a_counterexample_is_a_tracer():
    report = laws.check(fault("epsilon ten times"), like="adam", laws=["oracle"])
    leaves = jax.tree.leaves(report.failures[0].counterexample["gradients"])
    assert all(isinstance(x, np.ndarray) for x in leaves)


def test_what_lies_in_another_folder_of_packages_is_a_library(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "a_library_elsewhere.py").write_text("def f(): pass\n")
    (tmp_path / "a_module_of_mine.py").write_text("def f(): pass\n")
    for place in (folder, tmp_path):
        monkeypatch.syspath_prepend(str(place))
    assert is_library("a_library_elsewhere")
    assert not is_library("a_module_of_mine")


def test_a_fault_at_a_tiny_rate_is_found_and_its_program_fails():
    """A part in 1000 of steps of 1e-8: far below the last digit of the parameters."""

    def update(g, s, p=None):
        traced = isinstance(jax.tree.leaves(g)[0], jax.core.Tracer)
        return tmap(lambda x: (-1.001e-8 if traced else -1e-8) * x, g), s

    (failure,) = laws.check(rule(update), laws=["jit is eager"]).failures
    runs_and_fails(failure)
