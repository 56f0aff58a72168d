"""A sampler's batches are a pure function of its seed and position."""

import collections

import jax
import numpy as np
import pytest

from trainkit.data import Position, Prefetch, Sampler
from trainkit.data.sampler import epoch_order

N = 23
DATA = {"x": np.arange(N), "y": (10 * np.arange(N), np.arange(2 * N).reshape(N, 2))}


def draw(sampler, count):
    return [next(sampler) for _ in range(count)]


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_an_epoch_shows_every_example_at_most_once_and_leaves_are_in_step():
    sampler = Sampler(DATA, 4, seed=7)
    batches = draw(sampler, sampler.steps_per_epoch)
    assert sampler.steps_per_epoch == 5
    seen = np.concatenate([batch["x"] for batch in batches])
    assert len(set(seen)) == 20
    for batch in batches:
        np.testing.assert_array_equal(batch["y"][0], 10 * batch["x"])
        np.testing.assert_array_equal(batch["y"][1][:, 0], 2 * batch["x"])


def test_every_example_is_drawn_about_equally_often_over_epochs():
    sampler = Sampler(np.arange(N), 4, seed=0)
    counts = collections.Counter(np.concatenate(draw(sampler, 5 * 400)).tolist())
    # Each is in 400 · 20/23 = 348 of 400 epochs; the spread is sqrt(400 · .87 · .13) = 6.7.
    assert set(counts) == set(range(N))
    assert all(abs(count - 348) < 6 * 6.7 for count in counts.values())


def test_seeds_and_epochs_differ_and_repeat():
    orders = {(s, e): tuple(epoch_order(s, e, 50)) for s in range(4) for e in range(4)}
    assert len(set(orders.values())) == 16
    assert orders[2, 3] == tuple(epoch_order(2, 3, 50))
    assert_same(draw(Sampler(DATA, 4, seed=5), 12), draw(Sampler(DATA, 4, seed=5), 12))


def test_the_epoch_counts_up_with_its_last_batch():
    sampler = Sampler(DATA, 4)
    places = [sampler.position] + [(next(sampler), sampler.position)[1] for _ in range(6)]
    assert places == [(0, 0), (0, 4), (0, 8), (0, 12), (0, 16), (1, 0), (1, 4)]


@pytest.mark.parametrize("drawn", range(12))
def test_a_restored_position_goes_on_exactly_there(drawn):
    sampler = Sampler(DATA, 4, seed=3)
    draw(sampler, drawn)
    position = sampler.position
    rest = draw(sampler, 8)
    other = Sampler(DATA, 4, seed=3)
    draw(other, 2)  # wherever it was before
    other.restore(tuple(position))
    assert_same(draw(other, 8), rest)


def test_without_shuffling_the_order_is_the_datas_own():
    batches = draw(Sampler(np.arange(N), 5, shuffle=False), 5)
    np.testing.assert_array_equal(np.concatenate(batches[:4]), np.arange(20))
    np.testing.assert_array_equal(batches[4], np.arange(5))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_draw_what_one_alone_would(count):
    alone = Sampler(DATA, 8, seed=2)
    parts = [Sampler(DATA, 8, seed=2, process_index=i, process_count=count) for i in range(count)]
    for _ in range(7):
        whole = next(alone)
        together = [next(part) for part in parts]
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *together)
        jax.tree.map(np.testing.assert_array_equal, joined, whole)
        assert {part.position for part in parts} == {alone.position}


@pytest.mark.parametrize("size", [0, 1, 3, 9])
def test_looking_ahead_changes_neither_batches_nor_position(size):
    plain = Sampler(DATA, 4, seed=1)
    ahead = Prefetch(Sampler(DATA, 4, seed=1), jax.device_put, size)
    assert ahead.position == plain.position == (0, 0)
    for _ in range(11):
        batch = next(ahead)
        assert isinstance(batch["x"], jax.Array)
        jax.tree.map(np.testing.assert_array_equal, batch, next(plain))
        assert ahead.position == plain.position
    place = ahead.position
    expected = draw(plain, 4)
    draw(ahead, 3)
    ahead.restore(place)
    assert ahead.position == place
    assert_same(draw(ahead, 4), expected)


def test_a_prefetched_stream_that_ends_gives_its_last_batch():
    assert list(Prefetch(iter([1, 2, 3]), lambda x: 2 * x, size=2)) == [2, 4, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, not 0"),
        ({"batch_size": 24}, "batch_size=24 must be from 1 to the number of examples, 23"),
        ({"batch_size": 6, "process_index": 0, "process_count": 4}, "4 processes; use 8"),
        (
            {"batch_size": 4, "process_index": 4, "process_count": 4},
            "process_index must be below process_count=4, not 4",
        ),
        ({"batch_size": 4, "seed": -1}, "seed must be an integer of at least 0, not -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampler(DATA, **arguments)


def test_uneven_leaves_are_named():
    with pytest.raises(ValueError, match="data/y has 3 examples on its axis 0, but data/x has 4"):
        Sampler({"x": np.zeros(4), "y": np.zeros((3, 2))}, 2)
    with pytest.raises(ValueError, match=r"data/y has shape \(\)"):
        Sampler({"x": np.zeros(4), "y": np.float32(1)}, 2)
    with pytest.raises(ValueError, match="no arrays"):
        Sampler({}, 2)


def test_a_position_of_other_data_is_refused():
    sampler = Sampler(DATA, 4)
    with pytest.raises(ValueError, match=r"offset=40.*23 examples"):
        sampler.restore(Position(0, 40))
