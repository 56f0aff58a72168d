"""References follow their papers; where Optax departs from one, its own has a name of its own."""

import numpy as np
import optax
import pytest

from trainkit import laws
from trainkit.laws.oracles import oracle_for
from trainkit.laws.oracles.catalogue import plain_name, reference_name

P = np.array([2.0])


def updates(like, hyperparams, gradients, **extra):
    step = oracle_for(like, hyperparams).start([P])([P])
    each = [{k: v[t] for k, v in extra.items()} for t in range(len(gradients))]
    return [
        float(step([np.array([g])], [P], t, **more)[0][0])
        for t, (g, more) in enumerate(zip(gradients, each, strict=True), 1)
    ]


def test_every_deviation_is_said_in_words_and_has_both_references():
    for name, deviation in laws.DEVIATIONS.items():
        assert {name, f"optax.{name}"} <= set(laws.RULES)
        assert deviation.paper != deviation.optax


def test_a_name_of_optax_means_the_paper_unless_optax_departs_from_it():
    assert reference_name("optax.adam") == "adam"
    assert reference_name("optax.contrib.schedule_free_sgd") == "optax.schedule_free_sgd"
    assert plain_name("optax.contrib.schedule_free_sgd") == reference_name("schedule_free_sgd")


@pytest.mark.parametrize(("like", "mix"), [("scale_by_adan", 0.9), ("optax.scale_by_adan", 0.1)])
def test_adan_weighs_the_difference_of_gradients(like, mix):
    """The second step by hand: g = 1, then 3; all three β are 0.9, so 1 − β² is 0.19."""
    found = updates(like, {"b1": 0.9, "b2": 0.9, "b3": 0.9, "eps": 0.0}, [1.0, 3.0])
    m, v = (0.09 + 0.3) / 0.19, 0.1 * 2.0 / 0.19
    n = (0.09 + 0.1 * (3.0 + mix * 2.0) ** 2) / 0.19
    assert found == pytest.approx([1.0, (m + mix * v) / n**0.5])


@pytest.mark.parametrize(("like", "first"), [("schedule_free", 1.0), ("optax.schedule_free", 2.0)])
def test_schedule_free_weighs_by_the_rate_of_the_step(like, first):
    """Rates 1, 2, 3, and a base of step −1: z = 1, 0 after two steps; x averages them."""
    base = optax.scale(-1.0)
    h = {"base_optimizer": base, "learning_rate": lambda t: 1.0 + t, "b1": 0.5}
    one, two = updates(like, h, [1.0, 1.0])
    # P stays at 2: x is read back as 2 P − z, which is 2 and then 3.
    share = (first + 1) ** 2 / (first**2 + (first + 1) ** 2)
    assert one == pytest.approx((1.0 + 1.0) / 2 - 2.0)
    assert two == pytest.approx(((1 - share) * 3.0 + share * 0.0 + 0.0) / 2 - 2.0)


@pytest.mark.parametrize(
    ("like", "scales"), [("reduce_on_plateau", [1, 0.5]), ("optax.reduce_on_plateau", [1, 1])]
)
def test_a_plateau_below_zero_is_one(like, scales):
    """A loss of −0.95 is no better than −1, though it is lower than 0.9 times it."""
    h = {"factor": 0.5, "patience": 1, "rtol": 0.1}
    assert updates(like, h, [1.0, 1.0], value=[-1.0, -0.95]) == scales
