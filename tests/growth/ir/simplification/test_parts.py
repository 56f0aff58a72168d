"""Parts of a value that are put together again: the value, in its old order alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.simplification.partial_evaluation import reduced

X = jnp.arange(24.0).reshape(4, 6)
MASK = np.array([1.0, 0, 0, 1, 0, 1])
ORDER = np.array([3, 1, 0, 2, 5, 4])
BACK = np.argsort(ORDER)
join = jnp.concatenate


def simplified(fn, x=X):
    """Whether the result is known to be the argument."""
    program = Folder().flatten(jax.make_jaxpr(fn)(x))
    return reduced(program, {}).outs[0] is program.ins[0]


WHOLE = {
    "slices": lambda x: join([x[:, :2], x[:, 2:]], 1),
    "rows": lambda x: join([x[:1], x[1:3], x[3:]], 0),
    "a split": lambda x: join(jnp.split(x, [1, 4], 1), 1),
    "parts of parts": lambda x: join([x[:, :4][:, :1], x[:, :4][:, 1:], x[:, 4:]], 1),
    "joined in two steps": lambda x: join([x[:, :1], join([x[:, 1:4], x[:, 4:]], 1)], 1),
    "single columns": lambda x: jnp.stack([x[:, i] for i in range(6)], 1),
    "columns with their axis": lambda x: join([x[:, i][:, None] for i in range(6)], 1),
    "one column by a reshape": lambda x: join([x[:, :1].reshape(4).reshape(4, 1), x[:, 1:]], 1),
    "reversed twice": lambda x: x[:, ::-1][:, ::-1],
    "there and back": lambda x: x[:, ORDER][:, BACK],
    "taken there and back": lambda x: jnp.take(jnp.take(x, ORDER, 1), BACK, 1),
    "rolled and back": lambda x: jnp.roll(jnp.roll(x, 2, 1), -2, 1),
    "halves changed twice": lambda x: jnp.roll(join([x[:, 3:], x[:, :3]], 1), 3, 1),
    "even and odd, put back": lambda x: x.at[:, ::2].set(x[:, ::2]).at[:, 1::2].set(x[:, 1::2]),
    "a slice, put back": lambda x: x.at[:, 2:5].set(x[:, 2:5]),
    "masks": lambda x: x * MASK + (1 - MASK) * x,
    "a mask of booleans": lambda x: x * jnp.float32(MASK == 1) + x * jnp.float32(MASK != 1),
    "a choice": lambda x: jnp.where(MASK == 1, x, x * 1),
}
ANOTHER = {
    "another order": lambda x: join([x[:, 2:], x[:, :2]], 1),
    "another axis": lambda x: join([x[:2, :2], x[2:, :2]], 1).reshape(2, 4),
    "halves of rows as columns": lambda x: join([x[:2], x[2:]], 1).reshape(4, 6),
    "a missing part": lambda x: join([x[:, :2], x[:, 3:], x[:, :1]], 1),
    "a part twice": lambda x: join([x[:, :3], x[:, :3]], 1),
    "of another value": lambda x: join([x[:, :3], jnp.sin(x)[:, 3:]], 1),
    "a changed part": lambda x: join([x[:, :3], 2 * x[:, 3:]], 1),
    "every second column": lambda x: join([x[:, ::2], x[:, 1::2]], 1),
    "reversed": lambda x: x[:, ::-1],
    "reversed along two axes": lambda x: x[::-1][:, ::-1],
    "there and there": lambda x: x[:, ORDER][:, ORDER],
    "rolled": lambda x: jnp.roll(x, 1, 1),
    "columns in another order": lambda x: jnp.stack([x[:, i] for i in (1, 0, 2, 3, 4, 5)], 1),
    "columns as rows": lambda x: jnp.stack([x[:, i] for i in range(6)], 0).reshape(4, 6),
    "put elsewhere": lambda x: x.at[:, 1:4].set(x[:, 2:5]),
    "into another value": lambda x: jnp.cos(x).at[:, 2:5].set(x[:, 2:5]),
    "added": lambda x: x.at[:, 2:5].add(x[:, 2:5]),
    "one mask twice": lambda x: x * MASK + x * MASK,
    "masks that overlap": lambda x: x * MASK + x * jnp.ones(6),
    "a mask of other numbers": lambda x: x * (2 * MASK) + x * (1 - 2 * MASK),
    "masks of two values": lambda x: x * MASK + jnp.sin(x) * (1 - MASK),
    "a choice between two": lambda x: jnp.where(MASK == 1, x, -x),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_parts_in_their_places_are_the_value(name):
    np.testing.assert_array_equal(WHOLE[name](X), X)
    assert simplified(WHOLE[name])


@pytest.mark.parametrize("name", ANOTHER)
def test_other_values_are_not_simplified(name):
    assert not simplified(ANOTHER[name])


def moved(rng):
    """A random function that moves columns, and does so in a few steps."""
    fn = _all([_step(rng) for _ in range(rng.integers(1, 5))])
    if rng.integers(2):
        return fn
    back = np.argsort(np.asarray(fn(X[:1])[0]).astype(int))
    return _all([fn, lambda x: x[:, back]])


def _step(rng):
    cut, order = int(rng.integers(1, 6)), rng.permutation(6)
    steps = [
        lambda x: join([x[:, cut:], x[:, :cut]], 1),
        lambda x: join([x[:, :cut], x[:, cut:]], 1),
        lambda x: x[:, ::-1],
        lambda x: x[:, order],
        lambda x: x[:, ORDER],
        lambda x: x.at[:, :cut].set(x[:, ::-1][:, 6 - cut :][:, ::-1]),
    ]
    return steps[rng.integers(len(steps))]


def _all(steps):
    def run(x):
        for step in steps:
            x = step(x)
        return x

    return run


def test_columns_that_are_moved_at_random_are_the_value_if_and_only_if_all_are_back():
    rng, found = np.random.default_rng(0), []
    for _ in range(150):
        fn = moved(rng)
        same = bool((fn(X) == X).all())
        if simplified(fn):
            assert same
        found.append((same, simplified(fn)))
    assert sum(same for same, _ in found) > 40
    assert sum(not same for same, _ in found) > 40
    assert all(known for same, known in found if same)
