"""Right rules, written as few write them: of each nothing should be said."""

import dataclasses
import functools

import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def right(name, factory, **more):
    CASES.add(name, lambda bug=None: factory, {}, **more)


# State ------------------------------------------------------------------------------------------


@flax.struct.dataclass
class Held:
    moment: object
    age: jax.Array
    decay: float = flax.struct.field(pytree_node=False, default=0.9)


def struct_momentum():
    def init(params):
        return Held(zeros(params), jnp.int32(0))

    def update(grads, state, params=None):
        moment = tmap(lambda m, g: state.decay * m + g, state.moment, grads)
        out = tmap(lambda m: -0.1 * m, moment)
        return out, state.replace(moment=moment, age=optax.safe_increment(state.age))

    return optax.GradientTransformation(init, update)


right("a Flax struct with a static field", struct_momentum, like="sgd",
      h={"learning_rate": 0.1, "momentum": 0.9})  # fmt: skip


class Moments(eqx.Module):
    first: object
    second: object
    step: jax.Array
    b1: float = eqx.field(static=True, default=0.9)
    b2: float = eqx.field(static=True, default=0.99)

    def advanced(self, g):
        mix = lambda b, old, new: b * old + (1 - b) * new
        return Moments(
            tmap(functools.partial(mix, self.b1), self.first, g),
            tmap(lambda v, g: mix(self.b2, v, g * g), self.second, g),
            optax.safe_increment(self.step),
        )

    def direction(self):
        gone = lambda b, x: x / (1 - b**self.step).astype(x.dtype)
        return tmap(
            lambda m, v: gone(self.b1, m) / (jnp.sqrt(gone(self.b2, v)) + 1e-8),
            self.first, self.second,
        )  # fmt: skip


def module_adam():
    def init(params):
        return Moments(zeros(params), zeros(params), jnp.zeros((), jnp.int32))

    def update(grads, state, params=None):
        state = state.advanced(grads)
        return tmap(lambda u: -1e-2 * u, state.direction()), state

    return optax.GradientTransformation(init, update)


right("an Equinox module as state", module_adam, like="adam",
      h={"learning_rate": 1e-2, "b2": 0.99})  # fmt: skip


def nested_state():
    """A tuple in a list in a dict, with None where a leaf has nothing."""

    def init(params):
        flat = jax.tree.leaves(params)
        return {"all": [(jnp.zeros_like(p), None) if p.ndim > 1 else (None, ()) for p in flat]}

    def update(grads, state, params=None):
        flat, tree = jax.tree.flatten(grads)
        out, new = [], []
        for g, (m, rest) in zip(flat, state["all"], strict=True):
            m = None if m is None else 0.5 * m + 0.5 * g
            out.append(-0.1 * (g if m is None else m))
            new.append((m, rest))
        return tree.unflatten(out), {"all": new}

    return optax.GradientTransformation(init, update)


right("a list of tuples and None as state", nested_state, claims={"odd": True, "degree": 1})


# Objects and closures -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SignRule:
    """An object with two methods, which `update` gives no parameters."""

    rate: float = 1e-2

    def init(self, params):
        return ()

    def update(self, grads, state, params=None):
        return tmap(lambda g: -self.rate * jnp.sign(g), grads), state


right("an object with init and update", SignRule, like="sign_sgd", h={"learning_rate": 1e-2})


def by_closures():
    """Each stage is a function that is given the next one."""

    def clipped(rest):
        def stage(g):
            norm = optax.global_norm(g)
            return rest(tmap(lambda x: x / jnp.maximum(norm, 1.0).astype(x.dtype), g))

        return stage

    def scaled(rate):
        return lambda g: tmap(lambda x: -rate * x, g)

    whole = clipped(scaled(0.5))
    return optax.stateless(lambda g, p: whole(g))


right("stages of functions", by_closures, claims={"odd": True})


# Hyper-parameters ---------------------------------------------------------------------------------


def injected():
    return optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)


right("injected hyper-parameters", injected, like="sgd",
      h={"learning_rate": 0.1, "momentum": 0.9})  # fmt: skip


def rate_in_the_state():
    """The user may set `state["rate"]`; the schedule inside is of the rule's own."""
    schedule = optax.cosine_decay_schedule(1.0, 100)

    def init(params):
        return {"rate": jnp.asarray(0.1, f32), "step": jnp.zeros((), jnp.int32)}

    def update(grads, state, params=None):
        size = state["rate"] * schedule(state["step"])
        out = tmap(lambda g: -(size * g.astype(f32)).astype(g.dtype), grads)
        return out, {**state, "step": optax.safe_increment(state["step"])}

    return optax.GradientTransformation(init, update)


right("a rate that is part of the state", rate_in_the_state, claims={"odd": True, "degree": 1})


# Groups -------------------------------------------------------------------------------------------


def grouped():
    rules = {"matrix": optax.adam(1e-3), "rest": optax.sgd(1e-2, momentum=0.9)}
    return optax.partition(rules, lambda p: tmap(lambda x: ("rest", "matrix")[x.ndim > 1], p))


right("one rule for matrices, another for the rest", grouped)


def masked_decay():
    kernels = lambda p: tmap(lambda x: x.ndim > 1, p)
    decay = optax.masked(optax.add_decayed_weights(0.1), kernels)
    return optax.chain(optax.scale_by_adam(), decay, optax.scale(-1e-2))


right("decay of matrices only, by a mask", masked_decay)


# Extra arguments ----------------------------------------------------------------------------------


def with_temperature():
    def update(grads, state, params=None, *, temperature=1.0, **unused):
        del unused
        t = jnp.asarray(temperature)
        return tmap(lambda g: -0.1 * g / t.astype(g.dtype), grads), state

    return optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)


right("an optional extra argument", with_temperature, claims={"element-wise": True})


def needs_temperature():
    def update(grads, state, params=None, *, temperature, **unused):
        del unused
        return tmap(lambda g: -0.1 * g / temperature.astype(g.dtype), grads), state

    return optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)


right("a needed extra argument", needs_temperature, extra={"temperature": jnp.float32(2.0)})
