"""What processes ask each other, with the other one's answers made up."""

import json
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import trainkit
from trainkit import distributed
from trainkit._core import processes
from trainkit.loop.hooks import agreed
from trainkit.loop.interrupts import Interrupts
from trainkit.loop.saved.info import can_be_checked


@pytest.fixture
def other(monkeypatch):
    """Makes this process 0 of two; the other one answers what the list says, or the same."""
    answers = []

    def all_gather(row):
        size, text = row[:4].view(np.uint32)[0], row[4:]
        own = json.loads(text[:size].tobytes())
        theirs = json.dumps(answers.pop(0)(own) if answers else own).encode()
        assert len(theirs) <= len(text)
        head = np.array([len(theirs)], np.uint32).view(np.uint8)
        return np.stack([row, np.concatenate([head, processes._padded(theirs, len(text))])])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_all_gather", all_gather)
    return answers


def test_one_that_is_alone_asks_nobody(monkeypatch):
    monkeypatch.setattr(processes, "_all_gather", None)
    assert processes.gathered("x") == ["x"]
    assert processes.together(lambda: 3) == 3
    processes.same({"seed": 1}, "")
    processes.same_leaves({"w": np.ones(2)}, "state", "")
    assert Interrupts().agree(2.0) == 2.0


def test_long_answers_go_round_too(monkeypatch):
    rows = []
    monkeypatch.setattr(jax, "process_count", lambda: 1 + bool(rows is not None))
    monkeypatch.setattr(processes, "_all_gather", lambda row: rows.append(row) or row[None])
    assert processes.gathered("é" * 500) == ["é" * 500]
    assert [len(row) for row in rows] == [256, 4096]


def test_what_differs_is_named(other):
    other.append(lambda own: {**own, "seed": 2})
    with pytest.raises(processes.ProcessError, match="seed is 1 in process 0, but 2 in process 1"):
        processes.same({"seed": 1, "size": 3}, "give the same.")


def test_states_of_different_seeds_are_refused(other):
    other.append(lambda own: dict.fromkeys(own, "another"))
    with pytest.raises(processes.ProcessError, match=r"state/rng is .* but \"another\" in process"):
        processes.same_leaves({"rng": jax.random.key(0)}, "state", "the same seed.")


def test_where_one_fails_all_fail(other):
    other.append(lambda own: "OSError: the disk is full")
    with pytest.raises(OSError, match="Process 1 of 2 failed: OSError: the disk is full"):
        processes.together(lambda: 3, OSError)
    with pytest.raises(ZeroDivisionError):  # one's own error is what it was
        processes.together(lambda: 1 / 0)


def test_lists_of_different_length_are_refused(other):
    other += [lambda own: own, lambda own: True]
    items = processes.in_step(["a"], "batches")
    assert next(items) == "a"
    with pytest.raises(processes.ProcessError, match="process 0 has 1 batches, process 1 more"):
        next(items)


def test_a_signal_to_another_process_is_this_ones_wish(other):
    with Interrupts() as interrupts:
        other.append(lambda own: ["SIGTERM", *own[1:]])
        assert interrupts.wish is None
        interrupts.agree(1.0)
        assert (interrupts.wish, interrupts.received) == ("SIGTERM", None)


def test_ones_own_signal_waits_until_all_know(other):
    with Interrupts() as interrupts:
        interrupts.agree(1.0)
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.wish is None
        for _ in range(3):  # they ask after one step, two, four, … at most
            interrupts.agree(2.0)
        assert interrupts.wish == "SIGTERM"


def test_the_time_is_that_of_the_first_process(other):
    interrupts = Interrupts()
    other.append(lambda own: [None, 99.0, 1])
    assert interrupts.agree(1.0) == 1.0


def test_waiting_is_not_broken_off_in_one_of_several(other):
    with Interrupts() as interrupts, interrupts.awaited():
        signal.raise_signal(signal.SIGTERM)  # alone, this raises `Waited`
    assert interrupts.received == "SIGTERM"


def test_a_hook_of_one_stops_all(other):
    other.append(lambda own: "enough")
    assert agreed((lambda now: None,), None) == "enough"


def test_hooks_that_decide_alike_ask_nobody(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_all_gather", None)
    hook = type("Alike", (), {"alike": True})()
    assert agreed((hook,), "why") == "why"


def test_a_launched_process_that_knows_of_no_other_is_refused(monkeypatch):
    monkeypatch.setenv(processes.LAUNCHED, "2")
    with pytest.raises(processes.ProcessError, match=r"trainkit\.distributed\.initialize\(\)"):
        trainkit.make_eval_step(lambda *_: None, placement="single")


def test_devices_are_taken_of_every_process(monkeypatch):
    from trainkit.placement.base import choose_devices

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        jax, "local_devices", lambda process: jax.devices()[4 * process : 4 * process + 4]
    )
    assert [d.id for d in choose_devices(4)] == [0, 1, 4, 5]
    with pytest.raises(ValueError, match="use 2"):
        choose_devices(3)


def test_a_mesh_without_devices_of_a_process_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    with pytest.raises(ValueError, match="no device of process 1"):
        trainkit.placement.resolve(mesh)


def test_digests_of_parts_cut_otherwise_cannot_be_checked_in_place():
    class Halves:
        is_fully_addressable = False

        def devices_indices_map(self, shape):
            half = shape[0] // 2
            return {0: (slice(None, half),), 1: (slice(half, None),)}

    shape = SimpleNamespace(shape=(4,), sharding=Halves())
    assert can_be_checked(shape, {"0:2": "", "2:4": ""})
    assert not can_be_checked(shape, {"0:4": ""})
    assert can_be_checked(jax.ShapeDtypeStruct((4,), "float32"), {"0:3": ""})


def test_the_death_of_another_is_said_in_words():
    error = RuntimeError("Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:1")
    assert "another process of this run has ended" in processes.explain(error)
    assert processes.explain(RuntimeError("mine")) is None


def test_without_a_cluster_there_is_one_process(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    distributed.initialize()
    with pytest.raises(ValueError, match="should be defined"):
        distributed.initialize(processes=2)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(ValueError, match="should be defined"):
        distributed.initialize()


def test_too_late_to_join_matters_only_where_there_are_others():
    jax.devices()
    distributed.initialize()
    with pytest.raises(RuntimeError, match="before any JAX calls"):
        distributed.initialize("localhost:1", 2, 0)
