"""Mistakes with `fit`: options, hooks, evaluations, configurations, folders, checkpoints."""

from __future__ import annotations

import collections
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from benchmarks.reliability.mistakes import base
from benchmarks.reliability.mistakes.base import Mistake, Mistakes, batch, fit, nan, of_fit
from trainkit._core.run_files import read_metrics
from trainkit.loop.checkpoint import Checkpointer
from trainkit.loop.metrics_log import MetricsLog
from trainkit.loop.run_folder import RunFolder


def mistakes() -> Mistakes:
    return (
        _options() | _states() | _early() | _evaluations() | _hooks() | _configs() | _folders()
        | _checkpoints() | identities()
    )  # fmt: skip


def _options() -> Mistakes:
    options: dict[str, list[Any]] = {
        "steps": [0, -1, 2.5, "10", True, nan, [10], None],
        "epochs": [0, -1.0, "1", True, nan],
        "seconds": [0, "60", True, nan],
        "flops": [0, "1e9", True, nan],
        "eval_every": [0, -1, 1.5, "5", True],
        "checkpoint_every": [0, 1.5, "5", True],
        "log_every": [0, -1, 1.5, "5", True, None],
        "keep": [0, -1, 1.5, "2", True, None],
        "prefetch": [-1, 1.5, "2", True, None],
        "best_metric": [3, None, ("loss",)],
        "best_mode": ["least", None, True],
        "averages": ["yes", 1.5, None, -1],
        "overwrite": ["no", 1, None],
        "stop_nonfinite": ["no", 1, None],
        "progress": ["no", None],
        "report": ["no", None],
        "resume": ["yes", True, None, "new optimizer"],
        "config": ["mnist", 3, [("a", 1)]],
        "early_stopping": [3, "loss", True, trainkit.EarlyStopping],
        "evaluate": [3, "loss", {"loss": 1.0}],
        "hooks": [None, 3, "hook", [None], [3], {"a": 1}],
        "loggers": [None, 3, "wandb", ["wandb"], [None], [trainkit.loggers.Terminal], {"a": 1}],
        "data": [None, 3, "mnist", {"x": np.ones((8, 2))}],
        "step": [None, "step", 3],
        "state": [None, 3, {"w": np.ones(2)}],
    }
    found = {}
    for name, values in options.items():
        for value in values:
            says = (name, "TrainState.create" if name == "state" else "must be")
            if name == "steps" and value is None:
                says = ("steps=", "never end")
            found[f"fit({name}={base.shown(value)})"] = Mistake(of_fit(name, value), says)
    one = lambda now: None
    found["fit(hooks=one hook)"] = Mistake(of_fit("hooks", one), ("hooks", "list"))
    found["fit(loggers=one logger)"] = Mistake(
        of_fit("loggers", trainkit.loggers.Terminal()), ("loggers", "list")
    )
    short = type("Short", (), {"start": print, "log": lambda self, row: None, "close": print})
    for name, logger, method in (
        ("without close", type("Open", (), {"start": print, "log": print})(), "close"),
        ("that takes whole rows", short(), "log"),
    ):
        found[f"fit(a logger {name})"] = Mistake(
            of_fit("loggers", [logger]), ("loggers[0]", "must be", method)
        )
    for name, file in (
        ("CSV", "metrics.csv"), ("JSONL", "metrics.jsonl"), ("TensorBoard", "tensorboard"),
    ):  # fmt: skip
        found[f"fit({name} in the run's own file)"] = Mistake(
            lambda out, name=name, file=file: fit(
                out, loggers=[getattr(trainkit.loggers, name)(out / file)]
            ),
            ("loggers[0]", "must not"),
        )
        found[f"{name}(path=3)"] = Mistake(
            lambda out, name=name: getattr(trainkit.loggers, name)(3), ("path", "must be")
        )
    found |= base.of_options(
        "ReduceOnPlateau",
        lambda **o: trainkit.hooks.ReduceOnPlateau(**o),
        {
            "metric": [3, None],
            "patience": [0, 1.5, "3", True, None],
            "factor": [0.0, 1.0, 2.0, "0.1", nan],
            "min_delta": [-1.0, "0"],
            "mode": ["least", None],
        },
    )
    found |= base.of_options(
        "find_rate",
        lambda **o: trainkit.find_rate(base.step(), base.fresh(), base.sampler(), **o),
        {
            "low": [0.0, -1.0, "1e-6", nan, None],
            "high": [1e-7, "10", nan, None],
            "steps": [0, 9, 10.5, "100", True, None],
        },
    )
    found["find_rate(of a rule without a rate in its state)"] = Mistake(
        lambda out: trainkit.find_rate(base.step(), base.fresh(), base.sampler()),
        ("learning_rate", "the state has nothing named"),
    )
    found["fit(an option it does not have)"] = Mistake(
        of_fit("checkpoint_evry", 5), ("checkpoint_evry", "checkpoint_every")
    )
    found["fit(steps of no whole call)"] = Mistake(
        lambda out: fit(
            out, step=trainkit.make_train_step(base.model(), base.tx(), steps_per_call=3)
        ),
        ("steps=2", "steps_per_call=3"),
    )
    found["fit(epochs of an iterator)"] = Mistake(
        lambda out: fit(data=iter([batch()]), steps=None, epochs=1), ("epochs", "steps=")
    )

    class Streamed:
        """Data with a state that cannot be saved."""

        def __iter__(self) -> Any:
            return iter([batch()])

        def state_dict(self) -> dict[str, Any]:
            return {"at": object()}

        load_state_dict = print

    for name, data, says in (
        ("nothing in it", [], ("data", "no")),
        ("single examples", [{"x": 1.0, "label": 1}], ("batch/label", "must be an array")),
        ("None in it", [None], ("data", "must give batches")),
        ("texts", [{"x": ["a"], "label": [1]}], ("batch/x", "must be an array")),
        ("other shapes", [batch(x=np.ones((8, 5)))], ("params", "for this batch")),
        ("a label too many", [batch(label=base.labels(7))], ("batch/label", "not 7")),
    ):
        found[f"fit(a list with {name})"] = Mistake(of_fit("data", data), says)
    found["fit(a state of data that is no data)"] = Mistake(
        lambda out: fit(out, data=Streamed(), steps=1),
        ("state of data", "cannot be saved"),
        late=True,
    )
    found["fit(parts of epochs of data without a length)"] = Mistake(
        lambda out: fit(data=Streamed(), steps=None, epochs=1.5), ("epochs=1.5", "steps=")
    )
    found["fit(data of numbers)"] = Mistake(
        lambda out: fit(data=iter([1.0, 2.0])), ("batch", "must be an array")
    )
    found["fit(a step that returns its state alone)"] = Mistake(
        lambda out: fit(step=lambda state, batch: state), ("step", "(state, metrics)")
    )
    found["fit(a step whose metrics are a number)"] = Mistake(
        lambda out: fit(step=lambda state, batch: (state, 1.0)), ("step", "dict")
    )
    found["fit(a step that returns None)"] = Mistake(
        lambda out: fit(step=lambda state, batch: None), ("step", "(state, metrics)")
    )
    return found


def _states() -> Mistakes:
    adam = optax.adam(0.1)

    class Elsewhere(dict):
        """An object without the fields of a state."""

    wide = lambda: trainkit.TrainState.create({"kernel": jnp.ones((5, 3))}, base.tx())
    return {
        "fit(Flax's state)": Mistake(of_fit("state", base.flax_state()), ("state", "TrainState")),
        "fit(parameters alone)": Mistake(
            lambda out: fit(out, state=base.fresh().params), ("state", "TrainState.create")
        ),
        "fit(a state of another kind)": Mistake(
            of_fit("state", Elsewhere()), ("state", "TrainState.create")
        ),
        "fit(a state of another model)": Mistake(
            lambda out: fit(out, state=wide()), ("params", "model")
        ),
        "fit(a state of another model's names)": Mistake(
            lambda out: fit(out, state=base.plain_state()), ("params", "model")
        ),
        "fit(a state of another optimizer)": Mistake(
            lambda out: fit(out, state=base.model().state(adam, batch())), ("opt_state", "tx")
        ),
        "fit(a state of another loss function)": Mistake(
            lambda out: fit(out, step=base.plain_step(), state=base.fresh(), data=base.sampler()),
            ("params", "loss_fn"),
        ),
        "fit(a donated state)": Mistake(
            lambda out: fit(out, state=base.deleted_state()), ("state", "donate")
        ),
        "fit(a state with a key of floats)": Mistake(
            lambda out: fit(out, state=base.fresh().replace(rng=jnp.zeros(2))),
            ("rng", "jax.random.key"),
        ),
        "fit(a state with a raw key)": Mistake(
            lambda out: base.equal(
                fit(
                    state=base.fresh().replace(rng=jax.random.key_data(base.fresh().rng))
                ).state.params,
                fit().state.params,
            ),
            (),
            harmless=True,
        ),
        "fit(a state with a step of floats)": Mistake(
            lambda out: fit(out, state=base.fresh().replace(step=jnp.zeros(()))),
            ("step", "int32"),
        ),
        "fit(a state with NaN in it)": Mistake(
            lambda out: (
                fit(
                    out,
                    state=base.fresh().replace(
                        params=jax.tree.map(lambda x: x * nan, base.fresh().params)
                    ),
                ).stopped.count("not finite")
                + 1
            ),
            (),
            harmless=True,
        ),
        "fit(data of another model)": Mistake(
            lambda out: fit(out, data=base.sampler(batch(x=np.ones((8, 5), np.float32)))),
            ("params", "model"),
        ),
        "fit(data of strings)": Mistake(
            lambda out: fit(out, data=base.sampler(batch(x=np.array(["a"] * 8)))),
            ("batch/x", "numbers"),
        ),
    }


def _early() -> Mistakes:
    make = lambda **options: trainkit.EarlyStopping(**options)
    good = lambda state: {"loss": 1.0}
    return base.of_options(
        "EarlyStopping",
        make,
        {
            "metric": [3, None, ["loss"], True],
            "mode": ["least", None, True],
            "patience": [0, -1, 1.5, nan, "3", True, None],
            "min_delta": [-1.0, nan, "0", True, None],
            "restore_best": ["no", None, 1],
        },
    ) | {
        "fit(early_stopping without evaluate)": Mistake(
            of_fit("early_stopping", make()), ("early_stopping", "evaluate=")
        ),
        "fit(early_stopping on what evaluate does not give)": Mistake(
            lambda out: fit(evaluate=good, early_stopping=make(metric="accuracy"), eval_every=1),
            ("'accuracy'", "loss"),
        ),
        "fit(early_stopping that is never evaluated)": Mistake(
            lambda out: fit(
                data=iter([batch(4)] * 9), steps=None, evaluate=good, early_stopping=make()
            ),
            ("early_stopping", "eval_every"),
        ),
    }


def _evaluations() -> Mistakes:
    bad: dict[str, tuple[Any, tuple[str, ...]]] = {
        "None": (None, ("evaluate", "dict")),
        "a number": (0.5, ("evaluate", "dict")),
        "a pair": ((0.5, {"loss": 1.0}), ("evaluate", "dict")),
        "a list of pairs": ([("loss", 0.5)], ("evaluate", "dict")),
        "an array": ({"loss": np.ones(3)}, ("'loss'", "mean")),
        "a matrix": ({"loss": np.ones((2, 2))}, ("'loss'", "mean")),
        "an empty array": ({"loss": np.ones(0)}, ("'loss'", "mean")),
        "a string": ({"loss": "0.5"}, ("'loss'", "number")),
        "None as a number": ({"loss": None}, ("'loss'", "number")),
        "a dict of dicts": ({"all": {"loss": 1.0}}, ("'all'", "number")),
        "a pair as a number": ({"loss": (1.0, 2.0)}, ("'loss'", "mean")),
        "a complex number": ({"loss": 1j}, ("'loss'", "number")),
        "a name that is no string": ({3: 1.0}, ("3", "name")),
        "an empty name": ({"": 1.0}, ("''", "name")),
        "a name of two lines": ({"a\nb": 1.0}, ("'a\\nb'", "name")),
        "sums that are not divided": (
            {"loss": (jnp.float32(3), jnp.float32(8))},
            ("'loss'", "mean"),
        ),
    }
    for name in ("step", "kind", "epoch", "examples", "flops", "seconds"):
        bad[f"a metric called {name}"] = ({name: 1.0}, (f"'{name}'", "another name"))
    found = {
        f"evaluate returns {name}": Mistake(
            lambda out, value=value: fit(evaluate=lambda state: value, eval_every=1), says
        )
        for name, (value, says) in bad.items()
    }
    found["evaluate takes nothing"] = Mistake(
        lambda out: fit(out, evaluate=lambda: {"loss": 1.0}, eval_every=1), ("evaluate", "state")
    )

    def keeps(out: Path, metrics: dict[str, Any], **options: Any) -> bool:
        fit(out, evaluate=lambda state: metrics, eval_every=1, **options)
        rows = [row for row in read_metrics(out) if row["kind"] == "evaluation"]
        return all(
            np.array_equal(row[name], float(np.squeeze(value)), equal_nan=True)
            for row in rows
            for name, value in metrics.items()
        )

    for name, metrics in {
        "NaN": {"loss": nan},
        "an infinity": {"loss": -np.inf},
        "an integer": {"hits": 3},
        "a bool": {"good": True},
        "an array of one": {"loss": np.ones(1)},
        "a NumPy scalar": {"loss": np.float32(0.5)},
        "a name with a slash": {"test/loss": 0.5},
        "names with $ and <": {"$x$ <b>": 0.5, "$": 1.0, "a_$\\frac{": 2.0},
        "a name with a comma": {'a,"b"': 0.5},
        "names of other alphabets": {"τ": 0.5, "精度": 1.0},
    }.items():
        found[f"evaluate returns {name}, reported"] = Mistake(
            lambda out, metrics=metrics: keeps(out, metrics, report=True), (), harmless=True
        )
    best = lambda out: (
        fit(
            out,
            evaluate=lambda state: {"loss": nan if int(state.step) == 1 else 1.0},
            eval_every=1,
            early_stopping=trainkit.EarlyStopping(),
        ).best.step
    )
    found["evaluate returns NaN first"] = Mistake(lambda out: best(out) == 2, (), harmless=True)
    return found


def _hooks() -> Mistakes:
    Change = trainkit.Change
    bad: dict[str, tuple[Any, tuple[str, ...]]] = {
        "True": (True, ("hook", "Change")),
        "False": (False, ("hook", "Change")),
        "a string": ("stop", ("hook", "Change")),
        "a state": (base.fresh(), ("hook", "Change")),
        "a dict": ({"stop": "now"}, ("hook", "Change")),
        "0": (0, ("hook", "Change")),
        "a state of another model": (
            lambda: Change(
                state=trainkit.TrainState.create({"kernel": jnp.ones((5, 3))}, base.tx())
            ),
            ("params", "model"),
        ),
        "Flax's state": (lambda: Change(state=base.flax_state()), ("state", "TrainState")),
        "parameters": (lambda: Change(state={"w": 1.0}), ("state", "TrainState")),
        "a step that is none": (lambda: Change(step=3), ("step", "must be")),
        "an evaluate that is none": (lambda: Change(evaluate=3), ("evaluate", "must be")),
        "data that are none": (lambda: Change(data=3), ("data", "must be")),
        "stop=True": (lambda: Change(stop=True), ("stop", "must be")),
        "stop=3": (lambda: Change(stop=3), ("stop", "must be")),
        "an event that is a string": (lambda: Change(event="80 %"), ("event", "must be")),
        "an event of an array": (lambda: Change(event={"a": np.ones(3)}), ("event", "'a'")),
        "an event of a list": (lambda: Change(event={"a": [1]}), ("event", "'a'")),
        "an event called step": (lambda: Change(event={"step": 1}), ("'step'", "another name")),
        "an event called kind": (lambda: Change(event={"kind": "x"}), ("'kind'", "another name")),
        "flops='1e9'": (lambda: Change(flops="1e9"), ("flops", "must be")),
        "flops=nan": (lambda: Change(flops=nan), ("flops", "must be")),
        "flops=-1": (lambda: Change(flops=-1.0), ("flops", "must be")),
    }  # fmt: skip
    found = {
        f"a hook returns {name}": Mistake(
            lambda out, value=value: fit(
                hooks=[lambda now: value() if callable(value) else value], log_every=1
            ),
            says,
        )
        for name, (value, says) in bad.items()
    }
    found["a hook's class"] = Mistake(of_fit("hooks", [Memory]), ("hooks", "Memory()"))
    found["a hook that takes nothing"] = Mistake(
        lambda out: fit(out, hooks=[lambda: None]), ("hook", "now")
    )
    found["a hook whose memory JSON cannot hold"] = Mistake(
        lambda out: fit(out, hooks=[Memory({1, 2})]), ("Memory", "JSON"), late=True
    )
    found["a hook whose memory comes back otherwise"] = Mistake(
        lambda out: fit(out, hooks=[Memory({1: "a"})]), ("Memory", "JSON"), late=True
    )
    found["hooks in another order"] = Mistake(_other_order, (), harmless=True)
    return found


class Memory:
    """A hook that saves a value."""

    def __init__(self, value: Any):
        self.value, self.loaded = value, []

    def __call__(self, now: Any) -> None:
        del now

    def save(self) -> Any:
        return self.value

    def load(self, saved: Any) -> None:
        self.loaded.append(saved)


class OtherMemory(Memory):
    """Another one."""


def _other_order(out: Path) -> bool:
    fit(out, hooks=[Memory("a"), OtherMemory("b")])
    first, second = Memory("a"), OtherMemory("b")
    fit(out, steps=4, hooks=[second, first])
    return first.loaded == ["a"] and second.loaded == ["b"]


def _configs() -> Mistakes:
    unnamed = ("config", "another process")
    values: dict[str, Any] = {
        "a lambda": lambda x: x,
        "an object": object(),
        "a generator": (i for i in ()),
        "an open file's kind": memoryview(b"a"),
    }
    found = {
        f"fit(config of {name})": Mistake(of_fit("config", {"a": value}), unnamed)
        for name, value in values.items()
    }
    found["fit(config of names that are the same)"] = Mistake(
        of_fit("config", {"a": {1: 2, "1": 3}}), ("config", "'1'")
    )
    long = np.zeros(10_000, np.float32)
    middle = long.copy()
    middle[5_000] = 1
    Pair = collections.namedtuple("Pair", "a b")
    differing: dict[str, tuple[Any, Any]] = {
        "True and 1": (True, 1),
        "NumPy's True and 1": (np.bool_(True), np.int32(1)),
        "True and 1 inside": ({"b": [True]}, {"b": [1]}),
        "1 and '1'": (1, "1"),
        "arrays that differ in the middle": (long, middle),
        "arrays of another dtype": (long, long.astype(np.float64)),
        "arrays of another shape": (long, long[None]),
        "JAX arrays that differ in the middle": (jnp.asarray(long), jnp.asarray(middle)),
        "keys": (jax.random.key(0), jax.random.key(1)),
        "two functions": (np.square, np.sqrt),
        "sets": ({1, 2}, {1, 3}),
        "None and 'None'": (None, "None"),
        "large integers": (2**60, 2**60 + 1),
        "a large integer and a float": (2**60 + 1, float(2**60)),
        "bytes": (b"a", b"b"),
        "classes": (dict, list),
        "NaN and 0": (nan, 0.0),
        "objects arrays": (np.array([{}, {"a": 1}], object), np.array([{}, {"a": 2}], object)),
        "named tuples": (Pair(1, 2), Pair(2, 1)),
    }
    for name, (then, now) in differing.items():
        found[f"fit(another config: {name})"] = Mistake(
            lambda out, then=then, now=now: _again(out, {"a": then}, {"a": now}),
            ("another configuration",),
        )
    same: dict[str, tuple[Any, Any]] = {
        "1 and 1.0": (1, 1.0),
        "0.0 and -0.0": (0.0, -0.0),
        "a list and a tuple": ([1, 2], (1, 2)),
        "sets in another order": ({"a", "b", "c"}, {"c", "b", "a"}),
        "arrays": (long, long.copy()),
        "NaN": (nan, float("nan")),
        "a partial function": (np.square, np.square),
    }
    for name, (then, now) in same.items():
        found[f"fit(the same config: {name})"] = Mistake(
            lambda out, then=then, now=now: _again(out, {"a": then}, {"a": now}),
            (),
            harmless=True,
        )
    return found


def _again(out: Path, then: Any, now: Any) -> bool:
    """Uses a folder with one configuration, then with another."""
    RunFolder.claim(out, then).close()
    RunFolder.claim(out, now).close()
    return True


def _folders() -> Mistakes:
    found = {
        f"fit(out={base.shown(value)})": Mistake(
            lambda _, value=value: fit(value), ("out", "must be")
        )
        for value in (3, True, b"run", ["run"], "", "a\0b")
    }

    def file(out: Path) -> Any:
        out.write_text("mine")
        return fit(out)

    def below_a_file(out: Path) -> Any:
        out.write_text("mine")
        return fit(out / "run")

    def others(out: Path) -> Any:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
        return fit(out, overwrite=True)

    def unwritable(out: Path) -> Any:
        return fit(Path("/proc/run"))

    def in_use(out: Path) -> Any:
        with RunFolder.claim(out, {}):
            return fit(out)

    found["fit(out is a file)"] = Mistake(file, ("out=", "file"))
    found["fit(out below a file)"] = Mistake(below_a_file, ("out=", "file"))
    found["fit(out with somebody's files)"] = Mistake(others, ("out=", "thesis.tex"))
    found["fit(out that cannot be written)"] = Mistake(unwritable, ("out=", "cannot be written"))
    found["fit(out in use)"] = Mistake(in_use, ("out=", "Another process"))
    for name in (".lock", "checkpoints", "tensorboard"):
        found[f"fit(out with a link as {name})"] = Mistake(
            lambda out, name=name: _linked(out, name), ("out=", name)
        )
    for name in ("metrics.jsonl", "metrics.csv", "config.json", "summary.json", "report.html"):
        found[f"fit(out with a link as {name})"] = Mistake(
            lambda out, name=name: _planted(out, name), (), harmless=True
        )
        found[f"fit(out with a planted {name}.new)"] = Mistake(
            lambda out, name=name: _planted(out, f"{name}.new"), (), harmless=True
        )
    return found


def _linked(out: Path, name: str) -> Any:
    """A run whose folder has a link to another user's file instead of its own."""
    fit(out)
    theirs = out.parent / "theirs"
    if name == ".lock":
        (out / name).unlink()
        theirs.write_text("mine")
    else:
        shutil.rmtree(out / name, ignore_errors=True)
        theirs.mkdir()
    (out / name).symlink_to(theirs)
    return fit(out, overwrite=True)


def _planted(out: Path, name: str) -> bool:
    """Whether a link in place of the new file leaves its target unchanged."""
    fit(out)
    target = out.parent / "theirs"
    target.write_text("mine")
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(target)
    fit(out, overwrite=name != "config.json", report=True)
    return target.read_text() == "mine"


def _checkpoints() -> Mistakes:
    found = base.of_options(
        "Checkpointer",
        lambda **o: Checkpointer(o.pop("folder", "nowhere"), **o),
        {
            "folder": [3, None, True, b"a"],
            "keep": [0, -1, 1.5, "2", True, None],
            "keep_best": [-1, 1.5, "1", True, None],
            "mode": ["least", None],
        },
    )

    def saving(**changes: Any) -> Any:
        def make(out: Path) -> None:
            options = {"step": 1, "state": {"w": jnp.ones(2)}} | changes
            with Checkpointer(out) as checkpoints:
                checkpoints.save(options.pop("step"), options.pop("state"), **options)

        return make

    for name, values in {
        "step": ["1", -1, 1.5, True, None],
        "state": [None, {}, {"w": "a"}, {"w": np.array(["a"])}],
        "info": ["note", 3, {"a": {1, 2}}, {"a": np.ones(3)}, {"_step": 2}],
        "score": ["0.5", True, [0.5]],
    }.items():
        for value in values:
            found[f"Checkpointer.save({name}={base.shown(value)})"] = Mistake(
                saving(**{name: value}), (name, "must")
            )
    found["Checkpointer.save(a donated state)"] = Mistake(
        lambda out: saving(state=base.deleted_state())(out), ("state", "donate")
    )

    def reading(call: Any) -> Any:
        def make(out: Path) -> Any:
            saving()(out)
            return call(Checkpointer(out))

        return make

    like = {"w": jnp.ones(2)}
    read = {
        "restore(like=None)": (lambda c: c.restore(None), ("like", "must")),
        "restore(like of strings)": (lambda c: c.restore({"w": "a"}), ("like", "must")),
        "restore(step='1')": (lambda c: c.restore(like, "1"), ("step", "must")),
        "restore(step=True)": (lambda c: c.restore(like, True), ("step", "must")),
        "restore(step=5)": (lambda c: c.restore(like, 5), ("step 5", "there are [1]")),
        "restore(another tree)": (lambda c: c.restore({"v": jnp.ones(2)}), ("v", "w")),
        "restore(another shape)": (lambda c: c.restore({"w": jnp.ones(3)}), ("w", "[3]")),
        "restore(another dtype)": (lambda c: c.restore({"w": jnp.ones(2, int)}), ("w", "int32")),
        "info(step='1')": (lambda c: c.info("1"), ("step", "must")),
    }
    for name, (call, says) in read.items():
        found[f"Checkpointer.{name}"] = Mistake(reading(call), says)
    found["checkpoint.restore(no folder)"] = Mistake(
        lambda out: trainkit.checkpoint.restore(out, like), ("no checkpoint folder",)
    )
    found["checkpoint.restore(folder=3)"] = Mistake(
        lambda out: trainkit.checkpoint.restore(3, like), ("folder", "must be")
    )
    found["MetricsLog(folder=3)"] = Mistake(lambda out: MetricsLog(3), ("folder", "must be"))
    found["MetricsLog.write(no step)"] = Mistake(
        lambda out: _log(out, {"kind": "train"}), ("'step'", "must")
    )
    found["MetricsLog.write(no kind)"] = Mistake(
        lambda out: _log(out, {"step": 1}), ("'kind'", "must")
    )
    found["MetricsLog.write(an array)"] = Mistake(
        lambda out: _log(out, {"step": 1, "kind": "train", "a": np.ones(3)}), ("'a'", "must")
    )
    found["read_run(no folder)"] = Mistake(
        lambda out: trainkit.report.read_run(out), ("folder", "metrics.jsonl")
    )
    found["write_report(no folder)"] = Mistake(
        lambda out: trainkit.report.write_report(out), ("folder", "metrics.jsonl")
    )
    return found


def _log(out: Path, row: dict[str, Any]) -> None:
    with MetricsLog(out, tensorboard=False) as log:
        log.write(row)


def identities() -> Mistakes:
    """Mistakes that start a different run in the folder of a first one."""
    import flax.linen as nn

    softmax = optax.softmax_cross_entropy_with_integer_labels

    class Net(nn.Module):
        act: Any = nn.relu

        @nn.compact
        def __call__(self, x: Any) -> Any:
            return self.act(nn.Dense(3)(x))

    def model(act: Any = nn.relu, loss: Any = softmax) -> Any:
        return trainkit.from_linen(Net(act), loss)

    def parts(model: Any, tx: Any = None, rng: int = 0, **options: Any) -> dict[str, Any]:
        tx = base.tx() if tx is None else tx
        return {
            "step": trainkit.make_train_step(model, tx, **options),
            "state": model.state(tx, batch(), rng=rng),
        }

    def then(now: Any, **more: Any) -> Any:
        def make(out: Path) -> bool:
            fit(out, **parts(model()))
            return fit(out, **({"steps": 4} | now() | more)).steps == 4

        return make

    smooth = lambda outputs, labels: softmax(outputs, labels) * 0.9
    scaled = lambda b: b["x"] * 2
    other_data = batch(x=batch()["x"] + 1)
    initial = lambda: (
        parts(model())
        | {
            "state": model().state(
                base.tx(), batch(), params=jax.tree.map(lambda x: x + 1, _params(model()))
            )
        }
    )
    cases: dict[str, tuple[Any, tuple[str, ...]]] = {
        "another activation": (lambda: parts(model(nn.tanh)), ("model",)),
        "another loss": (lambda: parts(model(loss=smooth)), ("loss",)),
        "other inputs": (
            lambda: parts(trainkit.from_linen(Net(), softmax, inputs=scaled)),
            ("model",),
        ),
        "another seed": (lambda: parts(model(), rng=1), ("seed",)),
        "other initial parameters": (initial, ("initial parameters",)),
        "another learning rate": (lambda: parts(model(), optax.sgd(0.2)), ("optimizer",)),
        "another rule of the same state": (
            lambda: parts(model(), optax.sign_sgd(0.1)),
            ("optimizer",),
        ),
        "another precision": (lambda: parts(model(), precision="bfloat16"), ("precision",)),
        "another order of the data": (
            lambda: parts(model()) | {"data": base.sampler(seed=1)},
            ("seed",),
        ),
        "another batch size": (
            lambda: parts(model()) | {"data": base.sampler(batch_size=2)},
            ("batch_size",),
        ),
        "other data": (lambda: parts(model()) | {"data": base.sampler(other_data)}, ("content",)),
        "data of another order": (
            lambda: parts(model()) | {"data": base.sampler(shuffle=False)},
            ("shuffle",),
        ),
    }
    found = {
        f"fit(the run of {name})": Mistake(then(now), (*says, "resume="))
        for name, (now, says) in cases.items()
    }
    kept = {
        "the very run": lambda: parts(model()),
        "a placement": lambda: parts(model(), placement="jit", devices=1),
        "micro-batches": lambda: parts(model(), microbatches=2),
        "steps a call": lambda: parts(model(), steps_per_call=2),
        "a place for norms": lambda: parts(model(), norms=False, donate=True),
    }
    found |= {
        f"fit(the run with {name} of its own)": Mistake(then(now), (), harmless=True)
        for name, now in kept.items()
    }
    found["fit(the run of another loss, asked for)"] = Mistake(
        then(lambda: parts(model(loss=smooth)), resume="new hyperparameters"), (), harmless=True
    )
    return found


def _params(model: Any) -> Any:
    return model.state(base.tx(), batch()).params
