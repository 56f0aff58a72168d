"""A rule that has Optax's name takes all that Optax's takes."""

import inspect

import optax
import pytest

import trainkit.transforms as tt

# What is left out, and why.
LEFT_OUT = {
    "adaptive_grad_clip": {"axis"},  # units are the last axis, as in Flax
    "add_noise": {"seed"},  # `key`
    "clip": {"max_delta"},  # `max_value`
    "freeze": {"mask"},  # it is a group's
    "lookahead": {"fast_optimizer"},  # `tx`
    "safe_norm": {"x", "ord", "axis", "keepdims", "min_norm"},  # a norm of trees, by another name
    "schedule_free": {"base_optimizer", "state_dtype"},  # `base`; float32 at least
    "schedule_free_adamw": {"warmup_steps", "state_dtype"},  # a schedule; float32 at least
    # `key` makes the estimate; printing from a compiled step is a hook's.
    "sophia": {"hessian_diagonal_fn", "verbose", "print_win_rate_every_n_steps"},
}


def of_optax(name):
    return getattr(optax, name, None) or getattr(optax.contrib, name, None)


@pytest.mark.parametrize("name", [n for n in tt.__all__ if callable(of_optax(n))])
def test_no_argument_is_dropped(name):
    arguments = lambda f: set(inspect.signature(f).parameters)
    ours, theirs = getattr(tt, name), of_optax(name)
    assert arguments(theirs) - arguments(ours) == LEFT_OUT.get(name, set())
