"""The public class `GrowthMap`: a realised growth and its methods."""

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
    """How every leaf of one model becomes a leaf of another, with all random values drawn.

    Parameters, moments, exact continuation and certificate come from this one object, so they use
    the same random values. Its fields are those of
    `trainkit.growth.maps.growth_map.MapData`: `leaves`, `origin`, `zeroed`, `proof`, `rates`, ….

    >>> import jax, jax.numpy as jnp, optax
    >>> from trainkit import growth
    >>> def net(p, x):
    ...     return jax.nn.gelu(x @ p["in"]) @ p["out"]
    >>> draw = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
    >>> small, x, tx = draw(4), jnp.ones((5, 3)), optax.adamw(1e-3)
    >>> growth_map = growth.plan(net, net, small, draw(8), x).realise(jax.random.key(0))
    >>> big, state = growth_map.params(small), growth_map.opt_state(tx, tx.init(small), small)
    >>> growth_map.proof, bool(jnp.allclose(net(big, x), net(small, x)))
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
        """The big model's parameters, which compute the same function as `params`.

        Args:
          params: the small model's parameters, with the planned shapes and dtypes.
          donate: whether to delete the buffers of `params`.
          out_shardings: a sharding, or a pytree of shardings, for the result.
          like: the big model's parameters or their shapes. The result has their tree structure
            (Equinox modules store their sizes in it). `None`: the structure of `params`, or that of
            the plan if it adds layers. Leaves of new layers that copy no old leaf take the values
            of `like`, if it has any.

        Returns:
          A pytree like `params` (packed if they are packed), with the big model's shapes and the
          same dtypes. Arithmetic is in float32 for narrower dtypes.

        Raises:
          GrowthError: leaves, shapes or dtypes of `params` are not those of the plan.
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

        f is the factor on the gradient, and π the index map of the leaf.

        Args:
          tx: the gradient transformation, the same before and after.
          opt_state: its state for the small parameters.
          params, grown_params: the parameters before and after growth. They are needed if the state
            contains copies of parameters (EMA, schedule-free) and growth drew random values.
          slots, reset: see `trainkit.growth.opt_state.grow.grow_opt_state`.
          donate: whether to delete the buffers of `opt_state`.
          out_shardings: a sharding, or a pytree of shardings, for the result.

        Returns:
          A state with the structure and dtypes of `opt_state` and the shapes of the big model.

        Raises:
          GrowthError: a state class is not in the table of slots, or the state is not that of `tx`.
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
        """Exact continuation: a transformation under which the grown model follows the small one.

        Args:
          tx: any gradient transformation.
          anneal: the number of steps over which to move to plain training, or a schedule from 0 to
            1; `None`: never. See `trainkit.growth.opt_state.exact.exact`.
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
        """The grown training state, for a map of `{"params": …, "model_state": …}`.

        Pure and jittable.

        Args:
          tx: the transformation of `state.opt_state`.
          state: the small model's state.
          like: the big model's variables or their shapes, if their tree structure differs.
          slots, reset: see `opt_state`.

        Raises:
          GrowthError: the class of an optimizer state is unknown.
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
        """Grows the parameters and measures the result.

        Args:
          small, big: the two functions `fn(params, *inputs)` of the plan. For a map of training
            states: the models that `growth.grow` takes.
          params: the small model's parameters (arrays). For a map of training states: the small
            `TrainState`.
          *inputs: arguments of both functions, arrays or shapes. For a training state: the example.
          tx: the transformation of the run.
          opt_state: its state for `params`; `None` for `tx.init(params)`.
          like, slots: see `params` and `opt_state`.
          steps: probe steps of `tx` after which copies are compared.
          seed: for the loss (a random functional of the outputs), and for inputs that are shapes.

        Raises:
          GrowthError: the parameters are not those of the plan, or the state is not that of `tx`.

        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> from trainkit import TrainState, growth
        >>> x, tx = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), optax.sgd(1e-2)
        >>> net = lambda n: nn.Sequential([nn.Dense(n), nn.relu, nn.Dense(2)])
        >>> state = TrainState.create(net(4).init(jax.random.key(0), x)["params"], tx)
        >>> grown, growth_map = growth.grow(state, net(4), net(8), x, tx=tx, with_map=True)
        >>> certificate = growth_map.certificate(net(4), net(8), state, x, tx=tx)
        >>> certificate.forward_error["float32"] < 1e-6, certificate.parameters
        (True, (22, 42))
        """
        models, more = (small, big, params, inputs, tx), {"like": like, "slots": slots}
        if hasattr(params, "opt_state"):
            found = of_states(self, *models, **more)
        else:
            found = of_params(self, *models, opt_state=opt_state, **more)
        return certify(*found, tx, steps=steps, seed=seed)
