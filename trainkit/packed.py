"""A tree of many small arrays, stored in one buffer per dtype.

A step over hundreds of small leaves is dominated by the overhead per buffer. Here parameters,
gradients and moments stay flat from step to step; only the model uses the tree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name, same_structure

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Layout:
    """The place of each leaf in the buffers: static and hashable; created by `Packed.pack`.

    Attributes:
      treedef: the structure of the tree.
      shapes: the shape of each leaf.
      groups: the name of each leaf's buffer.
      offsets: the index in the buffer at which each leaf begins.
    """

    treedef: Hashable
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[str, ...]
    offsets: tuple[int, ...]

    def __hash__(self) -> int:
        return hash((self.treedef, self.shapes, self.groups))


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A tree of arrays, stored as one flat buffer for each dtype (and sharding).

    It is a pytree whose leaves are the buffers, so every element-wise rule works on it:
    `tx.init(packed)` returns packed moments, `jax.grad` of `lambda p: loss(p.tree)` packed
    gradients, and `tx.update` runs over a few large arrays. Rules that treat each leaf separately
    (Muon, Adafactor, LAMB, clipping by leaf) or use paths (groups, masks) need the tree: unpack
    for them. Clipping by *global* norm works.

    Checkpoints store the buffers, and `trainkit.growth.grow` grows them; the models that it
    compares take the tree. `unpack_all(state)` replaces every packed node of a state by its tree;
    `pack_all` is the inverse.

    >>> import jax, jax.numpy as jnp, trainkit.transforms as tt
    >>> params = Packed.pack({"w": jnp.ones((2, 3)), "b": jnp.zeros(3)})
    >>> tx = tt.adamw(1e-3)
    >>> state = tx.init(params)
    >>> grads = jax.grad(lambda p: jnp.sum((p.tree["w"] @ p.tree["b"] - 1) ** 2))(params)
    >>> updates, state = tx.update(grads, state, params)
    >>> params = tt.apply_updates(params, updates)
    >>> params.tree["w"].shape, [x.shape for x in jax.tree.leaves(params)]
    ((2, 3), [(9,)])
    """

    def __init__(self, buffers: dict[str, Any], layout: Layout):
        self.buffers = buffers
        self.layout = layout

    @classmethod
    def pack(cls, tree: PyTree, like: Packed | None = None) -> Packed:
        """Copies the leaves of a tree into one buffer for each dtype and sharding.

        A sharded leaf has its own buffer, in its own shape, because a flat buffer could not have
        its sharding. With `like`, the grouping of leaves is that of `like`: for moments whose dtype
        differs from that of their parameters.

        Raises:
          TypeError: a leaf is not an array.
        """
        leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
        parts: dict[str, list[Any]] = {}
        shapes, groups, offsets = [], [], []
        filled: dict[str, int] = {}
        for i, (path, leaf) in enumerate(leaves):
            if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
                raise TypeError(
                    f"Packed.pack: the leaf {path_name(path)} is a {type(leaf).__name__}."
                )
            group = _group(leaf, path) if like is None else like.layout.groups[i]
            shapes.append(tuple(leaf.shape))
            groups.append(group)
            offsets.append(filled.get(group, 0))
            filled[group] = offsets[-1] + math.prod(leaf.shape)
            parts.setdefault(group, []).append(leaf)
        layout = Layout(treedef, tuple(shapes), tuple(groups), tuple(offsets))
        return cls({group: _join(group, part) for group, part in parts.items()}, layout)

    @property
    def tree(self) -> PyTree:
        """The tree, as slices of the buffers; packing its gradient costs one copy."""
        leaves: list[Any] = [None] * len(self.layout.shapes)
        for group, buffer in self.buffers.items():
            members = [i for i, g in enumerate(self.layout.groups) if g == group]
            if _has_own_buffer(group):
                leaves[members[0]] = buffer
                continue
            shapes = [self.layout.shapes[i] for i in members]
            # `split`, not slices: its gradient is one concatenation; that of n slices is n paddings
            # to the full length.
            pieces = jax.lax.split(buffer, [math.prod(s) for s in shapes])
            for i, shape, piece in zip(members, shapes, pieces, strict=True):
                leaves[i] = piece.reshape(shape)
        return jax.tree_util.tree_unflatten(self.layout.treedef, leaves)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        names = sorted(self.buffers)
        keys = [(jax.tree_util.DictKey(n), self.buffers[n]) for n in names]
        return keys, (tuple(names), self.layout)

    @classmethod
    def tree_unflatten(cls, static: Any, buffers: Any) -> Packed:
        names, layout = static
        return cls(dict(zip(names, buffers, strict=True)), layout)

    def __repr__(self) -> str:
        sizes = {n: getattr(b, "shape", b) for n, b in self.buffers.items()}
        return f"Packed({len(self.layout.shapes)} leaves in {sizes})"


def unpack_all(state: PyTree) -> PyTree:
    """The state with every packed node replaced by its tree.

    >>> import jax.numpy as jnp
    >>> packed = Packed.pack({"w": jnp.ones(2)})
    >>> unpack_all((packed, 3))[0]["w"].shape
    (2,)
    """
    is_one = lambda x: isinstance(x, Packed)
    return jax.tree.map(lambda x: x.tree if is_one(x) else x, state, is_leaf=is_one)


def pack_all(state: PyTree, like: PyTree) -> PyTree:
    """Packs every subtree of a state that has the structure and shapes of the parameters `like`.

    The inverse of `unpack_all`, also after the tree has grown: pass the grown parameters.

    Raises:
      ValueError: no subtree has that structure.
    """
    structure: Any = jax.tree.structure(like)
    shapes = [jnp.shape(x) for x in jax.tree.leaves(like)]
    packed_like = Packed.pack(like)
    found = []

    def is_one(node: Any) -> bool:
        # Also compares shapes: if the parameters are one array, any leaf has their structure.
        return same_structure(jax.tree.structure(node), structure) and shapes == [
            jnp.shape(x) for x in jax.tree.leaves(node)
        ]

    def one(node: Any) -> Any:
        if not is_one(node):
            return node
        found.append(1)
        return Packed.pack(node, packed_like)

    packed = jax.tree.map(one, state, is_leaf=is_one)
    if not found:
        raise ValueError(
            f"pack_all: nothing in the state has the structure of the parameters, {structure}."
        )
    return packed


def repack(state: PyTree, before: PyTree, params: Packed) -> PyTree:
    """Packs an unpacked state at the nodes where `before` is packed, with the layout of `params`.

    For functions that change the trees of `unpack_all(before)`, such as growth.

    >>> import jax.numpy as jnp
    >>> before = (Packed.pack({"w": jnp.ones(2)}), 3)
    >>> repack(({"w": jnp.ones(5)}, 3), before, Packed.pack({"w": jnp.ones(5)}))
    (Packed(1 leaves in {'float32': (5,)}), 3)
    """
    return jax.tree.map(
        lambda old, new: Packed.pack(new, params) if isinstance(old, Packed) else new,
        before,
        state,
        is_leaf=lambda x: isinstance(x, Packed),
    )


def _group(leaf: Any, path: Any) -> str:
    dtype = np.dtype(leaf.dtype).name
    sharding = None if isinstance(leaf, jax.core.Tracer) else getattr(leaf, "sharding", None)
    if sharding is None or len(sharding.device_set) == 1 or sharding.is_fully_replicated:
        return dtype
    return f"{dtype}:{path_name(path)}"


def _has_own_buffer(group: str) -> bool:
    return ":" in group


def _join(group: str, parts: list[Any]) -> Any:
    if _has_own_buffer(group):
        return jnp.copy(parts[0])
    if any(isinstance(part, jax.ShapeDtypeStruct) for part in parts):
        size = sum(math.prod(part.shape) for part in parts)
        return jax.ShapeDtypeStruct((size,), parts[0].dtype)
    return jnp.concatenate([jnp.asarray(part).reshape(-1) for part in parts])
