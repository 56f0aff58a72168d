"""A request for parts of a checkpoint: select leaves, match them, read them, fill the tree."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit.loop.saved.containers import JsonPath, nested, renamed_path, to_json
from trainkit.loop.saved.leaves import is_key, leaves_by_name, paths_by_name
from trainkit.loop.transfer.filling import filled
from trainkit.loop.transfer.matching import Match, match
from trainkit.loop.transfer.opt_state import PARAMS, in_optimizer, slots
from trainkit.loop.transfer.restored import Restored
from trainkit.loop.transfer.selection import Patterned, Patterns, is_subtree, renamed
from trainkit.loop.transfer.source import opened
from trainkit.step.state import TrainState

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of `restore`; `restored` reads one step."""

    folder: Path
    into: PyTree
    only: Patterns | None
    rename: Mapping[str, str]
    fresh: Patterned
    cast: Any
    tx: optax.GradientTransformation | None

    def restored(self, step: int) -> Restored:
        info, read = opened(self.folder, step)
        saved = list(info["_leaves"])
        names, cut = self._names(saved, self.where(step))
        theirs = {
            name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
            for name, (shape, dtype) in info["_leaves"].items()
        }
        tree = self._template(names, theirs, info["_ways"])
        source = dict(names)
        if self.into is not None or self.tx is not None:
            source |= self._slots(tree, names, info["_ways"])
        found = self.match(theirs, tree, source, self.wanted(cut), step)
        values = read(set(found.taken.values()))
        state = self._filled(tree, {new: values[old] for new, old in found.taken.items()})
        return self._result(state, info, info["_step"], found, tree)

    def where(self, step: int) -> str:
        if self.folder.is_file():
            return str(self.folder)
        return f"The checkpoint of step {step} in {self.folder}"

    def _names(self, saved: list[str], where: str) -> tuple[dict[str, str], str]:
        """Name in the result -> name in the checkpoint; and the subtree that is returned alone."""
        chosen = saved
        if self.only is not None:
            only = Patterned(self.only)
            only.check_used("only", saved, where)
            chosen = [name for name in saved if name in only]
        names = renamed(chosen, self.rename, where)
        if not is_subtree(self.only, saved):
            return names, ""
        if self.into is None:
            alone = self.tx is None
        else:
            alone = not leaves_by_name(self.into).keys() & names.keys()
        if not alone:
            return names, ""
        cut = str(self.only)
        inside = lambda name: name.removeprefix(cut).lstrip("/") or "state"
        return {inside(new): old for new, old in names.items()}, cut

    def wanted(self, cut: str) -> Callable[[str], bool]:
        """The predicate: must a leaf of the tree be found in the checkpoint?"""
        if self.only is None or cut:
            # The guard's counters depend on the options of the step.
            return lambda name: not name.startswith("guard/")
        asked = Patterned([*Patterned(self.only).patterns, *map(re.escape, self.rename.values())])
        return lambda name: name in asked

    def _template(
        self,
        names: Mapping[str, str],
        theirs: Mapping[str, Any],
        paths: Mapping[str, JsonPath],
    ) -> PyTree:
        """The tree to fill: arrays or shapes."""
        if self.into is not None:
            if self.cast not in (True, False):
                raise ValueError(f"cast={self.cast!r}: `into` has the dtypes; pass cast=True.")
            return self.into
        if self.cast is True:
            raise ValueError('cast=True needs `into`, which has the dtypes; or cast="bfloat16".')
        leaves = {new: self._shape(theirs[old]) for new, old in names.items()}
        tree = nested(leaves, {new: renamed_path(new, paths[old]) for new, old in names.items()})
        if self.tx is None:
            return tree
        if not (isinstance(tree, dict) and PARAMS in tree):
            raise ValueError('tx= needs the parameters: omit `only`, or add "params" to it.')
        create = functools.partial(TrainState.create, tx=self.tx)
        state = tree.get("model_state", {})
        return jax.eval_shape(lambda p, m: create(p, model_state=m), tree[PARAMS], state)

    def _shape(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if self.cast is False or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(self.cast))

    def _slots(
        self, tree: PyTree, names: Mapping[str, str], paths: Mapping[str, JsonPath]
    ) -> dict[str, str]:
        """The sources of the leaves of an optimizer state, except for those in `rename`."""
        ours = {name: to_json(path) for name, path in paths_by_name(tree).items()}
        chosen = set(names.values())
        theirs = {n: parts for n, parts in paths.items() if n in chosen or not in_optimizer(n)}
        cut = lambda name: name.removeprefix(f"{PARAMS}/")
        moved = {cut(old): cut(new) for new, old in names.items() if old.startswith(PARAMS)}
        found = slots(theirs, ours, moved)
        explicit = [new for new, old in names.items() if new != old]
        return {n: found.get(n, "") for n in ours if in_optimizer(n) and n not in explicit}

    def match(
        self,
        theirs: Mapping[str, Any],
        tree: PyTree,
        source: Mapping[str, str],
        wanted: Callable[[str], bool],
        step: int,
    ) -> Match:
        ours = leaves_by_name(tree)
        self.fresh.check_used("fresh", list(ours), "`into`")
        return match(
            theirs,
            ours,
            source,
            wanted,
            fresh=self.fresh,
            cast=self.cast is not False,
            begins=self.tx is not None,
            where=self.where(step),
        )

    def _filled(self, tree: PyTree, values: Mapping[str, Any]) -> PyTree:
        if self.into is None and self.tx is None:  # keys, and arrays on the host
            likes = leaves_by_name(tree)
            done = [x if is_key(x) else x.astype(likes[name].dtype) for name, x in values.items()]
            return jax.tree.unflatten(jax.tree.structure(tree), done)
        return filled(tree, values, self.tx, new=self.into is None)

    def _result(
        self, state: PyTree, info: Mapping[str, Any], step: int, found: Match, tree: PyTree
    ) -> Restored:
        used = set(found.taken.values())
        rest = [n for n in leaves_by_name(tree) if n not in found.taken and n not in found.begun]
        return Restored(
            state,
            info,
            self.folder,
            step,
            found.taken,
            left=tuple(name for name in info["_leaves"] if name not in used),
            kept=tuple(rest),
            begun=found.begun,
            cast=found.cast,
        )
