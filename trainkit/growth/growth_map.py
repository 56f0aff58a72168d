"""What a growth map can do, for users: the methods of `GrowthMap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import optax

from trainkit.growth import train_state
from trainkit.growth.comparison import of_params, of_states
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.params import grow_params
from trainkit.growth.opt_state.arguments import opt_state_of
from trainkit.growth.opt_state.exact import Anneal, exact
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.views.certificate import Certificate
from trainkit.growth.views.certify import certify
from trainkit.step.state import TrainState

PyTree = Any


class GrowthMap(MapData):
    """How every leaf of one model becomes the leaves of another, everything random drawn.

    Parameters, moments, exact continuation and certificate go by one object, so that what was drawn
    is the same for all of them. Its fields are those of
    `trainkit.growth.maps.growth_map.MapData`: `leaves`, `origin`, `zeroed`, `proof`, `rates`, ….

    >>> import jax, jax.numpy as jnp, optax
    >>> from trainkit import growth
    >>> def net(p, x):
    ...     return jax.nn.gelu(x @ p["in"]) @ p["out"]
    >>> draw = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
    >>> small, x, tx = draw(4), jnp.ones((5, 3)), optax.adamw(1e-3)
    >>> way = growth.plan(net, net, small, draw(8), x).realise(jax.random.key(0))
    >>> big, state = way.params(small), way.opt_state(tx, tx.init(small), small)
    >>> way.proof, bool(jnp.allclose(net(big, x), net(small, x)))
    ('proved', True)
    """

    @classmethod
    def of(cls, data: MapData) -> Self:
        """A map from its data."""
        return cls(**{f.name: getattr(data, f.name) for f in dataclasses.fields(MapData)})

    def params(
        self,
        params: PyTree,
        *,
        donate: bool = False,
        out_shardings: Any = None,
        like: PyTree = None,
    ) -> PyTree:
        """The parameters of the big model that compute what `params` compute in the small one.

        Args:
          params: the small model's parameters, shapes and dtypes as planned.
          donate: whether `params` may be overwritten (their buffers are given up).
          out_shardings: where the results live: a sharding or a pytree of them.
          like: the big model's parameters or their shapes, if the result is to have their
            container (modules that carry their sizes, as Equinox's do); `None` for that of
            `params`, or of the plan if it adds layers. New layers that copy none hold its values,
            if it has any.

        Returns:
          The big model's parameters, a pytree like `params` (packed ones packed) unless layers are
          added, of the same dtypes; the arithmetic is float32 for narrower ones.

        Raises:
          GrowthError: `params` are not those of the plan.
        """
        return grow_params(self, params, donate=donate, out_shardings=out_shardings, like=like)

    def opt_state(
        self,
        tx: optax.GradientTransformation,
        opt_state: PyTree,
        params: PyTree | None = None,
        grown_params: PyTree | None = None,
        *,
        slots: Slots | None = None,
        reset: bool | str | Sequence[str] = False,
        donate: bool = False,
        out_shardings: Any = None,
    ) -> PyTree:
        """The state of `tx` for the grown parameters: slot′ = f^degree · slot[π].

        Args:
          tx: the gradient transformation, the same before and after.
          opt_state: its state for the small parameters.
          params, grown_params: the parameters before and after; needed where the state copies
            parameters (EMA, schedule-free) and growth drew random values for them.
          slots, reset: see `trainkit.growth.opt_state.grow.grow_opt_state`.
          donate: whether the buffers of `opt_state` are given up.
          out_shardings: where the results live: a sharding or a pytree of them.

        Raises:
          GrowthError: the state holds a class that is not in the table of slots, or is not `tx`'s.
        """
        places = {"donate": donate, "out_shardings": out_shardings}
        state, trees = opt_state, (params, grown_params)
        return opt_state_of(self, tx, state, *trees, slots=slots, reset=reset, **places)

    def exact(
        self,
        tx: optax.GradientTransformation,
        *,
        anneal: Anneal | None = None,
        slots: Slots | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """`tx` with factors under which the grown model follows the small one step for step.

        Args:
          tx: the plain gradient transformation, any.
          anneal: over how many steps to go over to plain training (or a schedule from 0 to 1);
            `None`: never. See `trainkit.growth.opt_state.exact.exact`.
          slots: see `trainkit.growth.opt_state.grow.grow_opt_state`.

        Returns:
          A gradient transformation whose state is what `opt_state` returns.
        """
        return exact(tx, self, anneal=anneal, slots=slots)

    def state(
        self,
        tx: optax.GradientTransformation,
        state: TrainState,
        *,
        like: PyTree = None,
        slots: Slots | None = None,
        reset: bool | str | Sequence[str] = False,
    ) -> TrainState:
        """A whole training state, of a map of `{"params": …, "model_state": …}`; pure and jittable.

        Args:
          tx: the transformation that `state.opt_state` belongs to.
          state: the small model's.
          like: the big model's variables or their shapes, where they have other containers.
          slots, reset: see `opt_state`.
        """
        more: dict[str, Any] = {"like": like, "slots": slots, "reset": reset}
        return train_state.grow_state(self, tx, state, **more)

    def certificate(
        self,
        small: Any,
        big: Any,
        params: PyTree,
        *inputs: PyTree,
        tx: optax.GradientTransformation,
        opt_state: PyTree = None,
        like: PyTree = None,
        slots: Slots | None = None,
        steps: int = 3,
        seed: int = 0,
    ) -> Certificate:
        """Grows, and measures what that did.

        Args:
          small, big: the two models: `fn(params, *inputs)`, as the plan was made; of a whole state
            what `growth.grow` takes.
          params: the small model's parameters (arrays); or, for a map of whole states, its
            `TrainState`.
          *inputs: what both are called with, arrays or shapes; of a state the example.
          tx: the transformation that training uses.
          opt_state: its state for `params`; `None` for a fresh one.
          like, slots: see `params` and `opt_state`.
          steps: probe steps of `tx` after which copies are compared.
          seed: for the loss, a random functional of the outputs, and for inputs of which only
            shapes are known.

        Raises:
          GrowthError: the parameters are not those of the plan, or `tx` not their transformation.

        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> from trainkit import TrainState, growth
        >>> x, tx = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), optax.sgd(1e-2)
        >>> net = lambda n: nn.Sequential([nn.Dense(n), nn.relu, nn.Dense(2)])
        >>> state = TrainState.create(net(4).init(jax.random.key(0), x)["params"], tx)
        >>> grown, way = growth.grow(state, net(4), net(8), x, tx=tx, with_map=True)
        >>> certificate = way.certificate(net(4), net(8), state, x, tx=tx)
        >>> certificate.forward_error["float32"] < 1e-6, certificate.parameters
        (True, (22, 42))
        """
        models, more = (small, big, params, inputs, tx), {"like": like, "slots": slots}
        if hasattr(params, "opt_state"):
            found = of_states(self, *models, **more)
        else:
            found = of_params(self, *models, opt_state=opt_state, **more)
        return certify(*found, tx, steps=steps, seed=seed)
