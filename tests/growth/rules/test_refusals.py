"""Every place in the rules that refuses has a case that reaches it, and says what it refuses."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from jax import lax

from tests.growth.rules import row_cases, symbol_cases
from tests.growth.rules.axis_specs import DOUBLE, Leaf, Sum
from tests.growth.rules.contraction_cases import in_batch_groups
from tests.growth.rules.harness import Case, Operand, claimed, refusal, settle
from tests.growth.rules.refusal_cases import GROWN, PADDED
from tests.growth.rules.refusal_sites import lines, reached
from tests.growth.rules.test_rules import CASES
from tests.growth.rules.test_unknown import called_back, on_one_device, ours
from tests.growth.rules.top_k_cases import EXPERTS, REFUSED, weighed
from trainkit import growth
from trainkit.growth.analysis.joint_program import Rule
from trainkit.growth.analysis.scales.index_maps import ANY, Group, move
from trainkit.growth.rules import RULES, elementwise

pytestmark = pytest.mark.usefixtures("x64")
FOUR, WINDOW = Leaf("four", 4, 8), Leaf("window", 3, 5)
INT = np.int32


def both(fn):
    return fn, fn


def remainders(divisor):
    return lambda x: lax.rem(x, np.full((3, 1), divisor, INT))


def convolved(groups=1, pad=(1, 1)):
    return lambda x, k: lax.conv_general_dilated(
        x, k, (1,), [pad], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )


CONTRACTED = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
BATCHED = lax.RaggedDotDimensionNumbers((((2,), (2,)), ((0,), (0,))), [1], [1])
SIZES = Operand((2,), lambda rng, shape: [1, 3], "same", INT)
MORE_SIZES = Operand((Leaf("groups", 2, 4),), lambda rng, shape: [1, 3], "plain", INT)


def ragged(numbers):
    return lambda a, b, sizes: lax.ragged_dot_general(a, b, sizes, numbers)


def applied(fn):
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0,))
    return lambda x, i: lax.scatter_apply(
        x, i, fn, numbers, update_shape=(2, 2), mode="clip")  # fmt: skip


def written(x, i, u):
    numbers = lax.ScatterDimensionNumbers((0, 1), (), (0,))
    return lax.scatter(x, i, u, numbers, mode="clip")


def rows_added(x, i, u):
    return lax.scatter_add(x, i, u, lax.ScatterDimensionNumbers((1,), (0,), (0,)), mode="clip")


def callback(n):
    shape = jax.ShapeDtypeStruct((n,), np.float64)
    return lambda x: jax.pure_callback(lambda v: np.zeros(n), shape, x, vmap_method="sequential")


INDEX = Operand((2, 1), lambda rng, shape: [[0], [1]], "same", INT)
ROWS = Operand((Sum((DOUBLE, 1)), 1), lambda rng, shape: np.zeros(shape), "plain", INT)
# The small function, the big one, their operands, and what the refusal says.
REFUSALS = {
    "batch groups": (
        *both(in_batch_groups), [(4, 4, DOUBLE), (3, DOUBLE, 4)], "with batch groups"
    ),
    "places": (*both(convolved()), [(2, FOUR, 2), (3, 2, 2)], "runs over an axis"),
    "kernel without padding": (*both(convolved()), [(2, 4, 2), (WINDOW, 2, 2)], "taps would move"),
    "fewer channels a group": (
        convolved(2), convolved(4), [(2, 4, FOUR), (3, 2, 4)], "has fewer channels"
    ),
    "fewer groups": (
        convolved(4), convolved(2), [(2, 4, 4), (3, Leaf("one", 1, 2), 4)], "fewer groups"
    ),
    "groups of sums": (
        *both(ragged(CONTRACTED)), [(4, DOUBLE), (4, 3), SIZES], "contraction of this kind"
    ),
    "rows in groups": (*both(lax.ragged_dot), [(FOUR, 2), (2, 2, 3), SIZES], "rows of a ragged"),
    "matrices of groups": (
        *both(lax.ragged_dot), [(4, 2), (Leaf("groups", 2, 4), 2, 3), MORE_SIZES], "the groups of a"
    ),
    "group sizes grow": (
        *both(ragged(BATCHED)),
        [(DOUBLE, 4, 2), (DOUBLE, 2, 2, 3),
         Operand((DOUBLE, 2), lambda rng, shape: [[1, 3]] * 2, "plain", INT)],
        "group sizes grow",
    ),
    "lengths of a scan": (
        *both(lambda x: lax.scan(lambda c, row: (c + row, None), 0.0, x)[0]), [(DOUBLE,)],
        "a scan runs 2 and 4 times",
    ),
    "no rule": (*both(called_back), [(DOUBLE,)], "has no growth rule"),
    "no rule, results": (callback(2), callback(4), [(2,)], "the result of `pure_callback` grows"),
    "bodies": (
        partial(on_one_device, factor=2.0), partial(on_one_device, factor=3.0), [(2,)],
        "bodies of `shard_map` differ",
    ),
    "a new primitive": (*both(ours.bind), [(DOUBLE,)], "the primitive `ours` has no growth rule"),
    "segments added": (
        *both(rows_added), [(3, 2), ROWS, (Sum((DOUBLE, 1)), 2)],
        "different numbers of copies",
    ),
    "an update that grows": (
        *both(lambda x, u: lax.dynamic_update_slice(x, u, (0,))), [(3,), (Leaf("u", 2, 3),)],
        "part of an axis that grows is overwritten",
    ),
    "a part that grows": (
        *both(written), [(3, 2), Operand((1,), lambda rng, shape: [0], "same", INT),
                         (Leaf("u", 1, 2), 2)],
        "writes part of an axis",
    ),
    "functions applied": (
        applied(lax.cos), applied(lax.sin), [(2, 2), INDEX], "update functions"
    ),
    "other numbers": (
        lambda x: x.astype(INT), lambda x: x.astype(np.float32), [(DOUBLE,)],
        "values become int32 in the small model and float32 in the big one",
    ),
    "another remainder": (
        remainders(5), remainders(7),
        [Operand((3, 1), lambda rng, shape: [[6], [8], [2]], "same", INT)],
        "remainders are taken by 5 in the small model and by 7 in the big one",
    ),
    "a shorter slice": (
        lambda x: lax.slice(x, (0,), (2,)), lambda x: lax.slice(x, (0,), (1,)), [(DOUBLE,)],
        "a slice is shorter",
    ),
    "fewer tiles": (
        lambda x: jnp.tile(x, 4), lambda x: jnp.tile(x, 2), [(DOUBLE,)], "fewer repeats"
    ),
    "a factor that shrinks": (
        lambda x: x.reshape(2, 2), lambda x: x.reshape(1, 8), [(FOUR,)], "a factor shrinks"
    ),
    "more parts": (
        lambda x: lax.split(x, [2, 2], 0), lambda x: lax.split(x, [2] * 4, 0), [(FOUR,)],
        "into 2 parts in the small model and into 4"
    ),
    "divided in two ways": (
        *both(lambda x: (x.reshape(-1, 2), x.reshape(2, -1))), [(Leaf("ten", 6, 10),)],
        "the axes 3→5·2 and 2·3→5 must be equal here",
    ),
    "nothing to reshape": (
        *both(lambda x: x.reshape(0, 5)), [(0, 3)], "splits axes differently"
    ),
    "broadcast in one program": (
        *both(lambda x: lax.broadcast_in_dim(x, (3, 2), (1,))), [(Leaf("one", 1, 2),)],
        "broadcast in only one",
    ),
}  # fmt: skip


ALL = {
    ("repeat", name): entry
    for table in (REFUSALS, GROWN, row_cases.REFUSED)
    for name, entry in table.items()
} | {("append", name): entry for name, entry in PADDED.items()}  # fmt: skip


def case(layout: str, name: str, seed: int = 0) -> Case:
    small, big, operands, _ = ALL[layout, name]
    operands = tuple(o if isinstance(o, Operand) else Operand(o) for o in operands)
    return Case(small, big, operands, seed, (layout,))


@pytest.mark.parametrize(("layout", "name"), list(ALL))
def test_refused(layout, name):
    for seed in range(4 if layout == "append" else 1):  # of some seeds operands are known positive
        error = refusal(case(layout, name, seed))
        assert ALL[layout, name][3] in str(error)
        assert error.primitive


def anywhere(scales, pair):
    move(scales, pair, pair.outs[0], [(pair.ins[0], [Group((0,), (0,), ANY)])])


def test_elements_that_may_go_anywhere_along_an_axis_that_grows_are_refused():
    """Also if a rule forgets to refuse the axis: its copies could become those of other units."""
    rules = RULES | {"neg": Rule(elementwise.axes, anywhere)}
    one = lambda axis: Case(*both(lax.neg), (Operand((axis,)),), 0, ("repeat",))
    assert "axis that grows is indexed by unknown values" in str(settle(one(DOUBLE), rules).refused)
    assert settle(one(3), rules).refused is None


def hot(n, values, indices, dtype=None):
    return jax.nn.one_hot(indices, n, dtype=dtype or values.dtype)


def number(fn):
    """Of an index into experts, given how many there are."""
    return lambda n, values, indices: fn(n, indices)


def in_parts(n, values, indices):
    index = jnp.concatenate([indices[..., None], jnp.zeros_like(indices)[..., None]], 0)
    numbers = lax.GatherDimensionNumbers((), (0,), (0,))
    return lax.gather(jnp.zeros(n), index, numbers, (1,), mode="clip")


def not_collapsed(n, values, indices, y):
    numbers = lax.GatherDimensionNumbers((2,), (), (0,))
    return lax.gather(y, indices[..., None], numbers, (1,), mode="fill")


def not_inserted(n, values, indices):
    numbers = lax.ScatterDimensionNumbers((2,), (), (0,))
    return lax.scatter(
        jnp.zeros(n), indices[..., None], values[..., None], numbers, mode="clip")  # fmt: skip


def of_two_choices(n, values, indices, y):
    other = lax.top_k(y, indices.shape[1])[1]
    return hot(n, values, indices) + hot(n, values, other)


# Padding units of an axis that is summed over must hold numbers: 0 times another is none.
LOGARITHM = Case(
    *both(lambda x, w: jnp.log(x) @ w),
    (Operand((3, DOUBLE), "positive"), Operand((DOUBLE, 2))),
    0,
    ("append",),
)


def test_padding_units_that_are_summed_over_enter_no_logarithm():
    assert "would enter `log`" in str(refusal(LOGARITHM))


# What reads the indices of top_k, and must not.
READERS = {
    "compared with a number": number(lambda n, i: i < 1),
    "a table of indices": number(lambda n, i: i[jnp.array([1, 0])]),
    "parts elsewhere": in_parts,
    "two of them": number(lambda n, i: i + i),
    "bounded, not within": number(lambda n, i: jnp.clip(i + n, 0, n - 1)),
    "bounded below a copy": number(lambda n, i: jnp.clip(i, 0, n - 1 - n // 6)),
    "bounded from one": number(lambda n, i: lax.max(i, jnp.ones_like(i))),
    "put together": number(lambda n, i: jnp.concatenate([i, jnp.zeros_like(i)], 1)),
    "as numbers": number(lambda n, i: i.astype(np.float64)),
    "equal to a number": number(lambda n, i: i == 1),
    "a slice of entries": not_collapsed,
    "greater": number(lambda n, i: i > n // 3),
    "written as a slice": not_inserted,
    "one of two": number(lambda n, i: lax.select(i < n // 3, i, jnp.zeros_like(i))),
    "from the end": number(lambda n, i: n - i),
    "some copies": number(lambda n, i: lax.slice(i, (0, 0), (2, 1))),
    "sums of counts": lambda n, v, i: jnp.sum(jnp.cumsum(hot(n, v, i), 1), 1),
    "two choices": of_two_choices,
    "matches and ones": lambda n, v, i: jnp.sum(hot(n, v, i) + 1.0, 1),
    "counts of counts": lambda n, v, i: jnp.cumsum(jnp.cumsum(hot(n, v, i), 1), 1),
    "products of matches": lambda n, v, i: jnp.einsum(
        "tke,tke->tk", hot(n, v, i), jnp.square(hot(n, v, i))),
    "the greatest of all": lambda n, v, i: jnp.max(hot(n, v, i), (1, 2)),
    "some of the matches": lambda n, v, i: hot(n, v, i)[:, :, : n // 3],
}  # fmt: skip


def chosen(fn) -> Case:
    more = fn in (not_collapsed, of_two_choices)
    axes = (EXPERTS,) if fn is not_collapsed else (2, EXPERTS)

    def at(n):
        return lambda x, *rest: fn(n, *lax.top_k(x, 2 * n // 3), *rest)

    operands = (Operand((2, EXPERTS)), *([Operand(axes)] if more else []))
    return Case(at(3), at(6), operands, 0, ("repeat",))


@pytest.mark.parametrize("name", READERS)
def test_indices_are_refused(name):
    error = str(refusal(chosen(READERS[name])))
    assert "several copies with different indices" in error or name == "some copies"


def test_a_product_may_keep_both_axes_of_a_match():
    at = lambda n: lambda x, *more: weighed(n, *lax.top_k(x, 2 * n // 3), *more)
    operands = tuple(map(Operand, ((2, EXPERTS), (2, 3), (EXPERTS,))))
    assert settle(Case(at(3), at(6), operands, 0, ("repeat",))).refused is None


# Cases of rules that are refused now and then, in one way or another.
DRAWN = [
    *((name, "") for name in
      ("scatter-mul", "top_k", "cholesky", "slice", "pad", "scan", "tan",
       "sqrt", "scatter-add", "dynamic_update_slice", "argmax", "reduce_prod", "reduce_and",
       "cumsum", "fft", "reduce_window_sum", "split")),
    ("triangular_solve", "left"),
    ("while", "looks"), ("gather", "fill"), ("gather", "clip, table that grows"),
    ("gather", "parts"), ("scatter", "parts"), ("scatter", "applied"),
]  # fmt: skip


@pytest.mark.parametrize("name", symbol_cases.USES)
def test_uses_of_symbols_that_depend_on_their_number(name):
    use, words = symbol_cases.USES[name]
    assert words in refused(lambda: symbol_cases.planned(use))


@pytest.mark.parametrize("name", symbol_cases.FEATURES)
def test_new_symbols_in_new_features_are_refused(name):
    refused(lambda: symbol_cases.planned(symbol_cases.FEATURES[name], wide=8))


def test_symbols_of_two_vocabularies_are_not_compared():
    assert "symbols of two inputs" in refused(symbol_cases.two_inputs)


def more_passes(outputs: bool):
    (small, shapes), (big, _) = (symbol_cases.passes(n, outputs=outputs) for n in (2, 4))
    return growth.plan(small, big, shapes, shapes, np.ones((2, 3)))


def refused(run) -> str:
    with pytest.raises(growth.GrowthError) as error:
        run()
    return str(error.value)


def reach(case: Case) -> None:
    claimed(case)


def test_every_refusal_is_reached():
    with reached() as seen:
        for layout, name in ALL:
            claimed(case(layout, name))
        claimed(LOGARITHM)
        for fn in READERS.values():
            claimed(chosen(fn))
        for strategy in (*(CASES[key] for key in DRAWN), *REFUSED.values()):
            limits = settings(
                max_examples=40, derandomize=True, database=None, deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            )  # fmt: skip
            limits(given(strategy)(reach))()
        for use, _ in symbol_cases.USES.values():
            refused(lambda use=use: symbol_cases.planned(use))
        for use in symbol_cases.FEATURES.values():
            refused(lambda use=use: symbol_cases.planned(use, wide=8))
        refused(symbol_cases.two_inputs)
        for outputs in (False, True):
            refused(lambda outputs=outputs: more_passes(outputs))
    missed = set(lines().values()) - seen
    assert not missed
