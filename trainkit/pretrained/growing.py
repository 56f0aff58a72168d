"""`grow`: a checkpoint of a small model becomes one of a bigger model, leaf by leaf."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation
from trainkit._core.paths import named_leaves
from trainkit.adapters.functions import Functions, functions_of
from trainkit.growth.growth_map import GrowthMap
from trainkit.growth.maps.params import grow_one, plan_of
from trainkit.growth.models import functions, inputs_from
from trainkit.growth.operators import Operator, operator
from trainkit.growth.train_state import find_map
from trainkit.growth.views.outputs import concrete, relative_change
from trainkit.pretrained.formats.opening import opened
from trainkit.pretrained.formats.tensors import Tensors
from trainkit.pretrained.layouts import Layout
from trainkit.pretrained.mapping import Entry, Names
from trainkit.pretrained.matching import Wishes, check_known, match
from trainkit.pretrained.names import families, pattern_of, words_of

PyTree = Any
Sized = tuple[Any, ...]
PARAMS = "params/"


@dataclasses.dataclass(frozen=True)
class Grown:
    """A checkpoint that was grown.

    Attributes:
      out: where it is.
      map: the growth of the tree `{"params": …, "model_state": …}`.
      names: the mapping between the big model's leaves and the tensors in `out`.
      change: the largest change of the outputs, relative to their scale; `None`: not measured.
      kept: whether the outputs stayed the same to rounding, or `how` does not promise that.
    """

    out: Path
    map: GrowthMap
    names: Names
    change: float | None
    kept: bool


@validation.named_options
def grow(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    small: Sized,
    big: Sized,
    *,
    how: str | Operator = "preserve",
    key: jax.Array | int = 0,
    names: Mapping[str, str] | None = None,
    new_names: Mapping[str, str] | None = None,
    transpose: str | Sequence[str] = (),
    as_is: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    measure: bool = True,
    say: Callable[[str], None] = print,
) -> Grown:
    """Grows a checkpoint of a small model into one of a big model, in the same format.

    The tensors of the checkpoint are matched to the leaves of the small model by name, shape and
    transposition. The mapping is shown. What can be read in two ways is an error that says which
    argument decides. Tensors are read, grown and written one leaf at a time. Only `measure` holds
    whole models (and Orbax, which writes a tree at once).

    Args:
      source: a `.safetensors` file or a folder of shards, a `.msgpack` file of Flax, an `.npz`
        file, a folder of Orbax, or a run of trainkit.
      out: where the grown checkpoint goes; it must not exist.
      small, big: the model at two sizes: `(module, *inputs)` with a Linen or NNX module, or
        `(fn, params, *inputs)` with a function `fn(params, *inputs)` and the shapes of its
        parameters. Inputs may be shapes.
      how: the operators; see `trainkit.growth.grow`. "experts" makes a mixture of a dense layer.
      key: a random key or a seed.
      names: leaf of the small model -> tensor, with * for numbers, where names say nothing:
        `{"layers/*/up": "h.*.fc1.weight"}`. A stacked leaf has a number less than its tensors.
      new_names: leaf of the big model -> tensor in `out`, for leaves that the small model does not
        have, and where `out` has other names.
      transpose, as_is: tensors (with * for numbers) that are transposed, or are not, where both
        would fit. Matrices of PyTorch are transposed.
      ignore: tensors that are no leaves of the model, such as tables. They are not written.
      measure: whether to read both checkpoints and to compare the outputs of the two models.
      say: where the mapping and the result go.

    Returns:
      A `Grown`.

    Raises:
      ValueError: there is no such checkpoint, `out` exists, or the mapping is not clear.
      GrowthError: the big model cannot be grown from the small one.
    """
    for name, path in (("source", source), ("out", out)):
        validation.path(name, path)
    lists = [[x] if isinstance(x, str) else list(x) for x in (transpose, as_is, ignore)]
    wishes = Wishes(names or {}, new_names or {}, *lists)
    target = Path(out).expanduser()
    if target.exists():
        raise ValueError(f"{target} is there already: choose another place, or delete it")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {target.absolute().parent} to write into")
    how, key = operator(how), validation.key_of("key", key)
    if how.width == "perturb":
        raise ValueError("how='perturb' is for a training state; choose another operator for width")
    tensors = opened(Path(source).expanduser())
    tensors.check_out(target)
    before, inputs = _model(small, "small")
    after, _ = _model(big, "big")
    leaves = _leaves(before)
    found = match(leaves, tensors.shapes, wishes)
    growth = GrowthMap.of(find_map(before, after, inputs, how=how, key=key))
    wider = _extended(found, _leaves(after), wishes)
    say(str(wider))
    if tensors.left:
        say(f"not written: {', '.join(tensors.left)}")
    grower = _Grower(growth, tensors, leaves, found, wider)
    tensors.write(target, grower.specs(), grower.tensor)
    change = None
    if measure:
        change = _change((before, tensors, found), (after, opened(target), wider), inputs)
    say(_summary(growth, target, change))
    kept = change is None or not how.preserves or change <= _rounding(tensors)
    return Grown(target, growth, wider, change, kept)


def _model(sized: Sized, what: str) -> tuple[Functions, tuple[Any, ...]]:
    """A model as a function of its variables, and its inputs."""
    form = "(module, *inputs) or (function, params, *inputs)"
    if not isinstance(sized, tuple | list) or len(sized) < 2:
        raise ValueError(f"the {what} model must be {form}, not {_short(sized)}")
    model, inputs = sized[0], inputs_from(tuple(sized[1:]))
    try:
        found = functions_of(model, inputs)
    except TypeError as error:
        raise ValueError(f"the {what} model: {error}") from error
    if found is not None:
        return found, inputs
    if not callable(model) or len(inputs) < 2:
        raise ValueError(f"the {what} model must be {form}, not {_short(sized)}")
    params, inputs = inputs[0], inputs[1:]
    return functions(model, inputs, params, what=what), inputs


def _short(value: Any) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) < 60 else f"a {type(value).__name__}"


def _leaves(model: Functions) -> dict[str, jax.ShapeDtypeStruct]:
    """The leaves of a model, with parameters named as in `params`."""
    named = named_leaves(model.variables)
    return {path.removeprefix(PARAMS): jax.ShapeDtypeStruct(x.shape, x.dtype)
            for path, x in named.items()}  # fmt: skip


def _extended(names: Names, leaves: Mapping[str, Any], wishes: Wishes) -> Names:
    """The mapping for the big model: leaves that the small one does not have need a name."""
    entries = {}
    known = families(leaves)
    check_known("new_names", wishes.new_names, known, "leaf of the big model")
    for family in known.values():
        leaf = next(iter(family.members.values()))
        known_one = names.entry(leaf)[0] if leaf in names else _by_number(names, leaf)
        if family.name not in wishes.new_names and known_one is not None:
            entries[known_one.leaf] = known_one
        else:
            entries[family.name] = _new_entry(names, family.name, len(family.spec.shape), wishes)
    return Names(entries)


def _by_number(names: Names, leaf: str) -> Entry | None:
    """The entry of one more of some leaves that have another shape each: Dense_3 after Dense_2."""
    pattern, numbers = pattern_of(leaf)
    alike = [e for e in names.entries.values() if pattern_of(e.leaf)[0] == pattern and not e.axes]
    found = {(pattern_of(e.tensor)[0], e.layout, e.dtype, e.matrix) for e in alike}
    same = all(pattern_of(e.leaf)[1] == pattern_of(e.tensor)[1] for e in alike)
    if len(found) != 1 or not same:
        return None
    ((tensor, layout, dtype, matrix),) = found
    return Entry(pattern, tensor, tuple(range(len(numbers))), layout, dtype, matrix)


def _new_entry(names: Names, leaf: str, rank: int, wishes: Wishes) -> Entry:
    """The entry of a leaf that only the big model has, or that has a new name."""
    plain = all(entry.tensor.replace(".", "/") == entry.leaf for entry in names.entries.values())
    if leaf not in wishes.new_names and not plain:
        raise ValueError(
            f"only the big model has {leaf}: say what its tensor is called with "
            f"new_names={{{leaf!r}: 'a.name.of.yours'}} (a further * counts along its first axis)"
        )
    dots = any("." in entry.tensor for entry in names.entries.values())
    tensor = wishes.new_names.get(leaf, leaf.replace("/", ".") if dots else leaf)
    axes = tensor.count("*") - leaf.count("*")
    if axes < 0 or axes > rank:
        raise ValueError(f"new_names: {tensor!r} must have a * for each number of {leaf!r}")
    seen = {entry.layout.transposed for entry in names.entries.values()
            if "embed" not in words_of(entry.leaf) and entry.matrix}  # fmt: skip
    turned = rank - axes > 1 and (seen == {True} or tensor in wishes.transpose)
    layout = Layout(turned and tensor not in wishes.as_is)
    dtypes = [entry.dtype for entry in names.entries.values()]
    common = max(dtypes, key=dtypes.count)
    return Entry(leaf, tensor, tuple(range(leaf.count("*"))), layout, common, rank - axes > 1)


class _Grower:
    """Grows the leaves of the big model one at a time, as the tensors of the new checkpoint."""

    def __init__(
        self,
        growth: GrowthMap,
        tensors: Tensors,
        leaves: Mapping[str, jax.ShapeDtypeStruct],
        old: Names,
        new: Names,
    ):
        self.growth, self.tensors, self.leaves = growth, tensors, leaves
        self.old, self.new = old, new
        self.plans = {leaf.path.removeprefix(PARAMS): leaf for leaf in plan_of(growth).leaves}
        self.places: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, leaf in self.plans.items():
            for tensor, row in new.tensors(name, leaf.big).items():
                self.places[tensor] = name, row
        self.last: tuple[str, np.ndarray] | None = None

    def specs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The tensors of the new checkpoint."""
        found: dict[str, jax.ShapeDtypeStruct] = {}
        for name, leaf in self.plans.items():
            found |= self.new.specs(name, leaf.big)
        return found

    def tensor(self, name: str) -> np.ndarray:
        """One of them."""
        leaf, row = self.places[name]
        if self.last is None or self.last[0] != leaf:
            self.last = None  # before the next is made
            self.last = leaf, self._grown(leaf)
        return self.new.tensor(leaf, self.last[1], row)

    def _grown(self, name: str) -> np.ndarray:
        leaf, (entry, _) = self.plans[name], self.new.entry(name)
        old = None
        if leaf.source is not None:
            source = leaf.source.removeprefix(PARAMS)
            old = self.old.leaf(source, self.leaves[source].shape, self.tensors.read)
        wide = np.dtype(entry.dtype).itemsize == 8
        with jax.enable_x64(True) if wide else contextlib.nullcontext():
            grown = jax.jit(lambda w: grow_one(self.growth, leaf, w))(old)
            return np.asarray(grown).astype(entry.dtype)


def _change(before: Any, after: Any, inputs: tuple[Any, ...]) -> float:
    """The change of the outputs between two (model, tensors, names)."""
    rng = np.random.default_rng(0)
    inputs = jax.tree.map(lambda x: concrete(x, rng), inputs)
    outputs = []
    for model, tensors, names in (before, after):
        read = [
            jnp.asarray(names.leaf(name.removeprefix(PARAMS), x.shape, tensors.read), x.dtype)
            for name, x in named_leaves(model.variables).items()
        ]
        variables = jax.tree.unflatten(jax.tree.structure(model.variables), read)
        outputs.append(jax.jit(model.fn)(variables, *inputs))
    return relative_change(*outputs)


def _rounding(tensors: Tensors) -> float:
    """The change of outputs that is rounding, in the arithmetic of the models."""
    dtypes = [x.dtype for x in tensors.shapes.values() if jnp.issubdtype(x.dtype, jnp.inexact)]
    eps = [float(jnp.finfo(d).eps) for d in dtypes if jnp.finfo(d).bits < 64]
    return min(1e3 * max(eps, default=float(jnp.finfo(jnp.float32).eps)), 0.1)


def _summary(growth: GrowthMap, out: Path, change: float | None) -> str:
    plan = plan_of(growth)
    before, after = (
        sum(math.prod(shape) for shape in shapes)
        for shapes in ([x.small for x in plan.leaves if not x.new], [x.big for x in plan.leaves])
    )
    kept = {
        "proved": "the function is proved to be the same",
        "reduced": "the function is proved to be the same (new layers are identities)",
        "assumed": "that the function is the same is not proved",
    }[str(growth.proof)]
    seen = "" if change is None else f"; outputs differ by {change:.1e} of their scale"
    return f"wrote {out}: {before:,} → {after:,} parameters; {kept}{seen}"
