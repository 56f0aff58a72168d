"""What a run is, as far as that shows in what `fit` is given.

Its model, loss and seed, its update rule with its hyper-parameters, and its data. How the work is
spread (placement, devices, processes, steps a call, micro-batches) is not part of it, unless
replicas train apart: then their number and the steps between two means are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from trainkit._core.identity import differences, digest, lasting
from trainkit._core.paths import named_leaves, path_name
from trainkit._core.processes import gathered, same
from trainkit.data.loader import Loader
from trainkit.loop.arguments.made_of import PARAMETERS, fits, made_of, other_rule
from trainkit.loop.arguments.program_digest import program_digest
from trainkit.step.norms import hyperparams

PyTree = Any
# What `fit(resume=...)` may say: that all is as it was, or which of the two is not.
HYPERPARAMETERS, DATA = "hyperparameters", "data"
RESUME = ("same run", f"new {HYPERPARAMETERS}", f"new {DATA}")
# Digests of programs as JAX writes them down, which other versions write otherwise.
PROGRAMS = ("optimizer", "model", "loss", "gradients")
OF_BATCHES = ("model", "loss", "gradients")  # which have the sizes of a batch in them
BATCH, START, MADE = "batch", "initial parameters", "made of"
# What is known by a digest alone, in words.
OPAQUE = {
    "model": "another program",
    "loss": "another program",
    "gradients": "another program",
    "seed": "another random key",
    "content": "other values",
}
MANY, LARGE = 32, 2**20  # leaves, and elements of one, that are looked at


def run_identity(step: Any, state: Any, data: Any) -> dict[str, dict[str, Any]]:
    """What may not change without a word when a run goes on; JSON."""
    opt_state = getattr(state, "opt_state", None)
    rates: dict[str, Any] = {name: float(value) for name, value in hyperparams(opt_state).items()}
    if hasattr(step, "tx") and hasattr(state, "params"):
        args = (state.params, state.opt_state, state.params)
        rates["optimizer"] = program_digest(step.tx.update, *args)
        rates[MADE] = made_of(step.tx, state.params, state.opt_state)
    if hasattr(step, "precision"):
        rates["precision"] = lasting(step.precision, "precision")
    rates |= _rounds(step)
    if hasattr(state, "rng"):
        rates["seed"] = digest(str(lasting(state.rng, "rng")))
    if hasattr(step, "loss_fn") and (one := first_batch(data)) is not None:
        size = getattr(data, "batch_size", None)
        rates |= _programs(step.loss_fn, state, _whole(one, size))
    if hasattr(state, "params") and not int(state.step):
        rates[START] = _values(state.params)
    names = ("seed", "size", "batch_size", "shuffle")
    found = {name: lasting(getattr(data, name), name) for name in names if hasattr(data, name)}
    identity = {HYPERPARAMETERS: rates, DATA: found}
    for part, values in identity.items():
        named = {f"{part}: {name}": value for name, value in values.items()}
        same(named, "a run is the same in every process.")
    if hasattr(data, "fingerprint"):
        # Processes have the same data, or each its own.
        contents = gathered(data.fingerprint())
        found["content"] = contents[0] if len(set(contents)) == 1 else digest(" ".join(contents))
    return identity


def other_run(part: str, then: Any, now: Mapping[str, Any], same_versions: bool) -> list[str]:
    """In which lines a part of the identity is another than it was, of what both know."""
    then, now = dict(then), dict(now)
    starts = then.pop(START, None), now.pop(START, None)
    made = then.pop(MADE, None), now.pop(MADE, None)
    batches = then.pop(BATCH, None), now.pop(BATCH, None)
    left_out = set() if same_versions else set(PROGRAMS)
    if batches[0] != batches[1]:
        left_out |= set(OF_BATCHES)  # the part of the data says it
    for name in left_out:
        then.pop(name, None)
        now.pop(name, None)
    for name in [name for name in (*OF_BATCHES, "seed") if name not in then]:
        now.pop(name, None)  # saved before these were known
    lines = _named_differences(then, now, made)
    return lines if part == DATA or None in starts else lines + _other_start(*starts)


def can_go_on(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the state of a run can be taken up with other hyper-parameters, as far as is known.

    Both are parts of an identity.
    """
    return fits(then.get(MADE), now.get(MADE))


def _named_differences(then: dict[str, Any], now: dict[str, Any], made: Any) -> list[str]:
    """The differences, in words where only digests are known; the parameters' shapes first."""
    digests = {
        name: words
        for name, words in (OPAQUE | {"optimizer": other_rule(*made)}).items()
        if then.get(name) != now.get(name)
        and any(isinstance(values.get(name), str) for values in (then, now))
    }
    known = [{k: v for k, v in values.items() if k not in digests} for values in (then, now)]
    lines = [f"{name}: {words}" for name, words in digests.items()]
    if None not in made and made[0][PARAMETERS] != made[1][PARAMETERS]:
        lines.insert(0, f"{PARAMETERS}: other names, shapes or dtypes")
    return lines + differences(*known)


def _rounds(step: Any) -> dict[str, Any]:
    """Of a step whose replicas train apart, what decides where they go."""
    place: Any = getattr(step, "placement", None)
    if not hasattr(place, "replicas"):
        return {}
    return {
        "replicas": place.replicas,
        "steps between means": step.steps_per_call,
        "means of moments": place.moments,
    }


def with_hyperparameters(opt_state: PyTree, new: PyTree) -> PyTree:
    """An optimizer state with the hyper-parameters that another of its structure holds."""

    def choose(path: Any, old: Any, other: Any) -> Any:
        return other if "hyperparams" in path_name(path).split("/") else old

    return jax.tree_util.tree_map_with_path(choose, opt_state, new)


def first_batch(data: Any) -> PyTree:
    """The batch that comes next, where it can be seen before it is drawn."""
    if hasattr(data, "draw"):
        return data.draw(data.position)[0]
    return data.peek() if isinstance(data, Loader) else None


def _whole(batch: PyTree, size: int | None) -> PyTree:
    """The shapes of a batch of all processes."""

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return jax.ShapeDtypeStruct((size or x.shape[0], *x.shape[1:]), dtype)

    return jax.tree.map(shape, batch)


def _programs(loss_fn: Any, state: Any, batch: PyTree) -> dict[str, Any]:
    """Digests of what is computed: of the gradients, and of the parts of a model that has them."""
    args = (state.params, state.model_state, batch, state.rng)

    def total(params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> Any:
        loss = loss_fn(params, model_state, batch, rng)
        return loss.total, loss

    parted = hasattr(loss_fn, "programs")
    whole = program_digest(jax.grad(total, has_aux=True), *args)
    found: dict[str, Any] = {"gradients" if parted else "loss": whole}
    if parted:
        parts = loss_fn.programs(*args)
        found |= {name: program_digest(fn, *given) for name, (fn, given) in parts.items()}
    found[BATCH] = ", ".join(
        f"{name} {x.dtype}{list(x.shape)}" for name, x in named_leaves(batch).items()
    )
    return found


def _values(params: PyTree) -> dict[str, list[float]]:
    """By leaf what tells two initial states apart: mean and root mean square, or one value.

    Numbers, and no digests of them: another device draws the same to the last bits but these.
    """
    leaves = list(named_leaves(params).items())
    chosen = leaves[:: -(-len(leaves) // MANY)]
    return {name: _of_leaf(x) for name, x in chosen if getattr(x, "size", 0) and _is_whole(x)}


def _is_whole(x: Any) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable


def _of_leaf(x: Any) -> list[float]:
    if x.size > LARGE:
        middle = tuple(size // 2 for size in x.shape)
        return [float(np.abs(np.asarray(x[middle])))]
    values = np.abs(np.asarray(x).astype(np.complex128))
    total = np.asarray(x).astype(np.complex128).mean()
    return [float(total.real + total.imag), float(np.sqrt((values**2).mean()))]


def _other_start(then: Any, now: Any) -> list[str]:
    """The first leaf that begins elsewhere."""
    for name in then.keys() & now.keys():
        if not np.allclose(then[name], now[name], rtol=1e-3, atol=1e-6, equal_nan=True):
            return [f"{START}: {name} with {_words(then[name])} there, {_words(now[name])} now"]
    return []


def _words(values: list[float]) -> str:
    return " and ".join(
        f"{what} {value:.4g}" for what, value in zip(("mean", "rms"), values, strict=False)
    )
