"""The parts of a batch: inputs of the module, labels and weights, found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from trainkit._core import validation

PyTree = Any
INPUTS = ("x", "inputs", "input", "image", "images", "tokens", "features")
LABELS = ("y", "labels", "label", "targets", "target")
WEIGHTS = ("weight", "weights", "mask")
# The option `inputs`: a key, several keys, argument name -> key, or a function of the batch.
Inputs = str | Sequence[str] | Mapping[str, str] | Callable[[PyTree], PyTree] | None
Outputs = str | Callable[[PyTree], PyTree] | None


class Call(NamedTuple):
    """The arguments of a module: `module(*args, **kwargs)`.

    >>> Call((1, 2), {"mask": 3}).kwargs
    {'mask': 3}
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


def call_of(inputs: PyTree) -> Call:
    """Inputs as a `Call`: a tuple is several arguments; anything else is one argument.

    >>> call_of((1, 2)), call_of([1, 2]).args
    (Call(args=(1, 2), kwargs={}), ([1, 2],))
    """
    if isinstance(inputs, Call):
        return inputs
    return Call(inputs if type(inputs) is tuple else (inputs,))


def inputs_of(inputs: Inputs) -> Callable[[PyTree], PyTree]:
    """The function from a batch to the inputs of a module; see `trainkit.from_linen`."""
    if callable(inputs):
        return inputs
    if isinstance(inputs, str):
        return lambda batch: _under(batch, inputs)
    if isinstance(inputs, Mapping):
        return lambda batch: Call((), {name: _under(batch, key) for name, key in inputs.items()})
    if inputs is not None:
        validation.listed("inputs", inputs, "('image', 'mask')")
        return lambda batch: tuple(_under(batch, key) for key in inputs)
    return lambda batch: _find(
        batch, INPUTS, 0, "the module's inputs", "inputs=, a key or a function of the batch", True
    )


def outputs_of(outputs: Outputs) -> Callable[[PyTree], PyTree]:
    """The function that selects outputs: all of them, those under a key, or the given function."""
    if callable(outputs):
        return outputs
    if outputs is not None:
        validation.text("outputs", outputs, hint="a key, or a function of the module's outputs")
    return lambda found: found if outputs is None else _chosen(found, outputs)


def _chosen(found: PyTree, key: str) -> Any:
    if isinstance(found, Mapping) and key in found:
        return found[key]
    has = f"have {', '.join(map(repr, found))}" if isinstance(found, Mapping) else "are no dict"
    raise ValueError(
        f"outputs={key!r} must be a key of the module's outputs, which {has}; pass another key, a "
        "function of the outputs, or leave outputs= out."
    )


def labels_of(batch: PyTree, required: bool = True) -> Any:
    """The labels of a batch; `None` if there are none and they are not required."""
    return _find(batch, LABELS, 1, "the labels", "a loss(outputs, batch)", required)


def weight_of(batch: PyTree) -> Any:
    """The weights of a batch's examples or tokens, or `None`."""
    return _find(batch, WEIGHTS, 2, "the weights", "", required=False)


def name_of(batch: PyTree, names: tuple[str, ...], position: int) -> str:
    """The key or position of the labels or weights in a batch."""
    if isinstance(batch, dict):
        return next(name for name in names if name in batch)
    return str(position)


def _under(batch: PyTree, key: Any) -> Any:
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        has = (
            f"has {', '.join(map(repr, batch))}"
            if isinstance(batch, dict)
            else (f"is a {type(batch).__name__}")
        )
        raise ValueError(
            f"inputs must be keys of the batch, which {has}, not {key!r}; pass inputs= other keys, "
            "or a function of the batch."
        ) from None


def _find(
    batch: PyTree, names: tuple[str, ...], position: int, what: str, hint: str, required: bool
) -> Any:
    if isinstance(batch, dict):
        for name in names:
            if name in batch:
                return batch[name]
        given = f"a dict with {', '.join(map(repr, batch))}"
    elif isinstance(batch, tuple | list):
        if position < len(batch):
            return batch[position]
        given = f"{len(batch)} arrays"
    elif position == 0:
        return batch
    else:
        given = type(batch).__name__
    if not required:
        return None
    raise ValueError(
        f"cannot find {what} in the batch, which is {given}: looked for "
        f"{', '.join(map(repr, names))}, or element {position} of a tuple. Pass {hint}."
    )
