"""Growing without a stall: what is left for the loop's own thread, and the certificates."""

import json
import shutil
import threading
import time
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import trainkit
import trainkit.progressive.run as run_module
from tests.progressive import tiny
from trainkit.data import Sampler
from trainkit.growth.views.certificate import Certificate
from trainkit.loop.stopping import Budget
from trainkit.progressive import Price, Stage, triggers
from trainkit.progressive.background import Background
from trainkit.progressive.hook import Growing
from trainkit.progressive.stage_sequence import StageSequence
from trainkit.progressive.stages.pace import LeafPace
from trainkit.progressive.transition.switch import Transition

TWO = [Stage(4, triggers.steps(10)), Stage(8)]


class Waiting:
    """A hook that lets the background finish, and notes what the loop's own thread traced.

    Attributes:
      traced: step -> programs traced, lowered or compiled in the main thread by then.
    """

    def __init__(self, monkeypatch):
        self.traced, self.growing = {}, None
        self._seen = []
        make = run_module.Growing

        def growing(*args, **options):
            self.growing = make(*args, **options)
            return self.growing

        monkeypatch.setattr(run_module, "Growing", growing)

    def listen(self, event, seconds, **_):
        if event.startswith("/jax/core/compile/"):
            self._seen.append((event, threading.current_thread() is threading.main_thread()))

    def __call__(self, now):
        if now.steps == 2 and self.growing.background.enabled:
            self.growing.background.get(self.growing.stages.next[0])
        self.traced[now.steps] = sum(main for _, main in self._seen)


@pytest.fixture
def waiting(monkeypatch):
    hook = Waiting(monkeypatch)
    jax.monitoring.register_event_duration_secs_listener(hook.listen)
    yield hook
    jax.monitoring.unregister_event_duration_listener(hook.listen)


@pytest.mark.parametrize("ahead", [True, False])
def test_the_loop_traces_and_compiles_nothing_when_it_grows(waiting, ahead):
    result = tiny.run(TWO, steps=20, decay=0.0, hooks=[waiting], ahead=ahead)
    (growth,) = tiny.events(result, "growth")
    # From before the growth at step 10 until after the first step of the grown model.
    assert growth["compiled_ahead"] is ahead
    if ahead:
        assert waiting.traced[11] == waiting.traced[9]
        assert waiting.traced[15] == waiting.traced[9]
    else:
        assert waiting.traced[11] > waiting.traced[9]  # the listener hears what there is to hear
    assert result.prepared.step.compiles == 1


@pytest.mark.parametrize(
    "placement",
    [
        "fsdp",
        "pmap",
        pytest.param("jit", marks=pytest.mark.slow),
        pytest.param("shard_map", marks=pytest.mark.slow),
    ],
)
def test_on_several_devices_too_the_loop_traces_and_compiles_nothing(waiting, placement):
    # Nothing is run ahead there, because two threads' collectives could wait for each other.
    result = tiny.run(
        TWO, steps=14, decay=0.0, eval_every=100, hooks=[waiting], placement=placement
    )
    (growth,) = tiny.events(result, "growth")
    assert growth["compiled_ahead"]
    assert waiting.traced[11] == waiting.traced[9]
    assert result.prepared.step.compiles == 1


def test_a_stage_can_last_until_the_next_is_compiled(monkeypatch):
    compiled = threading.Event()
    monkeypatch.setattr(Transition, "rehearse", lambda self: compiled.wait(60) and self)
    steps = []

    def hook(now):
        steps.append(now.steps)
        if now.steps == 15:
            compiled.set()
        return time.sleep(0.05) if now.steps >= 15 else None  # so that the other thread gets to it

    result = tiny.run(TWO, steps=200, decay=0.0, eval_every=100, hooks=[hook], wait=False)
    (growth,) = tiny.events(result, "growth")
    # The trigger fired at step 10, when nothing could have been ready.
    assert 15 <= growth["step"] < 200
    assert growth["compiled_ahead"]
    assert growth["reason"] == "10 steps"
    assert steps == list(range(200))  # no step waited for it


def test_a_run_that_is_resumed_remembers_that_a_stage_is_over(monkeypatch, tmp_path):
    from trainkit.loop.hooks import Change

    options = {"steps": 30, "eval_every": 5, "wait": False, "out": tmp_path / "run"}
    options |= {"config": {}, "report": False, "decay": 0.0}
    once = triggers.reaches("loss", 1e9)  # fires at the first evaluation
    stages = [Stage(4, once), Stage(8)]
    with monkeypatch.context() as patch:
        patch.setattr(StageSequence, "prepared", property(lambda self: False))
        stop = lambda now: Change(stop="stopped") if now.steps == 12 else None
        first = tiny.run(stages, hooks=[stop], **options)
    assert not tiny.events(first, "growth")
    resumed = tiny.run(stages, **options)
    assert tiny.events(resumed, "growth")[0]["step"] >= 10


def test_nothing_begins_in_the_background_before_the_first_step_of_the_grown_model_is_done():
    class Step:
        ready = False

        def is_ready(self):
            return self.ready

        def is_deleted(self):
            return False

    first, begun = Step(), []
    levels = [[SimpleNamespace(stage=Stage(4))]]
    sequence = StageSequence(levels, {}, Background(enabled=False), None, Price())
    growing = Growing(sequence, Budget(), target=None, decay=0.0, wait=True)
    growing._after_first_step = [lambda: begun.append("certificate")]
    for step in (first, Step(), Step()):  # of the first step, the second, the third
        growing._start_deferred(SimpleNamespace(step=step))
    assert not begun
    first.ready = True
    growing._start_deferred(SimpleNamespace(step=Step()))
    growing._start_deferred(SimpleNamespace(step=Step()))
    assert begun == ["certificate"]


def test_no_stage_can_last_until_what_is_never_compiled_ahead():
    with pytest.raises(ValueError, match=r"wait=False.*needs ahead=True"):
        tiny.run(TWO, steps=20, ahead=False, wait=False)


class MLP(nn.Module):
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, bias_init=nn.initializers.normal(0.1))(x))
        return nn.Dense(tiny.CLASSES)(x)


def linen(stages, **options):
    return trainkit.progressive.progressive(
        stages,
        lambda m: trainkit.from_linen(
            m, optax.softmax_cross_entropy_with_integer_labels, inputs=lambda b: b["x"]
        ),
        optax.adam(1e-2),
        Sampler(tiny.arrays(), 16),
        tiny.parts(tiny.arrays(64, seed=1), 16),
        **{"steps": 12, "eval_every": 4, "progress": False, "report": False, **options},
    )


@pytest.mark.parametrize(
    "options",
    [{"donate": True}, {"placement": "fsdp"}],
    ids=["donated", "sharded"],
)
def test_every_growth_has_its_whole_certificate(options, tmp_path):
    options = dict(options)
    placement = options.pop("placement", "single")
    out = tmp_path / "run"
    stages = [Stage(MLP((4,)), triggers.steps(4)), Stage(MLP((8, 8)), name="two layers")]
    result = linen(stages, options=options, placement=placement, out=out)
    (growth,) = tiny.events(result, "growth")
    found = dict(growth["certificate"])
    assert found.pop("loss_after") == pytest.approx(found.pop("loss_before"), rel=1e-5)
    certificate = Certificate.from_json(json.dumps(found))
    # Rounding of float32 in some tens of operations.
    assert certificate.forward_error["float32"] < 1e-5
    assert certificate.gradient_residual < 1e-5
    counts = lambda h: sum(a * b + b for a, b in zip((6, *h), (*h, 3), strict=True))
    assert certificate.parameters == (counts((4,)), counts((8, 8)))
    assert certificate.replica_distance is not None
    assert set(certificate.new_layers) == {"Dense_1/bias", "Dense_1/kernel"}
    assert certificate.dead == ()
    assert growth["compiled_ahead"] in (True, False)
    # And a checkpoint holds it.
    checkpoints = trainkit.checkpoint.Checkpointer(out / "checkpoints")
    saved = checkpoints.info(12)["hooks"]["Growing"]["history"]
    assert [e["certificate"] for e in saved if e["event"] == "growth"] == [growth["certificate"]]


def test_a_checkpoint_waits_for_no_certificate_and_one_that_is_missing_is_made_again(
    monkeypatch, tmp_path
):
    from trainkit.loop.hooks import Change

    out, done = tmp_path / "run", threading.Event()
    whole = Transition.certificate
    stages = [Stage(MLP((4,)), triggers.steps(4)), Stage(MLP((8,)))]

    def stop(now):
        if now.steps == 10:
            done.set()
            return Change(stop="stopped")
        return None

    with monkeypatch.context() as patch:
        patch.setattr(Transition, "certificate", lambda *args: done.wait(60) and whole(*args))
        options = {"config": {}, "out": out, "steps": 16}
        stopped = linen(stages, hooks=[stop], **options)
    assert "warnings" in tiny.events(stopped, "growth")[0]["certificate"]  # it came in the end
    info = trainkit.checkpoint.Checkpointer(out / "checkpoints").info(8)
    (saved,) = [e for e in info["hooks"]["Growing"]["history"] if e["event"] == "growth"]
    assert saved["certificate"] == {"pending": True}
    shutil.rmtree(out / "checkpoints" / "10")  # as if it had been killed before the last one
    resumed = linen(stages, **options)
    (growth,) = tiny.events(resumed, "growth")
    assert growth["certificate"]["forward_error"]["float32"] < 1e-5
    assert "computed on an initial state" in growth["certificate"]["warnings"][-1]


class Scanned(nn.Module):
    """Layers that are stacked in one array."""

    width: int
    layers: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        layers = nn.scan(
            Residual, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers
        )
        return nn.Dense(tiny.CLASSES)(layers(self.width)(x, None)[0])


class Residual(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, _):
        h = nn.gelu(nn.Dense(2 * self.width, bias_init=nn.initializers.normal(0.1))(x))
        return x + nn.Dense(self.width)(h), None


def test_layers_under_a_scan_grow_in_number_and_width():
    stages = [Stage(Scanned(4, 2), triggers.steps(4)), Stage(Scanned(8, 3), rewarm=4)]
    result = linen(stages, decay=0.0)
    (growth,) = tiny.events(result, "growth")
    assert growth["exact"]
    # Rounding of float32 in some hundreds of operations.
    assert growth["certificate"]["forward_error"]["float32"] < 1e-5
    shapes = {x.shape for x in jax.tree.leaves(result.state.params) if x.ndim == 3}
    assert shapes == {(3, 8, 16), (3, 16, 8)}
    assert result.fit.steps == 12


def test_a_growth_can_go_without_a_certificate():
    result = linen([Stage(MLP((4,)), triggers.steps(4)), Stage(MLP((8,)))], certify=False)
    assert tiny.events(result, "growth")[0]["certificate"] == {}


def test_a_certificate_that_cannot_be_made_ends_no_run(monkeypatch):
    import trainkit.growth.views.certify as module

    def fail(*_):
        raise MemoryError("out of memory")

    monkeypatch.setattr(module, "certify", fail)
    result = linen([Stage(MLP((4,)), triggers.steps(4)), Stage(MLP((8,)))])
    (warning,) = tiny.events(result, "growth")[0]["certificate"]["warnings"]
    assert "out of memory" in warning
    assert result.fit.steps == 12


def test_rehearsing_changes_nothing(monkeypatch):
    stages = [Stage(MLP((4,)), triggers.steps(4)), Stage(MLP((8,)))]
    rehearsed = linen(stages, certify=False)
    monkeypatch.setattr(Transition, "rehearse", lambda self: self)
    plain = linen(stages, certify=False)
    for a, b in zip(
        jax.tree.leaves(rehearsed.state.params), jax.tree.leaves(plain.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert rehearsed.ledger == plain.ledger


def test_leaves_keep_the_rates_of_the_maximal_update_parametrisation_over_several_growths():
    stages = [
        Stage(MLP((4,)), triggers.steps(2)),
        Stage(MLP((8,)), triggers.steps(2), mup="adam"),
        Stage(MLP((8, 8)), triggers.steps(2), rewarm=5),  # keeps what leaves have
        Stage(MLP((16, 16)), mup="adam", anneal=10),
    ]
    result = linen(stages, steps=8, decay=0.0, certify=False)
    leaves = jax.tree.map(LeafPace.of, result.state.opt_state.leaves)
    at = lambda field: jax.tree.map(
        lambda leaf: float(getattr(leaf, field)), leaves, is_leaf=lambda x: isinstance(x, LeafPace)
    )
    target = at("target")
    # Fan-in that doubled twice, and once for the layer that came in between; inputs and biases 1.
    kernels = {name: leaf["kernel"] for name, leaf in target.items()}
    assert kernels == {"Dense_0": 1.0, "Dense_1": 0.5, "Dense_2": 0.25}
    assert all(leaf["bias"] == 1.0 for leaf in target.values())
    # At first the rate of exact continuation: what was there, times the weight's factor.
    start = at("start")
    assert start["Dense_2"]["kernel"] == 0.25
    assert start["Dense_1"]["kernel"] == 0.5
