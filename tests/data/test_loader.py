"""Batches as others make them: passes, places, and runs that go on as if nothing had been."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from trainkit.data import Sampler
from trainkit.data.loader import Loader, Place, decoded, encoded

ROWS = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
BATCHES = [ROWS[i : i + 4] for i in range(0, 24, 4)]  # six


class WithState:
    """As PyTorch's StatefulDataLoader, or streamed data: the state is the loader's."""

    def __init__(self):
        self.epoch, self.at, self.drawn = 0, 0, 0

    def set_epoch(self, epoch):
        self.epoch, self.at = epoch, self.at if epoch == self.epoch else 0

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(6)
        while self.at < 6:
            self.at += 1
            self.drawn += 1
            yield {"x": BATCHES[order[self.at - 1]]}

    def state_dict(self):
        return {"at": (self.at, b"bytes"), "epoch": np.int64(self.epoch)}

    def load_state_dict(self, state):
        self.at, self.epoch = state["at"][0], int(state["epoch"])
        assert state["at"][1] == b"bytes"


class OfIterator:
    """As Grain: the state is the iterator's."""

    def __init__(self):
        self.drawn = 0

    def __iter__(self):
        return Iterating(self)


class Iterating:
    def __init__(self, source):
        self.source, self.at = source, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == 6:
            raise StopIteration
        self.at, self.source.drawn = self.at + 1, self.source.drawn + 1
        return {"x": BATCHES[self.at - 1]}

    def get_state(self):
        return json.dumps({"at": self.at}).encode()

    def set_state(self, state):
        self.at = json.loads(state)["at"]


class Counted:
    """As PyTorch's DataLoader: no state."""

    def __init__(self, count=6):
        self.drawn, self.count = 0, count

    def __len__(self):
        return self.count

    def __iter__(self):
        for batch in BATCHES[: self.count]:
            self.drawn += 1
            yield {"x": batch}


def generator():
    for _ in range(5):
        yield from ({"x": batch} for batch in BATCHES)


def fit(data, **options):
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch["x"] - params["mean"]) ** 2).sum(), batch["x"].shape[0])

    tx = optax.adam(0.1)
    step = trainkit.make_train_step(loss_fn, tx)
    state = trainkit.TrainState.create({"mean": jnp.zeros(3)}, tx)
    options = {"progress": False, "report": False} | options
    return trainkit.fit(step, state, data, **options)


def interrupt(now):
    if now.steps == 9:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("make", "drawn"),
    [(WithState, 11), (OfIterator, 11), (Counted, 15), (generator, None)],
)
def test_a_run_goes_on_exactly_over_any_data(tmp_path, capsys, make, drawn):
    want = fit(make(), steps=19)
    stopped = fit(make(), steps=19, out=tmp_path, hooks=[interrupt])
    assert stopped.steps == 10
    data = make()
    found = fit(data, steps=19, out=tmp_path, progress=True)
    assert found.steps == 19
    assert (found.state.params["mean"] == want.state.params["mean"]).all()
    assert found.epochs == want.epochs
    counted = make in (Counted, generator)
    assert ("batches were drawn again and left out" in capsys.readouterr().out) == counted
    if drawn:  # the nine that are trained on, one read ahead, the first, and what is left out
        assert data.drawn == drawn


def test_epochs_of_a_list_are_counted_and_evaluated(tmp_path):
    evaluations = []
    result = fit(
        BATCHES_OF_X, epochs=2.5, evaluate=lambda s: evaluations.append(int(s.step)) or {"loss": 1}
    )
    assert (result.stopped, result.steps, result.epochs) == ("epochs=2.5 reached", 15, 2.5)
    assert evaluations == [6, 12, 15]
    same = fit(Sampler({"x": ROWS}, 4, shuffle=False), epochs=2.5)
    assert (same.state.params["mean"] == result.state.params["mean"]).all()


BATCHES_OF_X = [{"x": batch} for batch in BATCHES]


def test_epochs_of_unknown_length_are_whole_ones():
    result = fit(OfIterator(), epochs=2)
    assert (result.stopped, result.steps, result.epochs) == ("epochs=2 reached", 12, 2.0)
    with pytest.raises(ValueError, match=r"epochs=1.5 needs data whose length is known; OfIter"):
        fit(OfIterator(), epochs=1.5)
    with pytest.raises(ValueError, match=r"epochs=2 needs data that can be gone over again"):
        fit(generator(), epochs=2)


def test_without_a_budget_data_are_gone_over_once():
    assert (fit(BATCHES_OF_X).stopped, fit(Counted()).steps) == ("the data ended", 6)
    assert fit(generator()).steps == 30
    with pytest.raises(ValueError, match="data must give batches, but there is none"):
        fit([], steps=3)


def test_data_that_end_too_early_are_named(tmp_path):
    fit(generator(), steps=9, out=tmp_path)
    with pytest.raises(ValueError, match="data ends before the 9 batches that the run had taken"):
        fit(iter(BATCHES_OF_X), steps=12, out=tmp_path)
    with pytest.raises(trainkit.checkpoint.CheckpointError, match="size"):
        fit(Counted(5), steps=12, out=tmp_path)


def test_a_finished_run_may_have_more_epochs(tmp_path):
    fit(OfIterator(), epochs=1, out=tmp_path)
    assert fit(OfIterator(), epochs=1, out=tmp_path).steps == 6
    result = fit(OfIterator(), epochs=3, out=tmp_path)
    assert (result.steps, result.epochs) == (18, 3.0)
    want = fit(OfIterator(), epochs=3)
    assert (result.state.params["mean"] == want.state.params["mean"]).all()


def test_a_second_fit_takes_an_iterator_with_a_state_where_the_first_left_it():
    iterator = iter(OfIterator())
    fit(iterator, steps=2)
    rest = Loader(iterator)
    assert fit(iterator, steps=2).steps == 2
    assert [next(rest)["x"].tolist() for _ in range(2)] == [b.tolist() for b in BATCHES[4:]]


class Tensor:
    """What other libraries have for an array."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, "torch.float32"

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_tensors_and_lists_of_numbers_are_arrays_in_training_and_in_evaluation():
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss((batch["x"] * params["mean"]).sum(), batch["x"].shape[0])

    evaluate = trainkit.make_eval_step(loss_fn)
    state = trainkit.TrainState.create({"mean": jnp.ones(3)}, optax.sgd(0.1))
    of = lambda change: [{"x": change(batch)} for batch in BATCHES]
    want = evaluate.over(state, of(lambda batch: batch))
    assert evaluate.over(state, of(Tensor)) == want
    assert evaluate.over(state, of(np.ndarray.tolist)) == pytest.approx(want)
    assert fit(of(Tensor)).metrics["loss"] == fit(of(np.copy)).metrics["loss"]
    used_up = iter(of(Tensor))
    evaluate.over(state, used_up)
    with pytest.raises(ValueError, match="no batch to evaluate on; of a generator"):
        evaluate.over(state, used_up)


def test_each_process_has_the_state_of_its_own_loader(monkeypatch):
    from trainkit.loop import stream

    place = Place(1, 2, 2, {"at": 3})
    monkeypatch.setattr(stream, "gathered", lambda state: [state, {"at": 4}])
    saved = json.loads(json.dumps(stream.saved_place(place)))
    with pytest.raises(trainkit.checkpoint.CheckpointError, match="each of 2 processes, and there"):
        stream.place_of(saved, like=Place())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert stream.place_of(saved, like=Place()) == place._replace(state={"at": 4})


def test_a_state_survives_json():
    state = {"a": [1, (2.5, None)], 3: b"\x00\xff", "c": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    again = decoded(json.loads(json.dumps(encoded(state))))
    assert again.keys() == state.keys()
    assert (again["a"], again[3]) == (state["a"], state[3])
    assert (again["c"] == state["c"]).all()
    assert again["c"].dtype == np.uint8
    with pytest.raises(TypeError, match=r"the state of data has <object .* in it"):
        encoded({"a": object()})


# -- the real ones, where they are installed -----------------------------------------------------


def grain_batches():
    grain = pytest.importorskip("grain")
    data = grain.MapDataset.source(ROWS).seed(3).shuffle().map(lambda row: {"x": row}).batch(4)
    return data.to_iter_dataset()


def torch_loader(stateful=False):
    torch = pytest.importorskip("torch")
    if stateful:
        make = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    else:
        make = torch.utils.data.DataLoader
    torch.manual_seed(0)
    rows = [{"x": torch.from_numpy(row)} for row in ROWS]
    return make(rows, batch_size=4, shuffle=stateful)


def hugging_face():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"x": ROWS}).to_iterable_dataset(num_shards=2)
    return data.batch(4)  # a buffer of `shuffle` is not in its state, as its documentation says


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make", [grain_batches, torch_loader, lambda: torch_loader(True), hugging_face]
)
def test_runs_over_real_loaders_go_on_exactly(tmp_path, make):
    want = fit(make(), epochs=3)
    assert (want.steps, want.epochs) == (18, 3.0)
    assert fit(make(), epochs=3, out=tmp_path, hooks=[interrupt]).steps == 10
    found = fit(make(), epochs=3, out=tmp_path)
    assert (found.steps, found.epochs) == (18, 3.0)
    assert (found.state.params["mean"] == want.state.params["mean"]).all()


@pytest.mark.filterwarnings("ignore")
def test_a_sampler_takes_a_hugging_face_data_set():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"x": ROWS})
    batch = next(Sampler(data, 4, shuffle=False))
    np.testing.assert_allclose(batch["x"], ROWS[:4], rtol=1e-6)
