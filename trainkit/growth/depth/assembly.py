"""Plans that add layers: the big program without its new layers is the small one, made wider."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from trainkit.growth.depth.alignment import alignments, order
from trainkit.growth.depth.identity import choices, passes_on, same_equations, used, with_eyes
from trainkit.growth.depth.layer_cut import spliced
from trainkit.growth.depth.program_order import Cut, cuts, in_order
from trainkit.growth.depth.stacks import layer_axes, shortened
from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.partial_evaluation import reduced
from trainkit.growth.ir.program import Const, Folder, Program, scan_counts
from trainkit.growth.ir.source_lines import where
from trainkit.growth.ir.zero_analysis import nearest_zeros
from trainkit.growth.plan.data import Layer, Origin, PlanData, unchanged

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Becomes = Literal["copy", "zero", "eye", "one", "random"]


class Side(NamedTuple):
    """One of the two models: its flat program, and the shapes of its parameters in their order."""

    program: Program
    shapes: dict[str, Shape]


class Deeper(NamedTuple):
    """How layers are added.

    Attributes:
      layers: leaf of the deeper model -> where it comes from.
      old: leaf of the small model -> the leaf of the deeper one that it is.
      shapes: leaf of the deeper model -> its shape with the small model's number of layers.
      small, big: the two programs, the second without its new layers; `None` where new layers
        change the function and no width grows, so that there is nothing to prove.
      eyes: leaf of the deeper model that is an identity matrix at the small widths -> its shape
        there. They are further inputs of `small`.
    """

    layers: dict[str, Layer]
    old: dict[str, str]
    shapes: dict[str, Shape]
    small: Program
    big: Program | None
    eyes: dict[str, Shape]


def deeper(
    small: Side, big: Side, how: str, folder: Folder, trainable: Callable[[str], bool]
) -> Iterator[Deeper]:
    """The ways in which the big model may have more layers than the small one; none if it has not.

    Raises:
      GrowthError: it has, but they cannot be added in this way.
    """
    stacks = _stacks(small, big, how)
    if list(small.shapes) == list(big.shapes) and not stacks:
        return
    attempt = lambda origin, how: _deeper(small, big, origin, stacks, how, folder, trainable)
    refused: GrowthError | None = None
    count = 0
    for origin in _origins(_as_used(small), _as_used(big), how, attempt):
        try:
            found = attempt(origin, how)
        except GrowthError as error:
            refused = refused or error
            continue
        count += 1
        yield found
    if not count and refused is not None:
        raise refused


def _origins(
    small: Shapes, big: Shapes, how: str, attempt: Callable[[Any, str], Any]
) -> Iterator[dict[str, Origin]]:
    """Which leaf is which, the likeliest first: by names, and by the order of the programs."""
    refused: GrowthError | None = None
    named: list[dict[str, Origin]] = []
    try:
        for origin in alignments(small, big, how):
            named.append(origin)
            if how == "identity":  # a proof follows that tells right from wrong
                yield origin
    except GrowthError as error:
        refused = error
    if how != "identity":
        ordered = [origin for origin in named if in_order(origin, small, big)]
        if ordered:
            yield from ordered
            return
    found = cuts(small, big)
    if how != "identity" and found:
        found = [_blocks(found, attempt)]
    origins = [cut.origin(how) for cut in found]
    yield from (origin for origin in origins if origin not in named or how != "identity")
    if not found and how != "identity":
        yield from named
    if not found and not named and refused is not None:
        raise refused


def _blocks(found: list[Cut], attempt: Callable[[Any, str], Any]) -> Cut:
    """The cut whose turns are blocks: they can be made to do nothing, and are all of the layers."""

    def rests(cut: Cut) -> bool:
        try:
            attempt(cut.origin("identity"), "identity")
        except GrowthError:
            return False
        return True

    if len(found) == 1:
        return found[0]
    kept = [cut for cut in found if rests(cut)]
    most = max(cut.covers for cut in kept or found)
    best = [cut for cut in kept or found if cut.covers == most]
    if len(best) == 1 or kept:
        return best[0]
    new = [name for name, come in best[0].origin("identity").items() if come.new]
    raise GrowthError(
        "layers have no names of their own, and the order in which they are read does not tell "
        f"where a block begins: the first new one may begin with {new[0]}",
        params=new[:4],
        hint='give blocks a module of their own, or names: name=f"block_{i}"',
    )


def assemble(
    plan: PlanData, found: Deeper, shapes: Shapes, dtypes: Mapping[str, str], how: str
) -> PlanData:
    """The plan for the deeper model, from that for the small one's leaves."""
    made = {leaf.path: leaf for leaf in plan.leaves}
    leaves = []
    for path in shapes:
        layer = found.layers[path]
        twin = None if layer.source is None else made[found.old[layer.source]]
        if path in found.eyes:
            leaf = made[path]
        elif twin is None or (layer.new and shapes[path] != shapes[twin.path]):
            leaf = unchanged(path, shapes[path], dtypes[path])
        else:
            leaf = dataclasses.replace(twin, path=path, big=shapes[path])
        leaves.append(dataclasses.replace(leaf, layer=layer))
    return dataclasses.replace(plan, leaves=tuple(leaves), depth=how)


def _as_used(side: Side) -> dict[str, Shape]:
    """The leaves in the order in which the program comes upon them."""
    number = {id(v): i for i, v in enumerate(side.program.ins)}
    seen = [number[id(v)] for e in side.program.equations for v in e.ins if id(v) in number]
    names = list(side.shapes)
    first = dict.fromkeys(names[i] for i in seen if i < len(names))
    return {name: side.shapes[name] for name in [*first, *names]}


def _stacks(small: Side, big: Side, how: str) -> dict[str, tuple[int, list[tuple[int, bool]]]]:
    """Leaf -> its layer axis and rows, where the two models run a loop over different numbers."""
    before, after = ({list(side.shapes)[i]: found for i, found in
                      layer_axes(side.program).items() if i < len(side.shapes)}
                     for side in (small, big))  # fmt: skip
    result = {}
    for name, (axis, count) in after.items():
        if name in before and before[name][0] == axis and before[name][1] != count:
            result[name] = (axis, order(before[name][1], count, how))
    return result


def _deeper(
    small: Side,
    big: Side,
    origin: dict[str, Origin],
    stacks: dict[str, tuple[int, list[tuple[int, bool]]]],
    how: str,
    folder: Folder,
    trainable: Callable[[str], bool],
) -> Deeper:
    number = {name: i for i, name in enumerate(big.shapes)}
    layers = {
        name: Layer(
            come.leaf,
            come.new,
            axis=stacks[name][0] if name in stacks else 0,
            rows=tuple(stacks[name][1]) if name in stacks else (),
        )
        for name, come in origin.items()
    }
    old = {str(come.leaf): name for name, come in origin.items() if not come.new}
    program, shapes = big.program, dict(big.shapes)
    if stacks:
        becomes = _rows(big, stacks, folder, trainable) if how == "identity" else {}
        for name, what in becomes.items():
            layers[name] = dataclasses.replace(layers[name], becomes=what)
        keep = {
            number[name]: (axis, [i for i, (_, new) in enumerate(rows) if not new])
            for name, (axis, rows) in stacks.items()
        }
        program = shortened(program, keep)
        for name, (axis, rows) in stacks.items():
            sizes = list(shapes[name])
            sizes[axis] = sum(not new for _, new in rows)
            shapes[name] = tuple(sizes)
    _check_sizes(small.shapes, shapes, old)
    new = [name for name, come in origin.items() if come.new]
    if not new:
        return Deeper(layers, old, shapes, small.program, program, {})
    places = {number[name] for name in new}
    seen = used(small.program), used(big.program)
    known = {name for i, name in enumerate(small.shapes) if i in seen[0]}
    idle = [n for n in new if number[n] not in seen[1] and (origin[n].leaf or n) in {*known, n}]
    if idle:
        raise GrowthError(
            f"the parameters of the two models have different structures: only in big_params: "
            f"{idle[:5]}, which the big function does not use",
            params=idle[:6],
            hint="pass the parameters of big_fn alone",
        )
    pairs = {i: number[old[name]] for i, name in enumerate(small.shapes)}
    extra = len(small.program.ins) - len(small.shapes)
    pairs |= {len(small.shapes) + i: len(big.shapes) + i for i in range(extra)}
    if how == "identity":
        before = reduced(small.program, {})
        chosen, after = _identity(before, program, big.shapes, places, new, trainable)
        names = list(big.shapes)
        for i in places:
            layer, name = layers[names[i]], names[i]
            same = layer.source is not None and big.shapes[old[layer.source]] == big.shapes[name]
            kind: Becomes = "copy" if same else _fresh(big.program, i)
            if i in chosen:
                kind = "zero" if chosen[i] == "zero" else "eye"
            layers[name] = dataclasses.replace(layer, becomes=kind)
        if "eye" not in chosen.values():
            return Deeper(layers, old, shapes, before, after, {})
        after = reduced(program, chosen, keep_eyes=True)
        eyes = [i for i, what in chosen.items() if what == "eye" and i in used(after)]
        before, square = with_eyes(before, after, eyes, pairs)
        named = dict(zip((names[i] for i in eyes), square, strict=True))
        return Deeper(layers, old, shapes, before, after, named)
    for name in new:
        source = layers[name].source
        if source is None or source not in old or big.shapes[old[source]] != big.shapes[name]:
            raise GrowthError(
                f"how={how!r} copies layers, but no old layer has the shapes of {name}",
                params=new[:4],
                hint="how='identity' makes new layers that pass their input on",
            )
    if all(small.shapes[a] == shapes[b] for a, b in old.items()):
        return Deeper(layers, old, shapes, small.program, None, {})
    cut = spliced(small.program, program, pairs, places, len(small.shapes))
    if cut is None:
        raise GrowthError(
            "width and depth grow together, and the big model without the layers of "
            f"{new[0]} is not the small one",
            params=new[:4],
            hint="grow in two steps, width and depth one after the other",
        )
    return Deeper(layers, old, shapes, small.program, cut, {})


def _check_sizes(small: Shapes, big: Shapes, old: Mapping[str, str]) -> None:
    for name, there in old.items():
        if len(small[name]) != len(big[there]):
            raise GrowthError(
                f"{there} has shape {big[there]}, and {name} of the small model {small[name]}",
                params=[there],
            )


def _identity(
    before: Program, program: Program, shapes: Shapes, places: set[int], new: list[str],
    trainable: Callable[[str], bool],
) -> tuple[dict[int, str], Program]:  # fmt: skip
    names = list(shapes)
    free = {i for i in places if trainable(names[i])}
    nearest = nearest_zeros(program, free)
    for chosen in choices(program, list(shapes.values()), free, nearest):
        after = reduced(program, chosen)
        if same_equations(before, after) and not used(after) & places:
            return chosen, after
    zero = [names[i] for i in sorted(nearest)]
    raise GrowthError(
        f"the layer of {new[0]} cannot be made an identity: with "
        f"{', '.join(zero[:4]) or 'no parameters'} at 0 it still does something, and it is no "
        "square layer between ReLUs either",
        params=new[:6],
        hint="a norm behind the residual addition (post-norm) needs a gate, as in x + gate · "
        "block(x) with gate = 0; plain layers need ReLU between them and square kernels; or add "
        "layers that change the function: how='stack', 'interpose', 'middle' or 'last'",
    )


def _rows(
    big: Side,
    stacks: Mapping[str, Any],
    folder: Folder,
    trainable: Callable[[str], bool],
) -> dict[str, Becomes]:
    """What the new rows of stacked leaves are, for their turns of the loop to do nothing."""
    names = list(big.shapes)
    number = {id(v): i for i, v in enumerate(big.program.ins)}
    come: dict[int, int] = {}
    result: dict[str, Becomes] = {}
    for eqn in big.program.equations:
        if eqn.name != "scan":
            if len(eqn.outs) == 1:
                inputs = [v for v in eqn.ins if not isinstance(v, Const)]
                if len(inputs) == 1:  # moved about on its way into the loop
                    place = number.get(id(inputs[0]), come.get(id(inputs[0])))
                    if place is not None:
                        come[id(eqn.outs[0])] = place
            continue
        carry = scan_counts(eqn.params)
        stacked = {}
        for i, v in enumerate(eqn.ins[sum(carry) :], sum(carry)):
            place = number.get(id(v), come.get(id(v)))
            if place is not None and place < len(names) and names[place] in stacks:
                stacked[i] = names[place]
        if not stacked:
            continue
        body = folder.flatten(eqn.params["jaxpr"])
        free = {i for i, name in stacked.items() if trainable(name)}
        inside = Program(body.ins, body.equations, body.outs[: carry[1]])
        nearest = nearest_zeros(inside, free)
        chosen = passes_on(inside, [v.aval.shape for v in body.ins], free, nearest, carry)
        if chosen is None:
            raise GrowthError(
                "new layers of a loop cannot be made to add nothing: with "
                f"{', '.join(stacked[i] for i in sorted(nearest)) or 'no parameters'} at 0 the "
                "carry still changes",
                params=list(stacked.values())[:6],
                primitive=eqn.name,
                source=where(eqn),
                hint="a norm behind the residual addition (post-norm) needs a gate; or add layers "
                "that change the function: how='stack', 'interpose', 'middle' or 'last'",
            )
        result |= {stacked[i]: "zero" if what == "zero" else "eye" for i, what in chosen.items()}
    return result


def _fresh(program: Program, place: int) -> Becomes:
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
            if eqn.name in ("broadcast_in_dim", "reshape", "convert_element_type", "expand_dims"):
                follows.add(id(eqn.outs[0]))
            else:
                break
    return "random" if var.aval.shape else "one"
