"""What parameters of new layers hold, for these to do nothing; found and proved on the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from trainkit._core.compat import scan_counts
from trainkit.growth.depth.flat_model import FlatModel, Shapes
from trainkit.growth.depth.identity import choices, identity_iteration, same_equations, used
from trainkit.growth.depth.layer_axes import Stacked, stacked
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.partial_evaluation import reduced
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Equation, Folder, Program
from trainkit.growth.ir.source_lines import where
from trainkit.growth.ir.zero_analysis import nearest_zeros

Becomes = Literal["copy", "zero", "eye", "one", "random"]
_FUNCTION_CHANGING = "how='stack', 'interpose', 'middle' or 'last'"


def identity_layers(
    before: Program,
    program: Program,
    shapes: Shapes,
    new: Mapping[int, str],
    trainable: Callable[[str], bool],
) -> tuple[dict[int, str], Program] | Conflict:
    """Which parameters of new layers are 0 or an identity matrix, for the layers to do nothing.

    Args:
      before: the small program, reduced.
      program: the big one.
      shapes: of its parameters.
      new: number of an input of the big program that belongs to a new layer -> its name.
      trainable: which of them may be set.

    Returns:
      Number of an input -> what it is, and the big program under these suppositions, which is
      equation for equation the small one; or the conflict, where there is none.
    """
    free = {i for i, name in new.items() if trainable(name)}
    nearest = nearest_zeros(program, free)
    for chosen in choices(program, list(shapes.values()), free, nearest):
        after = reduced(program, chosen)
        if same_equations(before, after) and not used(after) & new.keys():
            return chosen, after
    zero, names = [list(shapes)[i] for i in sorted(nearest)], list(new.values())
    return Conflict(
        f"the layer of {names[0]} cannot be made an identity: with "
        f"{', '.join(zero[:4]) or 'no parameters'} at 0 it still does something, and it is no "
        "square layer between ReLUs either",
        "layers",
        params=tuple(names[:6]),
        hint="a norm behind the residual addition (post-norm) needs a gate, as in x + gate · "
        "block(x) with gate = 0; plain layers need ReLU between them and square kernels; or add "
        f"layers that change the function: {_FUNCTION_CHANGING}",
    )


def identity_rows(
    big: FlatModel, stacks: Mapping[str, Any], folder: Folder, trainable: Callable[[str], bool]
) -> dict[str, Becomes] | Conflict:
    """What the new rows of stacked leaves are, for their iterations of the loop to do nothing."""
    names = list(big.shapes)
    facts = stacked(big.program)
    result: dict[str, Becomes] = {}
    for eqn in big.program.equations:
        if eqn.name != "scan":
            continue
        rows: dict[int, Row] = {}
        first = sum(scan_counts(eqn.params))
        for i, v in enumerate(eqn.ins[first:], first):
            fact = facts.of(v)
            name = names[fact.input] if 0 <= fact.input < len(names) else None
            if name is not None and name in stacks and fact.axes[0] == stacks[name][0]:
                rows[i] = Row(name, fact)
        if not rows:
            continue
        chosen = _resting(eqn, rows, folder, trainable)
        if isinstance(chosen, Conflict):
            return chosen
        result |= {rows[i].name: "zero" if what == "zero" else "eye" for i, what in chosen.items()}
    return result


class Row(NamedTuple):
    """What a loop takes from a stacked leaf in one iteration, and how it comes from the leaf."""

    name: str
    fact: Stacked

    @property
    def keeps_identity(self) -> bool:
        """Whether it is an identity matrix where the leaf's row is one."""
        order = list(self.fact.axes[1:])
        return self.fact.same and (order == sorted(order) or len(order) == 2)


def _resting(
    eqn: Equation, rows: Mapping[int, Row], folder: Folder, trainable: Callable[[str], bool]
) -> dict[int, str] | Conflict:
    """What rows of stacked parameters are in an iteration of a loop that does nothing."""
    carry = scan_counts(eqn.params)
    body = folder.flatten(eqn.params["jaxpr"])
    free = {i for i, row in rows.items() if trainable(row.name) and row.fact.zero}
    same = {i for i, row in rows.items() if row.keeps_identity}
    inside = Program(body.ins, body.equations, body.outs[: carry[1]])
    nearest = nearest_zeros(inside, free)
    chosen = identity_iteration(
        inside, [v.aval.shape for v in body.ins], free, nearest, same, carry
    )
    if chosen is not None:
        return chosen
    return Conflict(
        "new layers of a loop cannot be made to add nothing: with "
        f"{', '.join(rows[i].name for i in sorted(nearest)) or 'no parameters'} at 0 the "
        "carry still changes",
        "layers",
        params=tuple(row.name for row in rows.values())[:6],
        primitive=eqn.name,
        source=where(eqn),
        hint="a norm behind the residual addition (post-norm) needs a gate; or add layers "
        f"that change the function: {_FUNCTION_CHANGING}",
    )


def without_model(program: Program, place: int) -> Becomes:
    """What a leaf without a model to copy starts with: what multiplies is 1, what is added 0."""
    var = program.ins[place]
    if len(var.aval.shape) > 1:
        return "random"
    follows = {id(var)}
    for eqn in program.equations:
        if any(id(v) in follows for v in eqn.ins):
            if eqn.name == "mul":
                return "one"
            if eqn.name in ("add", "sub"):
                return "zero"
            if not (traits(eqn).move == "whole" or traits(eqn).same):
                break
            follows.add(id(eqn.outs[0]))
    return "random" if var.aval.shape else "one"
