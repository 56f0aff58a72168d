"""The parts of a growing run by themselves."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit.adapters.model import Model
from trainkit.loop.stopping import Budget
from trainkit.progressive import Probe
from trainkit.progressive.background import Background
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.probe import Candidate, decide
from trainkit.progressive.stages.evaluation import Evaluation

LAYERS = 5


def scanned(layers):
    """Layers in a `lax.scan`, whose body XLA's own analysis counts once."""

    def init(rng, batch):
        return {"w": jax.random.normal(rng, (layers, 8, 8))}, {}

    def apply(params, model_state, inputs, rng, train):
        return jax.lax.scan(lambda x, w: (x @ w, None), inputs, params["w"])[0], model_state

    return Model(
        init, apply, optax.softmax_cross_entropy_with_integer_labels, lambda batch: batch["x"]
    )


def test_every_turn_of_a_loop_is_counted():
    batch = {"x": np.ones((16, 8), np.float32), "label": np.zeros(16, np.int32)}
    flops = []
    for layers in (LAYERS, 2 * LAYERS):
        model = scanned(layers)
        state = model.state(optax.sgd(0.1), batch)
        flops.append(Evaluation(model, [batch, batch], state).flops)
    # Two batches, each layer a product of 16 × 8 and 8 × 8.
    assert flops[1] - flops[0] == pytest.approx(2 * LAYERS * 2 * 16 * 8 * 8, rel=0.05)


def test_an_evaluation_weighs_uneven_batches_by_their_examples():
    model = scanned(1)
    x = np.random.default_rng(0).normal(size=(7, 8)).astype(np.float32)
    label = np.arange(7, dtype=np.int32)
    whole = {"x": x, "label": label}
    state = model.state(optax.sgd(0.1), whole)
    parts = [{k: v[:5] for k, v in whole.items()}, {k: v[5:] for k, v in whole.items()}]
    at_once, in_parts = (Evaluation(model, b, state)(state) for b in ([whole], parts))
    assert in_parts == pytest.approx(at_once, rel=1e-6)
    assert set(at_once) == {"loss", "accuracy"}


def test_what_is_made_ahead_is_made_once_in_another_thread():
    made = []
    with Background() as background:
        for _ in range(2):
            background.start("it", lambda: made.append(threading.current_thread().name) or "done")
        assert background.get("it") == background.get("it") == "done"
        assert background.ready("it")
    assert made == [name for name in made if name.startswith("trainkit-background")]
    assert len(made) == 1


def test_an_error_in_the_background_is_raised_where_it_is_needed():
    def fail():
        raise ValueError("no such model")

    with Background() as background:
        background.start("it", fail)
        with pytest.raises(ValueError, match="no such model"):
            background.get("it")


def test_without_working_ahead_things_are_made_when_asked_for():
    made = []
    background = Background(enabled=False)
    background.start("it", lambda: made.append(1))
    assert not made
    background.get("it")
    background.get("it")
    assert made == [1]


def test_the_ledger_adds_and_survives_json():
    ledger = Ledger().plus(train=2.0, analytic=3.0).plus(probe=1.0, growth=0.5)
    assert ledger.total == 3.5  # 6·N·D is an estimate beside it, and no cost
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_the_nearest_limit_is_named():
    used = {"steps": 5, "epochs": 0.5, "examples": 50, "flops": 9e9, "seconds": 1.0}
    assert Budget(steps=10, flops=1e10).nearest(used) == (0.9, "flops")
    assert Budget().nearest(used) == (0.0, None)


def candidate(kind, price=0.0):
    return Candidate(kind, None, -1, 1, 1.0, price)


@pytest.mark.parametrize(
    ("gain", "price", "grows"),
    [(0.5, 0.0, True), (0.5, 0.6, False), (-0.5, 0.0, False), (0.01, 0.0, False)],
    ids=["pays", "not worth its price", "is worse", "within chance"],
)
def test_growing_must_beat_not_growing_beyond_chance_and_price(gain, price, grows):
    stay = np.array([1.0, 1.2, 0.8, 1.0])
    # The same batches, so what varies between them is no error; what varies in the gain is.
    grown = stay - gain + np.array([0.03, -0.03, 0.03, -0.03])
    found = decide([candidate("stay"), candidate("grow", price)], [stay, grown], Probe())
    assert (found["best"] == 1) is grows
    assert found["candidates"][1]["gain"] == pytest.approx(gain - price)


def test_a_candidate_that_diverged_never_wins():
    stay, diverged = np.ones(4), np.full(4, np.nan)
    found = decide([candidate("stay"), candidate("grow")], [stay, diverged], Probe())
    assert found["best"] == 0


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"batches": 1}, {"lower": 1.0}, {"errors": -1.0}]
)
def test_bad_probes_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Probe(**options)


def test_certificates_on_the_device_do_not_reach_json():
    # `decide` gives plain numbers whatever it is given.
    losses = [np.asarray(jnp.ones(3), np.float64)] * 2
    found = decide([candidate("stay"), candidate("lower")], losses, Probe())
    assert type(found["candidates"][0]["loss"]) is float
