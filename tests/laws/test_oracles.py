"""References follow their papers; where Optax departs from one, its own has a name of its own."""

import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from trainkit import laws
from trainkit.laws.losses import CURVATURE
from trainkit.laws.oracles import oracle_for
from trainkit.laws.oracles.catalogue import plain_name, reference_name
from trainkit.laws.oracles.matrices import STANDARD, newton_schulz

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


# ρ = 199 − 10 · .99⁵ / (1 − .99⁵), and r² of it.
_RHO = 199 - 10 * 0.99**5 / (1 - 0.99**5)
RECTIFIED = ((_RHO - 4) * (_RHO - 2) * 199 / (195 * 197 * _RHO)) ** 0.5


def averaged(weights):
    """z steps by −1 twice from 2, and is 1 and 0; y stays at 2, so that x is read back as 4 − z."""
    share = weights[1] / sum(weights)
    first = (1.0 + 1.0) / 2  # x = z = 1
    second = ((1 - share) * 3.0 + share * 0.0 + 0.0) / 2
    return [first - 2.0, second - 2.0]


AVERAGED = averaged([4 / 16, 7 / 16]), averaged([1.0, 1.0])
BY_HAND = {
    # g = 3: 3 / (√9 + 1), and 3 / √(9 + 1).
    "scale_by_rss": ({"initial_accumulator_value": 0.0, "eps": 1.0}, [3.0], [0.75], [3 / 10**0.5]),
    # w = 2, g = −3, β = ½: −2 · 2 / (3 + 1), and −2 · 2 / 2.
    "lars": ({"learning_rate": 1.0, "weight_decay": 0.5, "trust_coefficient": 1.0, "momentum": 0.0},
             [-3.0], [1.0], [2.0]),
    "rprop": ({"learning_rate": 0.1}, [1.0, 1.0], [-0.1, -0.12], [0.0, -0.1]),
    # The second: s₁ is, corrected, the square of 1 − ½, or of 1 − 0.
    "scale_by_acprop": ({"b1": 0.5, "b2": 0.5, "eps": 0.0, "eps_root": 0.0}, [1.0, 3.0],
                        [1.0, 3.0 / 0.5], [1.0, 3.0 / 1.0]),
    # λ = 1: 1 / (∛1 + 1), and λ = 1 + 1: 2 / (∛2 + 1).
    "scale_by_madgrad": ({"learning_rate": 1.0, "momentum": 0.0, "eps": 1.0}, [1.0], [-0.5],
                         [-2 / (2 ** (1 / 3) + 1)]),
    # a = √(1 − β₂) = ½, twice: g = 1, then 2 with all that adds up.
    "scale_by_amsgrad": ({"b1": 0.75, "b2": 0.75, "eps": 0.0}, [1.0, 0.0],
                         [0.25 / 0.5, 0.1875 / 0.5], [1.0, 0.1875 / 0.4375]),
    # v = 0, g² = 1 and m = ¼; corrected, and with both from 0.04: m = .28 and v = .29.
    "scale_by_yogi": ({"b1": 0.75, "b2": 0.75, "eps": 0.0, "initial_accumulator_value": 0.04},
                      [1.0], [0.25 / 0.29**0.5], [(0.28 / 0.25) / (0.29 / 0.25) ** 0.5]),
    # g = 1 and β₂ = .99: ρ∞ = 199, and from 4 on at t = 5, where ρ is 4.9799…
    "scale_by_radam": ({"b1": 0.0, "b2": 0.99, "eps": 0.0}, [1.0] * 5,
                       [1.0] * 4 + [RECTIFIED], [1.0] * 5),
    # 1 − β₂ = ½ of a first step, whose gradient has changed by nothing: (2 − 1) / (1 + ½) − 2.
    "adan": ({"learning_rate": 1.0, "weight_decay": 0.5, "eps": 0.0}, [1.0],
             [(2.0 - 1.0) / 1.5 - 2.0], [-1.0 - 0.5 * 2.0]),
    # γ₁ = ½ of the rate 1 over √v = ½; then γ₂² = 7/16 weighs against γ₁² = 4/16, or 1 against 1.
    "schedule_free_adamw": ({"learning_rate": 1.0, "b1": 0.5, "b2": 0.75, "eps": 0.0}, [1.0, 1.0],
                            *AVERAGED),
    # d = 1 and a first gradient of 1, with s = 0; (1 − β₁) / √(1 − β₂), or corrected.
    "dadapt_adamw": ({"betas": (0.75, 0.75), "eps": 1e-12, "estim_lr0": 1.0}, [1.0],
                     [-0.25 / 0.5], [-1.0]),
    "prodigy": ({"betas": (0.75, 0.75), "eps": 0.0, "estim_lr0": 1.0}, [1.0],
                [-0.25 / 0.5], [-1.0]),
    # x = 2, α = λ = 1, f = 1 and g = −1, so that τ is α: (2 + 1) / 2 − 2, and 2 / 2 + 1 − 2.
    "momo": ({"learning_rate": 1.0, "weight_decay": 1.0}, [-1.0], [-0.5], [0.0]),
    # d = −½ with ρ = ½, and τ = α / ρ.
    "momo_adam": ({"learning_rate": 1.0, "weight_decay": 1.0, "b1": 0.5, "b2": 0.5, "eps": 0.0},
                  [-1.0], [-0.5], [0.0]),
    # m = ¼ and h half the curvature, or m̂ = 1 and h = 0, of which ε = 1 is the floor.
    "sophia": ({"learning_rate": 1.0, "weight_decay": 0.0, "b1": 0.75, "b2": 0.5, "gamma": 4.0,
                "eps": 1.0, "clip_threshold": None},
               [1.0], [-0.25 / (2 * CURVATURE)], [-1.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_what_the_paper_has_and_what_optax_has(name):
    h, gradients, paper, of_optax = BY_HAND[name]
    assert updates(name, h, gradients) == pytest.approx(paper)
    assert updates(f"optax.{name}", h, gradients) == pytest.approx(of_optax)
    assert {name, f"optax.{name}"} <= set(laws.RULES)


def test_a_gradient_is_centred_over_the_weights_into_one_unit():
    """Kernels are [in, out]: the paper's wᵢ, the columns of W, are these columns."""
    g = np.array([[1.0, 2.0], [3.0, 6.0]])
    of = lambda like: oracle_for(like, {}).start([g])([g])([g], [g], 1)[0]
    np.testing.assert_allclose(of("centralize"), [[-1.0, -2.0], [1.0, 2.0]])
    np.testing.assert_allclose(of("optax.centralize"), [[-0.5, 0.5], [-1.5, 1.5]])


def test_galore_takes_the_vectors_of_the_smaller_side():
    """G = 3 e₁ f₁ᵀ + 2 e₂ f₂ᵀ of three rows and two columns, rank 1, clipped to 1."""
    g = np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]) @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    h = {"rank": 1, "base_optimizer": optax.clip(1.0)}
    of = lambda like: oracle_for(like, h).start([g])([g])([g], [g], 1)[0]
    # clip(G v) vᵀ with v = f₁, and u clip(uᵀ G) with u = e₁.
    np.testing.assert_allclose(of("scale_by_galore"), np.outer([1, 0, 0], [0.6, 0.8]), atol=1e-12)
    np.testing.assert_allclose(of("optax.scale_by_galore"), np.outer([1, 0, 0], [1, 1]), atol=1e-12)


def test_muon_mixes_momentum_and_gradient_as_they_are():
    """After G and H it is β M + (1 − β) H, (1 − β) times β² G + (1 + β) H."""
    g, h = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[0.3, -1.0], [2.0, 0.4]])
    step = oracle_for("scale_by_muon", {"beta": 0.5, "ns_steps": 5}).start([g])([g])
    step([g], [g], 1)
    (found,) = step([h], [g], 2)
    abc = [(3.4445, -4.7750, 2.0315)] * 5
    np.testing.assert_allclose(found, newton_schulz(0.25 * g + 1.5 * h, abc, "frobenius", 0), 1e-6)


@pytest.mark.parametrize(
    ("like", "scales"), [("reduce_on_plateau", [1, 0.5]), ("optax.reduce_on_plateau", [1, 1])]
)
def test_a_plateau_below_zero_is_one(like, scales):
    """A loss of −0.95 is no better than −1, though it is lower than 0.9 times it."""
    h = {"factor": 0.5, "patience": 1, "rtol": 0.1}
    assert updates(like, h, [1.0, 1.0], value=[-1.0, -0.95]) == scales


def run_paper(name, h, p0, gradients):
    """The parameters along the way, moved as the reference says."""
    p = np.array(p0)
    step, found = oracle_for(name, h).start([p])([p]), []
    for t, g in enumerate(gradients, 1):
        (u,) = step([np.array(g)], [p], t)
        p = p + u
        found.append(p)
    return found


@pytest.mark.parametrize(("like", "reward"), [("mechanize", 1.0), ("optax.mechanize", 0.5)])
def test_mechanic_rewards_what_went_down(like, reward):
    """s = 1 twice; then Δ = ½ and g = 2 are worth 1, which Optax cuts to the ½ of the step before.

    m = 1 and v = .9² · ½² + 1; the step goes on to Δ = 2½.
    """
    h = {"base_optimizer": optax.sgd(1.0), "weight_decay": 0.0, "eps": 1e-12, "s_init": 1.0,
         "num_betas": 1}  # fmt: skip
    first, second, third = run_paper(like, h, [0.0], [[1.0], [-0.5], [2.0]])
    assert (float(first[0]), float(second[0])) == pytest.approx((-1.0, -0.5))
    assert float(third[0]) == pytest.approx(-2.5 * (1 + reward) / 1.2025**0.5)


@pytest.mark.parametrize("like", ["mechanize", "optax.mechanize"])
def test_mechanic_forgets_a_debt(like):
    """Steps up are worth −½ twice; Optax remembers −½ of it, the paper nothing."""
    h = {"base_optimizer": optax.sgd(1.0), "weight_decay": 0.0, "eps": 1e-12, "s_init": 1.0,
         "num_betas": 1}  # fmt: skip
    last = run_paper(like, h, [0.0], [[1.0], [-0.5], [-1.0], [-2.0]])[-1]
    s = 0.5 / 0.4525**0.5
    reward = s if like == "mechanize" else max(0.0, 0.9 * -0.5 + 0.5 * s)
    assert float(last[0]) == pytest.approx(2.5 * (1 + reward) / (0.81 * 0.4525 + 1) ** 0.5)


def test_a_cautious_step_goes_down_by_this_gradient():
    """Steps −(−1, 2, 1, 0) by g = (−1, 1, −3, 0): two go down, and 4 / (2 + 1) as far as before."""
    h = {"inner": optax.sgd(1.0, momentum=1.0)}
    first, second = [0.0, 1.0, 4.0, 0.0], [-1.0, 1.0, -3.0, 0.0]
    one, two = run_paper("cautious", h, np.zeros(4), [first, second])
    np.testing.assert_allclose(one, [0.0, -4 / 3, -16 / 3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(two - one, [4 / 3, -8 / 3, 0.0, 0.0], rtol=1e-6)


def test_slow_weights_take_a_step_of_their_own():
    """Two steps of −1 from 4: half way back is 3, and Nesterov's step .7 · 1.9 · 2."""
    h = {"inner": optax.sgd(1.0), "sync_period": 2}
    assert float(run_paper("lookahead", h, [4.0], [[1.0]] * 2)[1][0]) == 3.0
    h["outer"] = optax.sgd(0.7, momentum=0.9, nesterov=True)
    _, second, _, fourth = run_paper("lookahead", h, [4.0], [[1.0]] * 4)
    assert float(second[0]) == pytest.approx(4 - 0.7 * 1.9 * 2)
    # The trace is 2 and then .9 · 2 + 2.
    assert float((fourth - second)[0]) == pytest.approx(-0.7 * (2 + 0.9 * 3.8))


def test_mars_adds_the_difference_of_gradients_and_cuts_it():
    """γ β₁ / (1 − β₁) = 1: c = .25, then .5 + .25; then 3 + 2.5, cut to 1."""
    h = {"learning_rate": 1.0, "b1": 0.5, "b2": 0.5, "eps": 0.0, "gamma": 1.0}
    found = np.ravel(run_paper("mars", h, [0.0], [[0.25], [0.5], [3.0]]))
    m = v = 0.0
    for t, c in enumerate([0.25, 0.75, 1.0], 1):
        m, v = (m + c) / 2, (v + c * c) / 2
        step = m / (1 - 0.5**t) / (v / (1 - 0.5**t)) ** 0.5
        assert found[t - 1] - (found[t - 2] if t > 1 else 0) == pytest.approx(-step)


def test_adam_mini_has_a_second_moment_for_each_output():
    """The first step is g over the root of a column's mean square; a vector is one block."""
    h = {"learning_rate": 1.0, "eps": 0.0}
    (found,) = run_paper("adam_mini", h, np.zeros((2, 2)), [[[3.0, 1.0], [4.0, 1.0]]])
    np.testing.assert_allclose(found, -np.array([[3.0, 1.0], [4.0, 1.0]]) / [12.5**0.5, 1.0])
    (found,) = run_paper("adam_mini", h, np.zeros(2), [[1.0, 7.0]])
    np.testing.assert_allclose(found, [-1 / 5, -7 / 5])


def test_scion_steps_by_the_norm_of_a_layer():
    """A vector of (3, 4) has the root mean square √12.5; a matrix Q S gets √(out/in) times Q."""
    h = {"learning_rate": 0.5, "beta": 0.0, "radius": 2.0}
    (found,) = run_paper("scion", h, [1.0, 1.0], [[3.0, 4.0]])
    np.testing.assert_allclose(found, 0.5 - 0.5 * 2.0 * np.array([3.0, 4.0]) / 12.5**0.5)
    h |= {"unconstrained": True}
    (found,) = run_paper("scion", h, np.zeros((1, 4)), [[[2.0, 2.0, -2.0, 2.0]]])
    # One singular value: the iteration from 1, five times, and √(4/1) of it.
    s = 1.0
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    np.testing.assert_allclose(found, -0.5 * 2.0 * 2.0 * s * np.array([[0.5, 0.5, -0.5, 0.5]]))
    # A convolution of 4 places and one channel: its kernel is a column, √(1/1) of it, over 4.
    (found,) = run_paper("scion", h, np.zeros((4, 1, 1)), [[[[2.0]], [[2.0]], [[-2.0]], [[2.0]]]])
    np.testing.assert_allclose(np.ravel(found), -0.25 * s * np.array([0.5, 0.5, -0.5, 0.5]))


def test_normuon_divides_columns_by_their_own_second_moment():
    """The first step is O over its columns' root mean squares, of root mean square 0.2."""
    h = {"learning_rate": 1.0, "b1": 0.0, "b2": 0.0, "eps": 0.0}
    g = np.array([[3.0, 0.1], [4.0, 0.1], [0.0, 0.3]])
    (found,) = run_paper("normuon", h, np.zeros((3, 2)), [g])
    assert np.sqrt(np.mean(found**2, axis=0)) == pytest.approx([0.2, 0.2])
    o = newton_schulz(g, [STANDARD] * 5, "frobenius", 0.0)
    np.testing.assert_allclose(found, -0.2 * o / np.sqrt(np.mean(o * o, axis=0)))


def test_shampoo_takes_roots_of_sums_for_each_axis():
    """The first step is U Sʰ Vᵀ with h = 1 − 4/4 = 0; a vector has full-matrix Adagrad's, −1/2."""
    h = {"learning_rate": 1.0, "epsilon": 1e-12}
    g = np.array([[3.0, 1.0], [-1.0, 2.0]])
    u, _, v = np.linalg.svd(g)
    (found,) = run_paper("shampoo", h, np.zeros((2, 2)), [g])
    np.testing.assert_allclose(found, -u @ v, rtol=1e-6)
    (found,) = run_paper("shampoo", h, np.zeros(2), [[3.0, 4.0]])
    np.testing.assert_allclose(found, [-0.6, -0.8], rtol=1e-6)
    (found,) = run_paper("shampoo", h | {"graft": "adagrad"}, np.zeros((2, 2)), [g])
    np.testing.assert_allclose(
        found, -u @ v * 2**0.5, rtol=1e-6
    )  # Adagrad's is sign(g), of length 2


def test_distributed_shampoo_corrects_averages_and_begins_late():
    """The first root is of g gᵀ, and a step is as long as Adam's, sign(g); before, it is Adam's."""
    h = {"learning_rate": 1.0, "epsilon": 1e-12, "b1": 0.5, "b2": 0.9, "graft": "adam"}
    h |= {"corrected": True}
    g = np.array([[3.0, 1.0], [-1.0, 2.0]])
    u, _, v = np.linalg.svd(g)
    (found,) = run_paper("shampoo", h, np.zeros((2, 2)), [g])
    np.testing.assert_allclose(found, -u @ v * 2**0.5, rtol=1e-6)
    early, late = run_paper("shampoo", h | {"start": 2}, np.zeros((2, 2)), [g, 3 * g])
    np.testing.assert_allclose(early, -np.sign(g), rtol=1e-6)
    # μ̂ is (.25 + 1.5) / .75 of g, ν̂ (.09 + .9) / .19 of its square; the root that of g gᵀ still.
    length = 2 * (1.75 / 0.75) / ((0.09 + 0.9) / 0.19) ** 0.5
    np.testing.assert_allclose(late - early, -u @ v * length / 2**0.5, rtol=1e-6)


def test_dion_feeds_back_what_it_leaves_over():
    """Rank 1 from the first input of a kernel [in, out] = [2, 3]: √(3/2) times two unit vectors."""
    g = np.array([[3.0, 4.0, 0.0], [1.0, 0.0, 5.0]])
    first = lambda shape, rank: np.eye(shape[0])[:, :rank]
    h = {"learning_rate": 1.0, "first": first, "b1": 0.5, "rank_fraction": 0.5}
    one, two = run_paper("dion", h, np.zeros((2, 3)), [g, np.zeros((2, 3))])
    left = np.array([0.6, 0.8, 0.0])
    right = g @ left  # (5, .6)
    unit = right / np.linalg.norm(right)
    np.testing.assert_allclose(one, -(1.5**0.5) * np.outer(unit, left))
    # Half of this part is left of the momentum, and all of the rest.
    b = g - 0.5 * np.outer(right, left)
    left = b.T @ unit / np.linalg.norm(b.T @ unit)
    unit = b @ left / np.linalg.norm(b @ left)
    np.testing.assert_allclose(two - one, -(1.5**0.5) * np.outer(unit, left))
    with pytest.raises(ValueError, match=r"needs first.*hyperparams=\{'first'"):
        oracle_for("dion", {})


def test_kron_fits_its_factors_to_the_gradient_and_to_noise():
    """A scalar 2 and v = 3: q² = 1/2 at first, then q grows by 1 + .1 (9 − 1)/(9 + 1)."""
    h = {"learning_rate": 1.0, "draw": lambda t, shape: np.full(shape, 3.0)}
    (found,) = run_paper("kron", h, [0.0], [[2.0]])
    np.testing.assert_allclose(found, -(1.08**2))
    # A column (3, 4), v = 0: A is Q₁ g √q₂, and triu(A Aᵀ) / ‖A Aᵀ‖ = [[9, 12], [0, 16]] / 25.
    h["draw"] = lambda t, shape: np.zeros(shape)
    g = np.array([[3.0], [4.0]])
    (found,) = run_paper("kron", h, np.zeros((2, 1)), [g])
    q = np.eye(2) - 0.1 * np.array([[9.0, 12.0], [0.0, 16.0]]) / 25
    # P = Q₁ᵀQ₁ q₂² over the root mean square √12.5, and q₂ has shrunk by a tenth.
    np.testing.assert_allclose(found, -(q.T @ q @ g) * 0.9**2 / 12.5**0.5)


def test_soap_is_the_reference_of_ours():
    h = {"learning_rate": 1e-2, "precondition_frequency": 3}
    make = lambda: tt.soap(1e-2, precondition_frequency=3)
    laws.check(make, like="soap", hyperparams=h, laws=["oracle"], examples=2).raise_for_failures()
