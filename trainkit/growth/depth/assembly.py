"""Layers are added: the big program without its new layers is a wider small program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

from trainkit.growth.depth.alignment import PLACES, Origins
from trainkit.growth.depth.candidate import DepthCandidate, with_whole_leaves
from trainkit.growth.depth.flat_model import FlatModel, Shape, more_rows, row_by_row
from trainkit.growth.depth.identity import used, with_identity_inputs
from trainkit.growth.depth.identity_search import identity_layers
from trainkit.growth.depth.layer_cut import cut_layers
from trainkit.growth.depth.loops.layer_axes import Stacks, longer
from trainkit.growth.depth.loops.resting_iterations import Resting, resting
from trainkit.growth.depth.loops.shortened_loops import shortened
from trainkit.growth.depth.new_channels import with_new_channels
from trainkit.growth.depth.new_leaves import holding, idle_leaves, not_alone, without_model
from trainkit.growth.depth.origins import candidates
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.program import Folder, Program
from trainkit.growth.ir.simplification.identities import Parts, Supposition, is_eye, shape_of
from trainkit.growth.ir.simplification.opened_loops import opened
from trainkit.growth.ir.simplification.partial_evaluation import reduced
from trainkit.growth.plan.data import Layer


def depth_candidates(
    small: FlatModel,
    big: FlatModel,
    how: str,
    folder: Folder,
    trainable: Callable[[str], bool],
    place: str,
    tried: list[tuple[Stacks, Origins]],
) -> Iterator[DepthCandidate | Conflict]:
    """The possible ways to add layers, the likeliest first.

    Args:
      small, big: the two models.
      how: the operator for depth.
      folder: flattens bodies.
      trainable: name -> whether the parameter may be set.
      place: the order of new layers; see `depth.alignment.order`.
      tried: the alignments that were yielded before, which are skipped; extended.

    Yields:
      A candidate or a conflict for each alignment of layers; nothing if there are no new layers.
    """
    rows = more_rows(small, big)
    if rows[1]:
        models = row_by_row(small, rows[0]), row_by_row(big, rows[1])
        leaf = lambda name: above if (above := name.rpartition("/")[0]) in rows[1] else name
        of_rows = lambda name: trainable(leaf(name))
        for found in _candidates(*models, how, folder, of_rows, place, tried, square=False):
            if isinstance(found, Conflict):
                yield found.about({name: leaf(name) for name in models[1].shapes})
            else:
                yield with_whole_leaves(found, (small, big), rows)
        return
    yield from _candidates(small, big, how, folder, trainable, place, tried)


def _candidates(
    small: FlatModel,
    big: FlatModel,
    how: str,
    folder: Folder,
    trainable: Callable[[str], bool],
    place: str,
    tried: list[tuple[Stacks, Origins]],
    square: bool = True,
) -> Iterator[DepthCandidate | Conflict]:
    """`depth_candidates` of leaves as they are; `square`: whether identities grow with widths."""
    stacks = longer(small, big, place)
    if isinstance(stacks, Conflict):
        yield stacks
        return
    if list(small.shapes) == list(big.shapes) and not stacks:
        return
    ways = _DepthSearch(small, big, stacks, folder, trainable, square)
    for origins in candidates((small, big), place, ways.attempt):
        if isinstance(origins, Conflict):
            yield origins
        elif (stacks, origins) not in tried:
            tried.append((stacks, origins))
            yield ways.attempt(origins, how)


def more_layers(small: FlatModel, big: FlatModel) -> bool:
    """Whether leaves that are stacked over layers have more of them in the big model."""
    return bool(more_rows(small, big)[1] or longer(small, big, PLACES[0]))


class _DepthSearch:
    """The search for candidates; holds what all alignments share."""

    def __init__(
        self,
        small: FlatModel,
        big: FlatModel,
        stacks: Stacks,
        folder: Folder,
        trainable: Callable[[str], bool],
        square: bool,
    ):
        self.small, self.big, self.stacks = small, big, stacks
        self.folder, self.trainable, self.square = folder, trainable, square
        self.names = list(big.shapes)
        self.number = {name: i for i, name in enumerate(self.names)}

        @functools.cache
        def reduced_small(merged: bool, inside: bool) -> Program:
            program = opened(small.program, folder) if inside else small.program
            return reduced(program, {}, merged=merged)

        self.reduced_small = reduced_small
        self._shortened = functools.cache(self._shorter)

    @functools.cached_property
    def _resting(self) -> Resting | Conflict:
        """What makes new iterations of loops identities."""
        return resting(self.big, self.stacks, self.folder, self.trainable)

    def _shorter(self, zeros: frozenset[int]) -> tuple[Program, dict[str, Shape]] | Conflict:
        """The big program with the small model's loop lengths, and the shapes of its leaves.

        `zeros`: the results of loops that new iterations leave at 0.
        """
        program, shapes = self.big.program, dict(self.big.shapes)
        if not self.stacks:
            return program, shapes
        keep = {
            self.number[name]: (axis, [i for i, (_, new) in enumerate(rows) if not new])
            for name, (axis, rows) in self.stacks.items()
        }
        shorter = shortened(program, keep, zeros)
        if isinstance(shorter, Conflict):
            return shorter
        for name, (axis, rows) in self.stacks.items():
            sizes = list(shapes[name])
            sizes[axis] = sum(not new for _, new in rows)
            shapes[name] = tuple(sizes)
        return shorter, shapes

    def attempt(self, origins: Origins, how: str) -> DepthCandidate | Conflict:
        """The candidate for one alignment."""
        resting = self._resting if self.stacks and how == "identity" else Resting({}, frozenset())
        if isinstance(resting, Conflict):
            return resting
        shorter = self._shortened(resting.zeros)
        if isinstance(shorter, Conflict):
            return shorter
        program, shapes = shorter
        layers = self._layers(origins, resting.becomes)
        small = self.small
        old = {str(origin.leaf): name for name, origin in origins.items() if not origin.new}
        for name, there in old.items():
            if len(small.shapes[name]) != len(shapes[there]):
                ranks = f"{shapes[there]}, and {name} of the small model {small.shapes[name]}"
                return Conflict(f"{there} has shape {ranks}", "layers", params=(there,))
        new = [name for name, origin in origins.items() if origin.new]
        candidate = DepthCandidate(layers, old, shapes, small.program, program, {})
        if not new:
            return candidate
        idle = idle_leaves(self.small, self.big, origins, new)
        if idle:
            return Conflict(
                "the parameters of the two models have different structures. Only big_params has: "
                f"{idle[:5]}, which the big function does not use",
                "layers",
                params=tuple(idle[:6]),
                hint="pass the parameters of big_fn alone",
            )
        return (
            self._identities(candidate, new)
            if how == "identity"
            else self._copies(candidate, new, how)
        )

    def _layers(
        self, origins: Origins, becomes: Mapping[str, Supposition | Parts]
    ) -> dict[str, Layer]:
        return {
            name: holding(
                Layer(
                    origin.leaf,
                    origin.new,
                    axis=self.stacks[name][0] if name in self.stacks else 0,
                    rows=tuple(self.stacks[name][1]) if name in self.stacks else (),
                ),
                becomes.get(name, "copy"),
            )
            for name, origin in origins.items()
        }

    def _inputs(self, old: Mapping[str, str]) -> dict[int, int]:
        """Number of an input of the small program -> its number in the big one."""
        n, m = len(self.small.shapes), len(self.big.shapes)
        pairs = {i: self.number[old[name]] for i, name in enumerate(self.small.shapes)}
        extra = range(len(self.small.program.ins) - n)
        return pairs | {n + i: m + i for i in extra}

    def _identities(self, candidate: DepthCandidate, new: list[str]) -> DepthCandidate | Conflict:
        """The candidate whose new layers are identities."""
        program, shapes, names = candidate.big, self.big.shapes, self.names
        assert program is not None
        places = {self.number[name]: name for name in new}
        old = self._inputs(candidate.old)
        proved = identity_layers(
            self.reduced_small, program, shapes, places, old, self.trainable, self.folder
        )
        channels: tuple[int, ...] = ()
        chosen: dict[int, Supposition] = {}
        parts: Mapping[int, Supposition | Parts] = {}
        if isinstance(proved, Conflict):
            found = with_new_channels(
                self.reduced_small(True, False), reduced(program, {}), places.keys(), old
            )
            if found is None:
                return proved
            small, after, channels = found
        else:
            chosen, program, parts = dict(proved.chosen), proved.program, proved.parts
            both = proved.close(proved.small), proved.close(proved.big)
            if both[0] is None or both[1] is None:
                return _not_closed(new)
            small, after = both[0], both[1]
            # Behind zeros the others may hold anything, and need not be square.
            live = used(reduced(program, chosen, keep_eyes=True))
            chosen = {i: what for i, what in chosen.items() if not is_eye(what) or i in live}
        layers = dict(candidate.layers)
        for i, name in places.items():
            layer = layers[name]
            same = layer.source is not None and shapes[candidate.old[layer.source]] == shapes[name]
            kind: Supposition = "copy" if same else without_model(self.big.program, i)
            layers[name] = holding(layer, parts.get(i, chosen.get(i, kind)), kind)
        candidate = candidate._replace(layers=layers, small=small, big=after, channels=channels)
        eyes = [i for i, what in chosen.items() if is_eye(what)]
        if isinstance(proved, Conflict) or not eyes:
            return candidate
        wide = proved.arrange(reduced(program, chosen, keep_eyes=True, merged=False))
        pair = proved.small, proved.big
        widened = with_identity_inputs(pair, wide, eyes, old) if self.square else None
        if widened is None:
            return not_alone(wide, {names[i]: i for i in eyes}) or candidate
        narrow, square = widened
        both = proved.close(narrow), proved.close(wide)
        if both[0] is None or both[1] is None:
            return _not_closed(new)
        named = dict(zip((names[i] for i in eyes), square, strict=True))
        shapes = candidate.shapes | {n: shape_of(wide.ins[self.number[n]]) for n in named}
        return candidate._replace(small=both[0], big=both[1], eyes=named, shapes=shapes)

    def _copies(
        self, candidate: DepthCandidate, new: list[str], how: str
    ) -> DepthCandidate | Conflict:
        """The candidate whose new layers are copies of old ones."""
        assert candidate.big is not None
        shapes, old = self.big.shapes, candidate.old
        for name in new:
            source = candidate.layers[name].source
            if source is None or source not in old or shapes[old[source]] != shapes[name]:
                return Conflict(
                    f"how={how!r} copies layers, but no old layer has the shapes of {name}",
                    "layers",
                    params=tuple(new[:4]),
                    hint="use how='identity', whose new layers do not need an old one",
                )
        if all(self.small.shapes[a] == candidate.shapes[b] for a, b in old.items()):
            return candidate._replace(big=None)
        places = {self.number[name] for name in new}
        inputs, parameters = self._inputs(old), len(self.small.shapes)
        cut = cut_layers(self.small.program, candidate.big, inputs, places, parameters)
        if cut is None:
            return Conflict(
                "width and depth grow together, and the big model without the layers of "
                f"{new[0]} is not the small model",
                "layers",
                params=tuple(new[:4]),
                hint="grow in two steps: first width, then depth",
            )
        return candidate._replace(big=cut)


def _not_closed(new: list[str]) -> Conflict:
    return Conflict(
        "new layers in a loop are identities, but what is left uses values from outside otherwise",
        "layers",
        params=tuple(new[:6]),
        hint="pass these values to the loop as constants, rows or carried values",
    )
