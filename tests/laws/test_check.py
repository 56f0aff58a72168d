"""`check` and `check_schedule`: what they accept, refuse and report."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.laws import mutants, searching_mutants
from trainkit import laws
from trainkit.laws.oracles import PAPERS
from trainkit.laws.oracles.catalogue import function, plain_name, reference_name

ROOT = Path(__file__).parents[2]
CHEAP = ["oracle", "purity", "state fixpoint"]


def wrong_adam():
    return mutants.adam(fault="no bias correction")


@pytest.fixture(scope="module")
def report():
    return laws.check(wrong_adam, like="adam", hyperparams={"learning_rate": 1e-3}, laws=CHEAP)


def test_a_failure_says_what_should_hold_and_what_does_not(report):
    assert not report.ok
    (failure,) = report.failures
    assert failure.law == "oracle"
    assert failure.level == "standard"
    assert failure.statement.endswith(".")
    assert "adam gives" in failure.message
    with pytest.raises(laws.LawError, match="oracle"):
        report.raise_for_failures()


def test_the_counterexample_is_small(report):
    example = report.failures[0].counterexample
    assert len(example["gradients"]) == 1
    assert sum(x.size for x in jax.tree.leaves(example["gradients"])) == 1


def test_the_reproducer_stands_alone(report, tmp_path):
    code = report.failures[0].reproducer
    assert "trainkit" not in code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    assert "found" in done.stdout


def test_the_table_names_every_law(report):
    text = str(report)
    assert all(name in text for name in CHEAP)
    assert "broken" in text
    assert "Reproducer" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "like",
    ["sgd", "adam", "adamw", "lion", "rmsprop", "adagrad", "adamax", "nadam", "amsgrad", "lamb",
     "adabelief", "radam", "yogi", "adan", "novograd", "lars", "signum", "adadelta", "adafactor"],
)  # fmt: skip
@pytest.mark.parametrize("said", [True, False], ids=["said to be", "by itself"])
def test_the_rules_of_optax_raise_no_alarm(like, said):
    make = lambda name=like: getattr(optax, name)(learning_rate=1e-2)
    # Where Optax departs from the paper, it claims what it is.
    like = reference_name(f"optax.{like}")
    claimed = {"like": like, "hyperparams": {"learning_rate": 1e-2}} if said else {}
    laws.check(make, **claimed).raise_for_failures()


def test_adamw_passes_as_it_is_without_hyperparams():
    report = laws.check(optax.adamw(1e-3), like="adamw").raise_for_failures()
    assert any("learning_rate" in note for note in report.notes)


ADAM = optax.adam(1e-2)
ARGUMENTS = {
    "scale": {"step_size": -0.3},
    "scale_by_schedule": {"step_size_fn": optax.linear_schedule(1.0, 0.1, 20)},
    "trace": {"decay": 0.9}, "ema": {"decay": 0.9}, "clip": {"max_delta": 0.5},
    "clip_by_block_rms": {"threshold": 0.5}, "clip_by_global_norm": {"max_norm": 1.0},
    "adaptive_grad_clip": {"clipping": 0.01}, "add_decayed_weights": {"weight_decay": 0.1},
    "apply_every": {"k": 3},
    "MultiSteps": {"opt": ADAM, "every_k_schedule": lambda step: 2 + (step > 3)},
    "apply_if_finite": {"inner": ADAM, "max_consecutive_errors": 3},
    "conditionally_mask": {"inner": ADAM, "should_transform_fn": lambda step: step % 3 != 1},
    "conditionally_transform": {"inner": ADAM, "should_transform_fn": lambda step: step % 3 != 1},
    "flatten": {"inner": ADAM}, "freeze": {"mask": False},
    "masked": {"inner": ADAM, "mask": lambda p: jax.tree.map(lambda x: x.ndim > 1, p)},
    "partition": {
        "transforms": {"one": ADAM, "two": optax.sgd(1e-2)},
        "param_labels": lambda p: jax.tree.map(lambda x: "one" if x.ndim > 1 else "two", p)},
    "selective_transform": {"optimizer": ADAM, "freeze_mask": False},
    "mechanize": {"base_optimizer": ADAM},
    "schedule_free": {"base_optimizer": optax.sgd(optax.linear_schedule(1e-3, 1e-2, 10)),
                      "learning_rate": optax.linear_schedule(1e-3, 1e-2, 10)},
    "schedule_free_sgd": {"warmup_steps": 5, "weight_decay": 0.1},
    "sam": {"optimizer": optax.sgd(1e-2, momentum=0.9),
            "adv_optimizer": optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
            "sync_period": 3},
    "split_real_and_imaginary": {"inner": ADAM},
    "reduce_on_plateau": {"patience": 3, "cooldown": 2, "accumulation_size": 2},
    "muon": {"preconditioning": "spectral", "consistent_rms": 0.2, "weight_decay": 0.1},
    "momo": {"adapt_lower_bound": True, "weight_decay": 0.1},
    "momo_adam": {"adapt_lower_bound": True, "weight_decay": 0.1},
    "prodigy": {"safeguard_warmup": True, "weight_decay": 0.1},
    "adopt": {"nesterov": True, "use_clipping": False},
    "ademamix": {"alpha": optax.linear_schedule(0.0, 5.0, 20), "weight_decay": 0.1},
    "dog": {"init_step": ("learning_rate", 1e-3), "weight_decay": 0.1},
    "galore": {"rank": 2, "update_proj_gap": 5},
    "lbfgs": {"learning_rate": 0.5, "linesearch": None},
    "scale_by_lbfgs": {"memory_size": 3},
    "scale_by_backtracking_linesearch": {"max_backtracking_steps": 15, "slope_rtol": 0.3},
    "scale_by_zoom_linesearch": {"max_linesearch_steps": 15},
    "scale_by_muon": {"weight_dimension_numbers": searching_mutants.axes},
    "add_noise": {"eta": 0.01, "gamma": 0.55, "key": 0}, "noisy_sgd": {"key": 0},
    "differentially_private_aggregate": {
        "l2_norm_clip": 2.0, "noise_multiplier": 0.0, "key": 0},
    "dpsgd": {"l2_norm_clip": 2.0, "noise_multiplier": 0.0, "seed": 0, "momentum": 0.9},
}  # fmt: skip
# Where the reference says all but what is drawn at random, or how far a step goes.
PARTLY = {"add_noise": "noise", "noisy_sgd": "noise", "scale_by_zoom_linesearch": "line search"}
# What no run of this kit shows: `tests/laws/test_oracles.py` does, with losses below 0.
NOT_SHOWN = {"reduce_on_plateau"}
# A fault that is no other formula: a climb that is 0/0 is multiplied by 0, not left out.
FAULTS = {"sam"}


@pytest.mark.slow
@pytest.mark.parametrize("like", sorted({*laws.RULES} - {*PAPERS}))
def test_every_reference_agrees_with_optax(like):
    import inspect

    made = function(like)
    h = dict(ARGUMENTS.get(plain_name(like), {}))
    if plain_name(like) in laws.DEVIATIONS:
        h |= laws.DEVIATIONS[plain_name(like)].shown
    if "learning_rate" in inspect.signature(made).parameters:
        h = {"learning_rate": 1e-2} | h
    make = lambda: made(**h)
    if like == "MultiSteps":
        make = lambda: made(**h).gradient_transformation()
    law = PARTLY.get(like, "oracle")
    report = laws.check(make, like=like, hyperparams=h, laws=[law], examples=10)
    assert [r.outcome for r in report.results] == ["holds" if report.ok else "broken"]
    departs = like in laws.DEVIATIONS and like not in NOT_SHOWN
    assert report.ok != (departs or like in FAULTS), str(report)


SCHEDULE_ARGUMENTS = {
    "constant_schedule": {"value": 0.1},
    "linear_schedule": {"init_value": 1.0, "end_value": 0.1, "transition_steps": 100},
    "polynomial_schedule": {"init_value": 1.0, "end_value": 0.1, "power": 2, "transition_steps": 50,
                            "transition_begin": 5},
    "piecewise_constant_schedule": {"init_value": 1.0, "boundaries_and_scales": {20: 0.5, 50: 0.1}},
    "piecewise_interpolate_schedule": {"interpolate_type": "cosine", "init_value": 1.0,
                                       "boundaries_and_scales": {20: 0.5, 50: 0.1}},
    "exponential_decay": {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.9},
    "cosine_decay_schedule": {"init_value": 1.0, "decay_steps": 100, "alpha": 0.1},
    "linear_onecycle_schedule": {"transition_steps": 100, "peak_value": 1.0},
    "cosine_onecycle_schedule": {"transition_steps": 100, "peak_value": 1.0},
    "warmup_constant_schedule": {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10},
    "warmup_cosine_decay_schedule": {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10,
                                     "decay_steps": 100, "end_value": 0.1},
    "warmup_exponential_decay_schedule": {
        "init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "transition_steps": 20,
        "decay_rate": 0.5},
    "sgdr_schedule": {"cosine_kwargs": [
        {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 5, "decay_steps": 50},
        {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 5, "decay_steps": 50}]},
    "join_schedules": {"schedules": [optax.linear_schedule(0.0, 1.0, 10), lambda t: 1.0],
                       "boundaries": [10]},
}  # fmt: skip


@pytest.mark.parametrize("like", sorted(laws.SCHEDULES))
def test_the_schedules_of_optax_raise_no_alarm(like):
    h = SCHEDULE_ARGUMENTS[like]
    fn = getattr(optax, like)(**h)
    laws.check_schedule(fn, like=like, hyperparams=h).raise_for_failures()


@pytest.mark.parametrize("level", ["standard", "strict"])
def test_a_join_of_optaxs_own_schedules_is_no_alarm(level):
    """The reference asks them for counts beyond int32; boundaries may be an array."""
    up, down = optax.linear_schedule(0.0, 1.0, 10), optax.linear_schedule(1.0, 0.0, 100)
    h = {"schedules": [up, optax.constant_schedule(1.0), down], "boundaries": np.array([10, 40])}
    report = laws.check_schedule(
        optax.join_schedules(h["schedules"], [10, 40]),
        like="join_schedules",
        hyperparams=h,
        level=level,
    )
    assert not any("crashed" in f.message for f in report.failures)
    assert report.ok or level == "strict"


def test_a_fractional_power_is_found_to_be_nan_under_jit(optimised):
    h = {"init_value": 1.0, "end_value": 0.1, "power": 0.5, "transition_steps": 100}
    report = laws.check_schedule(
        optax.polynomial_schedule(**h), like="polynomial_schedule", hyperparams=h
    )
    assert "schedule under jit" in {f.law for f in report.failures}


def test_a_crash_inside_jax_is_a_failure_with_its_first_line():
    def make():
        def update(g, state, params=None):
            return jax.tree.map(lambda x: x @ jnp.ones((7, 7)), g), state

        return optax.GradientTransformation(lambda p: optax.EmptyState(), update)

    report = laws.check(make, laws=["scan is a loop", "zero gradients"])
    assert {f.law for f in report.failures} >= {"scan is a loop"}
    assert any("Error" in f.message for f in report.failures)
    assert all(f.reproducer for f in report.failures)


def test_an_extra_argument_that_is_needed_is_supplied_or_asked_for():
    assert laws.check(optax.polyak_sgd, laws=["zero gradients"]).ok

    def needs_temperature():
        def update(g, state, params=None, *, temperature, **extra):
            return jax.tree.map(lambda x: -temperature * x, g), state

        return optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)

    with pytest.raises(TypeError, match=r"temperature.*extra_args="):
        laws.check(needs_temperature)
    given = {"temperature": 0.1}
    assert laws.check(needs_temperature, extra_args=given, laws=["zero gradients"]).ok


@pytest.mark.parametrize("hyperparams", [None, {"learning_rate": 0.03}])
def test_a_factory_that_lacks_only_its_rate_gets_it(hyperparams):
    named = {"like": "adamw", "hyperparams": hyperparams, "laws": ["oracle"]}
    assert laws.check(optax.adamw, **named).ok
    report = laws.check(optax.adam, **named)
    (failure,) = report.failures
    rate = 1e-3 if hyperparams is None else 0.03
    assert f"learning_rate={rate}" in failure.reproducer


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: laws.check(3), TypeError, "found int"),
        (lambda: laws.check(lambda: 3), TypeError, "returned int"),
        (lambda: laws.check(optax.adam), TypeError, "needs learning_rate"),
        (lambda: laws.check(lambda: 1 / 0), ValueError, "ZeroDivisionError"),
        (lambda: laws.check(optax.sgd(1.0), like="adamm"), ValueError, "adamax"),
        (lambda: laws.check(optax.clip(1.0), like="clip"), ValueError, "max_delta"),
        (
            lambda: laws.check(optax.sgd(1.0), like="sgd", hyperparams={"beta": 1}),
            TypeError,
            "beta",
        ),
        (lambda: laws.check(optax.sgd(1.0), claims=["oddd"]), ValueError, "element-wise"),
        (lambda: laws.check(optax.sgd(1.0), laws=["purty"]), ValueError, "purity"),
        (lambda: laws.check(optax.sgd(1.0), level="hard"), ValueError, "strict"),
        (lambda: laws.check_schedule(0.1), TypeError, "constant_schedule"),
        (lambda: laws.check_schedule(optax.sgd(1.0)), TypeError, "check"),
        (lambda: laws.check_schedule(lambda t: t, like="linear_schedule"), ValueError, "end_value"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_law_of_ones_own():
    def check(subject):
        longest = abs(subject.run("bursts").flat).max()
        return laws.Violation(f"{longest:.3g}") if longest > 1 else None

    bounded = laws.Law("bounded", "No coordinate moves by more than 1.", check)
    assert laws.check(optax.adam(1e-3), laws=[bounded]).ok
    report = laws.check(optax.sgd(1.0), laws=[bounded])
    assert [f.law for f in report.failures] == ["bounded"]


def test_strict_failures_say_so():
    report = laws.check(optax.adam(1e-3), laws=["extremes", "purity"], level="strict")
    assert [f.level for f in report.failures] == ["strict"]


@laws.parametrize(lambda: optax.sgd(0.1), like="sgd", hyperparams={"learning_rate": 0.1})
def test_parametrize_gives_a_test_for_each_law(law):
    law()


def test_parametrize_names_its_tests():
    mark = laws.parametrize(
        wrong_adam, like="adam", hyperparams={"learning_rate": 1e-3}, laws=CHEAP
    )
    assert mark.kwargs["ids"] == CHEAP
    oracle, purity, _ = mark.args[1]
    with pytest.raises(laws.LawError):
        oracle()
    purity()
