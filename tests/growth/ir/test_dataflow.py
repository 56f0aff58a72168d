"""The driver of facts: loops to a fixpoint, branches joined, and nothing known of the unknown."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.growth.ir.unknown import called_back, strange
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import Lattice, dependent, run
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Folder

X = jnp.ones(3)
TOP = 99


def doubled(equation, facts):
    """How often a value was doubled: at most 5 times, then unknown."""
    if equation.name == "add":
        return max(facts) + 1 if max(facts) < 5 else TOP
    return facts[0] if traits(equation).linear.of(facts) else TOP


DOUBLED = Lattice(
    top=TOP,
    join=max,
    constant=lambda v: 0 if isinstance(v, Const) else None,
    transfer=doubled,
    row=lambda fact: fact + 10,
    stacked=lambda fact: fact + 20,
    chosen=lambda decides, result: TOP if decides else result,
)


def flat(fn, *args):
    return Folder().flatten(jax.make_jaxpr(fn)(*args))


def results(fn, inputs, *args, lattice=DOUBLED):
    program = flat(fn, *args)
    facts = run(program, inputs, lattice)
    return [facts.of(v) for v in program.outs]


def test_from_operands_to_results_and_constants():
    assert results(lambda x, y: ((x + x) + 1, y, jnp.ones(2)), [0, 3], X, X) == [2, 3, 0]


@pytest.mark.parametrize("fn", [strange, called_back])
def test_what_no_lattice_knows_is_at_the_top(fn):
    assert results(lambda x: fn(x) + x, [1], X) == [TOP]


def test_branches_are_joined_and_decided():
    fn = lambda i, x, y: lax.cond(i, lambda x, y: x + x, lambda x, y: -y, x, y)
    assert results(fn, [0, 0, 3], True, X, X) == [3]
    assert results(fn, [0, 4, 3], True, X, X) == [5]
    assert results(fn, [1, 0, 3], True, X, X) == [TOP]


def test_a_scan_takes_rows_and_stacks_results():
    fn = lambda x, xs: lax.scan(lambda c, x: (-c, -x), x, xs)
    assert results(fn, [3, 1], X, jnp.ones((4, 3))) == [3, 31]


def test_what_a_loop_carries_holds_in_every_iteration():
    # The second takes on the first's fact in the second iteration, the third in the third.
    rotate = lambda a, b, c: lax.scan(lambda s, _: ((-s[0], s[0], s[1]), -s[2]), (a, b, c), None, 2)
    first, second = results(rotate, [4, 0, 0], X, X, X)[:3], results(rotate, [4, 0, 0], X, X, X)[3]
    assert first == [4, 4, 4]
    assert second == 24
    grows = lambda x: lax.scan(lambda c, _: (c + c, None), x, None, 3)[0]
    assert results(grows, [0], X) == [TOP]


def test_a_scan_of_no_iterations_gives_what_goes_in():
    assert results(lambda x: lax.scan(lambda c, _: (c + c, None), x, None, 0)[0], [3], X) == [3]


def test_a_while_loop_stops_by_what_its_condition_depends_on():
    fn = lambda n, x: lax.while_loop(lambda s: s[0][0] > 0, lambda s: (-s[0], -s[1]), (n, x))
    assert results(fn, [0, 3], X, X) == [TOP, TOP]  # nothing is known of a comparison
    fixed = lambda x: lax.fori_loop(0, 3, lambda i, x: -x, x)  # of a length that is known: a scan
    assert results(fixed, [3], X) == [3]


def test_loops_in_loops():
    inner = lambda c, _: (lax.scan(lambda c, _: (c + c, None), c, None, 2)[0], None)
    assert results(lambda x: lax.scan(inner, x, None, 2)[0], [0], X) == [TOP]
    still = lambda c, _: (lax.fori_loop(0, 2, lambda i, c: -c, c), None)
    assert results(lambda x: lax.scan(still, x, None, 2)[0], [2], X) == [2]


def test_loops_may_be_equations_like_others():
    closed = Lattice(TOP, max, DOUBLED.constant, DOUBLED.transfer, enters=False)
    fn = lambda x: lax.scan(lambda c, _: (-c, None), x, None, 2)[0]
    assert results(fn, [1], X) == [1]
    assert results(fn, [1], X, lattice=closed) == [TOP]


def test_a_value_that_the_program_has_not_is_unknown():
    program, other = (flat(lambda x: x + x, X) for _ in range(2))
    facts = run(program, [0], DOUBLED)
    assert (facts.of(program.outs[0]), facts.of(other.outs[0])) == (1, TOP)


@pytest.mark.parametrize("fn", [strange, called_back, jnp.sinh], ids=["ours", "callback", "sinh"])
def test_results_depend_on_all_operands_of_what_is_unknown(fn):
    def model(x, y):
        return fn(x), fn(y), x + y, lax.cond(y[0] > 0, jnp.sin, jnp.cos, x)

    program = flat(model, X, X)
    facts = dependent(program, {1})
    assert [facts.of(v) for v in program.outs] == [False, True, True, True]


def test_what_a_loop_stops_by_is_depended_on():
    fn = lambda n, x: lax.while_loop(lambda s: s[1] < n, lambda s: (-s[0], s[1] + 1), (x, 0))
    program = flat(fn, 3, X)
    assert [dependent(program, {0}).of(v) for v in program.outs] == [True, True]
    assert [dependent(program, {1}).of(v) for v in program.outs] == [True, False]
