"""Normal forms of single equations: equal programs that are written differently become the same.

A convolution pads its operand itself. A product takes matrices that are not transposed, and what it
multiplies by a matrix first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit.growth.ir.constants import Const


def normal(producers: Mapping[int, Any], step: Any) -> Any:
    """The equation in its normal form: a new `Equation`, or the same one.

    Args:
      producers: id of a variable -> the equation that produces it, in its normal form.
      step: an equation without results yet.
    """
    if step.name == "conv_general_dilated":
        return _padded(producers, step)
    if step.name == "dot_general":
        return _vector_first(_untransposed(producers, step))
    if step.name == "transpose":
        return _turned(producers, step)
    return step


def _padded(producers: Mapping[int, Any], step: Any) -> Any:
    """A convolution of what was padded with 0 in space, as one that pads it itself."""
    pad = producers.get(id(step.ins[0]))
    if pad is None or pad.name != "pad" or not _is_zero(pad.ins[1]):
        return step
    batch, channels, *space = step.params["dimension_numbers"].lhs_spec
    config = [tuple(map(int, ends)) for ends in pad.params["padding_config"]]
    plain = config[batch] == config[channels] == (0, 0, 0)
    dilated = {*step.params["lhs_dilation"], *(inner + 1 for *_, inner in config)} != {1}
    if not plain or dilated or min(min(ends) for ends in config) < 0:
        return step
    padding = tuple(
        (low + config[d][0], high + config[d][1])
        for d, (low, high) in zip(space, step.params["padding"], strict=True)
    )
    operands = [pad.raw.invars[0], step.raw.invars[1]]
    raw = step.raw.replace(params={**step.params, "padding": padding}, invars=operands)
    return step.changed(raw, [pad.ins[0], step.ins[1]])


def _untransposed(producers: Mapping[int, Any], step: Any) -> Any:
    """A product with transposed matrices as one with the matrices themselves."""
    numbers = [list(pair) for pair in step.params["dimension_numbers"]]
    ins, operands = list(step.ins), list(step.raw.invars)
    for i, v in enumerate(step.ins):
        turned = producers.get(id(v))
        if turned is None or turned.name != "transpose" or len(v.aval.shape) != 2:
            continue
        if not numbers[0][i] and not numbers[1][i]:
            continue  # both dimensions are left, in the other order
        ins[i], operands[i] = turned.ins[0], turned.raw.invars[0]
        for pair in numbers:
            pair[i] = tuple(1 - d for d in pair[i])
    if ins == step.ins:
        return step
    pairs = tuple(map(tuple, numbers))
    raw = step.raw.replace(params={**step.params, "dimension_numbers": pairs}, invars=operands)
    return step.changed(raw, ins)


def _vector_first(step: Any) -> Any:
    """`w @ x` as `x @ w.T`, which is the same if no dimension of x is left."""
    free = _free(step)
    return _swapped(step, step.raw.outvars) if free[0] and not free[1] else step


def _turned(producers: Mapping[int, Any], step: Any) -> Any:
    """`(w @ x.T).T` as `x @ w.T`."""
    product = producers.get(id(step.ins[0]))
    if product is None or product.name != "dot_general":
        return step
    free, batch = _free(product), len(product.params["dimension_numbers"][1][0])
    first, second = (
        range(batch, batch + len(free[0])),
        range(batch + len(free[0]), batch + len(free[0]) + len(free[1])),
    )
    if tuple(step.params["permutation"]) != (*range(batch), *second, *first):
        return step
    return _swapped(product, step.raw.outvars)


def _free(product: Any) -> tuple[list[int], list[int]]:
    """The dimensions of both operands that are neither contracted nor of the batch."""
    contracted, batch = product.params["dimension_numbers"]
    ranks = [len(getattr(v, "aval", v).shape) for v in product.ins]
    first, second = (
        [d for d in range(rank) if d not in (*summed, *kept)]
        for rank, summed, kept in zip(ranks, contracted, batch, strict=True)
    )
    return first, second


def _swapped(product: Any, results: Any) -> Any:
    """A product with its operands in the other order, and the variables of its results."""
    if product.params.get("out_sharding") is not None:
        return product
    numbers = tuple(tuple(pair[::-1]) for pair in product.params["dimension_numbers"])
    raw = product.raw.replace(
        params={**product.params, "dimension_numbers": numbers},
        invars=list(product.raw.invars[::-1]),
        outvars=list(results),
    )
    return product.changed(raw, product.ins[::-1])


def _is_zero(v: Any) -> bool:
    return isinstance(v, Const) and v.is_zero
