"""Schedules against their formulas, at their boundaries, and at the ends of int32."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import schedules as sc
from trainkit import transforms as tt

LAST = 2**31 - 1


def cosine(a, b, s):
    return b + (a - b) * (1 + math.cos(math.pi * min(max(s, 0), 1))) / 2


# name -> (schedule, its formula in float64)
FORMULAS = {
    "constant": (sc.constant(0.3), lambda t: 0.3),
    "exponential": (
        sc.exponential(0.3, 0.9, 7, end=0.01),
        lambda t: max(0.01, 0.3 * 0.9 ** (t / 7)),
    ),
    "growing": (
        sc.exponential(0.1, 2.0, 7, end=5.0),
        lambda t: min(5.0, 0.1 * 2 ** min(t / 7, 99)),
    ),
    "staircase": (
        sc.exponential(0.3, 0.5, 7, staircase=True),
        lambda t: 0.3 * 0.5 ** (t // 7),
    ),
    "step": (sc.step(0.3, 0.1, 30), lambda t: 0.3 * 0.1 ** (t // 30)),
    "multi-step": (
        sc.multi_step(0.3, [10, 25], 0.1),
        lambda t: 0.3 * 0.1 ** ((t >= 10) + (t >= 25)),
    ),
    "piecewise": (
        sc.piecewise_constant([10, 25], [0.3, 0.5, 0.1]),
        lambda t: [0.3, 0.5, 0.1][(t >= 10) + (t >= 25)],
    ),
    "polynomial": (
        sc.polynomial(0.3, 0.1, 20, power=1.5, begin=5),
        lambda t: 0.1 + 0.2 * (1 - min(max((t - 5) / 20, 0), 1)) ** 1.5,
    ),
    "root": (sc.polynomial(0.3, 0.0, 20, power=0.5), lambda t: 0.3 * (1 - min(t / 20, 1)) ** 0.5),
    "linear": (sc.linear(0.3, 0.1, 20), lambda t: 0.3 - 0.2 * min(t / 20, 1)),
    "inverse time": (sc.inverse_time(0.3, 20), lambda t: 0.3 / (1 + t / 20)),
    "inverse root": (sc.inverse_sqrt(0.3, 20), lambda t: 0.3 / math.sqrt(1 + t / 20)),
    "dynamic": (sc.dynamic(0.3), lambda t: 0.3 / (1 + math.sqrt(t))),
    "cosine": (sc.cosine(0.3, 40, 0.1), lambda t: cosine(0.3, 0.1, t / 40)),
    "restarts": (
        sc.cosine_restarts(0.3, 20, factor=0.5),
        lambda t: cosine(0.3 * 0.5 ** (t // 20), 0, (t % 20) / 20),
    ),
    "restarts to an end": (
        sc.cosine_restarts(0.3, 20, factor=0.5, end=0.05),
        lambda t: cosine(max(0.3 * 0.5 ** (t // 20), 0.05), 0.05, (t % 20) / 20),
    ),
    "warm-up": (
        sc.warmup(sc.cosine(0.3, 40), 10),
        lambda t: 0.3 * t / 10 if t < 10 else cosine(0.3, 0, (t - 10) / 40),
    ),
    "wsd": (
        sc.wsd(0.3, warmup=10, decay=20, decay_start=60),
        lambda t: 0.3 * min(t / 10, 1) * (1 - min(max((t - 60) / 20, 0), 1)),
    ),
    "wsd, sqrt": (
        sc.wsd(0.3, decay=20, decay_start=60, end=0.1, shape="sqrt"),
        lambda t: 0.1 + 0.2 * (1 - math.sqrt(min(max((t - 60) / 20, 0), 1))),
    ),
    "wsd, not yet": (sc.wsd(0.3, warmup=10, decay=20), lambda t: 0.3 * min(t / 10, 1)),
    "wsd, from above": (
        sc.wsd(0.3, warmup=10, decay=20, decay_start=60, init=1.5),
        lambda t: 1.5 - 0.12 * t if t < 10 else 0.3 * (1 - min(max((t - 60) / 20, 0), 1)),
    ),
    "warm-up, from above": (
        sc.warmup(0.3, 10, init=1.5),
        lambda t: 1.5 - 1.2 * min(t / 10, 1),
    ),
    "one cycle, from above": (
        sc.one_cycle(0.3, 100, shape="linear", div=0.5, final_div=1.0),
        lambda t: 0.6 - 0.3 * t / 30 if t <= 30 else 0.3 + 0.3 * (min(t, 100) - 30) / 70,
    ),
    "one cycle": (
        sc.one_cycle(0.3, 100, warmup_fraction=0.3, div=10, final_div=100),
        lambda t: cosine(0.03, 0.3, t / 30) if t <= 30 else cosine(0.3, 0.0003, (t - 30) / 70),
    ),
    "one cycle of lines": (
        sc.one_cycle(0.3, 100, shape="linear", div=10, final_div=100),
        lambda t: 0.03 + 0.27 * t / 30 if t <= 30 else 0.3 - 0.2997 * min((t - 30) / 70, 1),
    ),
    "joined": (
        sc.join([sc.linear(0.0, 0.3, 10), 0.3, sc.cosine(0.3, 20)], [10, 50]),
        lambda t: 0.03 * t if t < 10 else 0.3 if t < 50 else cosine(0.3, 0, (t - 50) / 20),
    ),
    "scaled": (
        sc.scale(sc.linear(0.3, 0.1, 20), sc.inverse_time(2.0, 5)),
        lambda t: (0.3 - 0.2 * min(t / 20, 1)) * 2 / (1 + t / 5),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    """To 1e-6 of the largest value: float32 keeps 6e-8, and a schedule takes a few operations."""
    schedule, formula = FORMULAS[name]
    t = np.arange(130, dtype=np.int32)
    expected = np.array([formula(int(i)) for i in t])
    found = jax.jit(jax.vmap(schedule))(t)
    assert found.dtype == jnp.float32
    assert np.abs(np.asarray(found, np.float64) - expected).max() <= 1e-6 * expected.max()


@pytest.mark.parametrize("name", FORMULAS)
def test_every_kind_of_step_gives_the_same(name):
    schedule, _formula = FORMULAS[name]
    jitted = jax.jit(schedule)
    for t in (0, 9, 10, 60):
        values = [
            schedule(t),
            schedule(np.int64(t)) if t else schedule(np.int16(t)),
            schedule(jnp.asarray(t, jnp.int32)),
            jitted(jnp.asarray(t, jnp.int32)),
        ]
        assert all(v.shape == () and v.dtype == jnp.float32 for v in values)
        # Compiled code fuses what eager code rounds in between.
        assert np.ptp([float(v) for v in values]) <= 2e-7


@pytest.mark.parametrize("name", FORMULAS)
def test_safe_at_the_largest_int32(name):
    schedule, formula = FORMULAS[name]
    jitted = jax.jit(schedule)
    for t in (LAST, LAST - 1, 2**30):
        for value in (schedule(jnp.int32(t)), jitted(jnp.int32(t))):
            assert math.isfinite(float(value))
            assert float(value) >= 0
            if "restarts" not in name:  # whose phase is checked below, in integers
                assert float(value) == pytest.approx(formula(t), rel=1e-5, abs=1e-7)


def test_float64_where_it_is_asked_for(x64):
    value = sc.cosine(0.3, 40, 0.1)(jnp.int32(13))
    assert value.dtype == jnp.float64
    assert float(value) == pytest.approx(cosine(0.3, 0.1, 13 / 40), abs=1e-15)


def test_restarts_come_at_their_step_for_ever():
    schedule = jax.jit(sc.cosine_restarts(1.0, 10, growth=2))
    start, size = 0, 10
    while start + size <= LAST:
        assert float(schedule(jnp.int32(start))) == 1.0
        before = float(schedule(jnp.int32(start + size - 1)))
        assert before == pytest.approx(cosine(1, 0, (size - 1) / size), abs=1e-6)
        start, size = start + size, size * 2
    even = jax.jit(sc.cosine_restarts(1.0, 1000))
    assert float(even(jnp.int32(2_147_483_000))) == 1.0


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (sc.cosine(1.0, 1), [0, 1], [1, 0]),
        (sc.linear(1.0, 0.0, 1), [0, 1], [1, 0]),
        (sc.warmup(1.0, 0), [0], [1]),
        (sc.warmup(1.0, 1), [0, 1], [0, 1]),
        (sc.one_cycle(1.0, 10, warmup_fraction=0.0, div=1.0, final_div=4.0), [0, 10], [1, 0.25]),
        (sc.one_cycle(1.0, 10, warmup_fraction=1.0, div=4.0), [0, 10], [0.25, 1]),
        (sc.wsd(1.0, decay=1, decay_start=0), [0, 1], [1, 0]),
        (sc.wsd(1.0, decay=LAST, decay_start=LAST), [LAST], [1]),
        (sc.cosine_restarts(1.0, 1), [0, 1, 2], [1, 1, 1]),
    ],
)
def test_edges(schedule, steps, expected):
    found = [float(jax.jit(schedule)(jnp.int32(t))) for t in steps]
    assert found == pytest.approx(expected, abs=1e-7)


def test_the_decay_of_wsd_moves_while_it_runs():
    schedule = jax.jit(sc.wsd(1.0, warmup=10, decay=10))
    assert float(schedule(500)) == 1.0
    assert float(schedule(505, decay_start=500)) == pytest.approx(0.5)
    assert float(schedule(505, decay_start=LAST)) == 1.0
    assert schedule._cache_size() == 2  # with the argument and without it, not once a value


def test_the_decay_of_wsd_moves_in_a_live_state():
    tx = tt.named(opt=tt.sgd(sc.wsd(1.0, decay=4)))
    params = {"w": jnp.ones(2)}
    state, update = tx.init(params), jax.jit(tx.update)

    def rates(state, n):
        out = []
        for _ in range(n):
            _, state = update(params, state)
            out.append(float(tt.get(state, "learning_rate")))
        return out, state

    first, state = rates(state, 3)
    assert first == [1, 1, 1]
    state = tt.set(state, "decay_start", 4)  # begin to decay at step 4, two from now
    second, state = rates(state, 4)
    assert second == pytest.approx([1, 1, 0.75, 0.5])
    third, _ = rates(tt.set(state, "decay_start", 1000), 2)  # extended after all
    assert third == [1, 1]
    assert update._cache_size() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sc.constant(-1.0), "init.*-1"),
        (lambda: sc.cosine(math.nan, 10), "init.*nan"),
        (lambda: sc.cosine(math.inf, 10), "init.*inf"),
        (lambda: sc.cosine(1.0, 0), "steps.*at least 1"),
        (lambda: sc.linear(1.0, 0.0, 0), "steps"),
        (lambda: sc.exponential(1.0, 0.9, 0), "steps"),
        (lambda: sc.exponential(1.0, 1.1), "end"),
        (lambda: sc.exponential(1.0, 0.0), "rate"),
        (lambda: sc.step(1.0, 0.1, 0), "every"),
        (lambda: sc.wsd(1.0, decay=0), "decay"),
        (lambda: sc.wsd(1.0, warmup=10, decay=5, decay_start=3), "out of order"),
        (lambda: sc.wsd(1.0, decay=5, shape="cubic"), "cubic"),
        (lambda: sc.one_cycle(1.0, 0), "steps"),
        (lambda: sc.one_cycle(1.0, 10, warmup_fraction=1.5), "warmup_fraction"),
        (lambda: sc.warmup(1.0, -1), "steps"),
        (lambda: sc.cosine(1.0, 2**31), "int32"),
        (lambda: sc.cosine(1.0, 10.5), "integer of at least 1"),
        (lambda: sc.piecewise_constant([20, 10], [1, 2, 3]), "10 follows 20"),
        (lambda: sc.piecewise_constant([10, 10], [1, 2, 3]), "10 follows 10"),
        (lambda: sc.piecewise_constant([10], [1.0]), "need 2 values"),
        (lambda: sc.multi_step(1.0, [30, 10]), "10 follows 30"),
        (lambda: sc.join([1.0, 2.0, 3.0], [20, 10]), "10 follows 20"),
        (lambda: sc.join([1.0, 2.0], [10, 20]), "need 1 boundaries"),
        (lambda: sc.join([], []), "at least one"),
        (lambda: sc.scale(1.0, -2.0), "-2"),
        (lambda: sc.plot(sc.constant(1.0), 0), "steps"),
        (lambda: sc.reduce_on_plateau(factor=1.0), "factor"),
        (lambda: sc.reduce_on_plateau(patience=0), "patience"),
        (lambda: sc.reduce_on_plateau(mode="up"), "mode"),
        (lambda: sc.early_stopping(min_delta=-1.0), "min_delta"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_step_must_be_an_integer():
    with pytest.raises(TypeError, match="integer step"):
        sc.cosine(1.0, 10)(2.5)


def test_plot_draws_and_saves(tmp_path):
    axes = sc.plot({"a": sc.cosine(1.0, 50), "b": sc.constant(0.5)}, 60, path=tmp_path / "s.png")
    a, b = axes.get_lines()
    assert len(a.get_xdata()) == 60
    assert a.get_ydata()[25] == pytest.approx(0.5, abs=1e-6)
    assert set(b.get_ydata()) == {0.5}
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert len(sc.plot([sc.constant(1.0)] * 3, 10).get_lines()) == 3
