"""Identity layers: which parameters of a new layer must be what, for it to do nothing.

A new layer is an identity where its output projections are zero (residual networks), or where it
is an identity matrix between ReLUs (plain ones). Which of its parameters those are is found in the
program of the big model: it is reduced under the supposition that they are zero (or the identity),
and must then be, equation for equation, the program of the small model. That is a proof for every
input, from shapes alone: nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.program import Const, Equation, Folder, Program

PyTree = Any
Shape = tuple[int, ...]


class LayerLeaf(NamedTuple):
    """Where a leaf of the deeper model comes from.

    Attributes:
      source: the leaf of the small model that it copies; `None` for a fresh initial value.
      new: whether it belongs to a layer that the small model does not have.
      becomes: "copy", or in an identity layer "zero" or "eye".
    """

    source: str | None
    new: bool
    becomes: str = "copy"


def identity_layers(
    small_fn: Callable[..., PyTree],
    big_fn: Callable[..., PyTree],
    small: PyTree,
    big: PyTree,
    leaves: Mapping[str, LayerLeaf],
    *inputs: PyTree,
) -> dict[str, LayerLeaf]:
    """`leaves` with what must be zero, or the identity, for the new layers to do nothing.

    Args:
      small_fn, big_fn: `fn(tree, *inputs)`.
      small, big: shapes of the trees; `leaves` names those of `big`, in its order.

    Raises:
      GrowthError: no choice makes the new layers identities (post-norm, a non-linearity that is
        not idempotent, a projection that is not square).
    """
    folder = Folder()
    wanted = _names(_reduced(folder.flatten(jax.make_jaxpr(small_fn)(small, *inputs)), {}))
    program = folder.flatten(jax.make_jaxpr(big_fn)(big, *inputs))
    names = list(leaves)
    variables = {id(var): name for name, var in zip(names, program.ins, strict=False)}
    order = list(
        dict.fromkeys(
            variables[id(v)]
            for eqn in reversed(program.equations)
            for v in eqn.ins
            if id(v) in variables and leaves[variables[id(v)]].new
        )
    )
    for choose in (_residual, _plain):
        chosen = choose(program, names, order, {n: x.shape for n, x in _named(big, names).items()})
        if _names(_reduced(program, _places(names, chosen))) == wanted:
            return {
                name: leaf._replace(becomes=chosen[name]) if name in chosen else leaf
                for name, leaf in leaves.items()
            }
    new = next(name for name in names if leaves[name].new)
    raise GrowthError(
        f"the layer of {new} cannot be made an identity: it is neither a residual branch whose "
        "last projection may be zero, nor a square layer between ReLUs. After a norm (post-norm) "
        "or a GELU, SiLU or tanh it cannot: use a pre-norm model, or an operator that changes the "
        "function (how='stack', 'interpose', 'middle' or 'last')"
    )


def _named(tree: PyTree, names: Sequence[str]) -> dict[str, Any]:
    return dict(zip(names, jax.tree.leaves(tree), strict=True))


def _places(names: Sequence[str], chosen: Mapping[str, str]) -> dict[int, str]:
    return {i: chosen[name] for i, name in enumerate(names) if name in chosen}


def _residual(
    program: Program, names: list[str], order: list[str], shapes: Mapping[str, Shape]
) -> dict[str, str]:
    """Zeros that end branches, the last used first: the output projections and their biases."""
    chosen: dict[str, str] = {}
    left = len(_reduced(program, {}))
    for name in order:
        tried = {**chosen, name: "zero"}
        now = len(_reduced(program, _places(names, tried)))
        if now < left:
            chosen, left = tried, now
    return chosen


def _plain(
    program: Program, names: list[str], order: list[str], shapes: Mapping[str, Shape]
) -> dict[str, str]:
    """Identity matrices, Dirac kernels, and no bias."""
    return {
        name: "eye" if len(shapes[name]) > 1 and shapes[name][-1] == shapes[name][-2] else "zero"
        for name in order
    }


_ZERO, _EYE = "zero", "eye"
_MOVES = frozenset(
    ("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type")
    + ("copy", "copy_p", "stop_gradient", "slice")
)
_POOLS = frozenset(("reduce_max", "reduce_window_max"))


def _reduced(program: Program, supposed: Mapping[int, str]) -> list[Equation]:
    """The equations that are left when some inputs are zero, or the identity matrix."""
    stands: dict[int, Any] = {}  # what a variable is: another variable, _ZERO or _EYE
    positive: set[int] = set()
    for place, what in supposed.items():
        stands[id(program.ins[place])] = what
    kept: list[tuple[Equation, list[Any]]] = []

    def now(v: Any) -> Any:
        return v if isinstance(v, Const) else stands.get(id(v), v)

    for eqn in program.equations:
        ins = [now(v) for v in eqn.ins]
        found = _simplified(eqn, ins, positive)
        if found is not None:
            stands[id(eqn.outs[0])] = found
            continue
        if _is_relu(eqn, ins) or (eqn.name in _MOVES | _POOLS and id(ins[0]) in positive):
            positive.add(id(eqn.outs[0]))
        kept.append((eqn, ins))
    live = {id(now(v)) for v in program.outs if not isinstance(v, Const)}
    left = []
    for eqn, ins in reversed(kept):
        if any(id(v) in live for v in eqn.outs):
            left.append(eqn)
            live |= {id(v) for v in ins if not isinstance(v, Const | str)}
    return left[::-1]


def _simplified(eqn: Equation, ins: list[Any], positive: set[int]) -> Any:
    """What an equation's result is without computing it, or `None`."""
    name = eqn.name
    zeros = [v is _ZERO for v in ins]
    if name in _MOVES and zeros[0]:
        return _ZERO
    if name in ("convert_element_type", "copy", "copy_p") and ins[0] is _EYE:
        return _EYE
    if name == "transpose" and ins[0] is _EYE:
        return _EYE
    if name in ("mul", "dot_general", "conv_general_dilated") and any(zeros):
        return _ZERO
    if name in ("add", "add_any", "sub") and any(zeros):
        if all(zeros):
            return _ZERO
        if zeros[0] and name != "sub" and _whole(eqn, 1):
            return ins[1]
        if zeros[1] and _whole(eqn, 0):
            return ins[0]
    if name == "dot_general" and ins[1] is _EYE:
        (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
        if not batch and contracted == (eqn.ins[0].aval.ndim - 1,):
            return ins[0]
    if name == "conv_general_dilated" and ins[1] is _EYE and _keeps_size(eqn):
        return ins[0]
    if _is_relu(eqn, ins) and id(ins[0]) in positive:
        return ins[0]
    return None


def _whole(eqn: Equation, operand: int) -> bool:
    return _shape(eqn.outs[0]) == _shape(eqn.raw.invars[operand])


def _shape(v: Any) -> Shape:
    return tuple(v.aval.shape)


def _keeps_size(eqn: Equation) -> bool:
    strides = set(eqn.params["window_strides"])
    kernel = _shape(eqn.raw.invars[1])
    odd = all(kernel[axis] % 2 for axis in eqn.params["dimension_numbers"].rhs_spec[2:])
    whole = _shape(eqn.outs[0]) == _shape(eqn.raw.invars[0])
    return strides == {1} and odd and whole and eqn.params["feature_group_count"] == 1


def _is_relu(eqn: Equation, ins: list[Any]) -> bool:
    if eqn.name != "max" or not isinstance(ins[1], Const):
        return False
    uniform = ins[1].uniform
    return uniform is not None and float(uniform) == 0.0


def _names(equations: Sequence[Equation]) -> list[str]:
    return [eqn.name for eqn in equations]


def identity_kernel(shape: Shape, dtype: Any) -> np.ndarray:
    """The identity of a dense [n, n] or convolution [..., n, n] kernel with odd sides.

    >>> identity_kernel((3, 1, 1), np.float32).ravel().tolist()
    [0.0, 1.0, 0.0]
    """
    out = np.zeros(shape, dtype)
    centre = tuple(size // 2 for size in shape[:-2])
    out[centre] = np.eye(shape[-1], dtype=dtype)
    return out
