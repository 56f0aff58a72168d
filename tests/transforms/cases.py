"""Every rule of the catalogue, and what stands around rules, beside its reference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit.transforms as tt
from tests.transforms import oracles as o
from trainkit import schedules

COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# name -> (the rule, its oracle)
RULES = {
    "sgd": (lambda: tt.sgd(0.1), o.descent(0.1)),
    "sgd with momentum": (lambda: tt.sgd(0.1, 0.9), o.momentum(0.1, 0.9, 1.0)),
    "momentum, sum": (lambda: tt.momentum(0.1, 0.8), o.momentum(0.1, 0.8, 1.0)),
    "momentum, average": (
        lambda: tt.momentum(0.1, 0.8, "average"),
        o.momentum(0.1, 0.8, 0.2),
    ),
    "nesterov": (lambda: tt.nesterov(0.1, 0.8), o.momentum(0.1, 0.8, 1.0, nesterov=True)),
    "dynamic": (lambda: tt.dynamic_gd(0.3), o.descent(lambda t: 0.3 / (1 + np.sqrt(t)))),
    "adagrad": (lambda: tt.adagrad(0.1), o.adagrad(0.1, 0.1, 1e-7)),
    "rmsprop": (lambda: tt.rmsprop(0.01), o.rmsprop(0.01, 0.9, 1e-8)),
    "rmsprop, centred": (
        lambda: tt.rmsprop(0.01, eps=1e-3, centered=True),
        o.rmsprop(0.01, 0.9, 1e-3, centered=True),
    ),
    "rmsprop, PyTorch's": (
        lambda: tt.rmsprop(0.01, eps=1e-5, eps_in_sqrt=False),
        o.rmsprop(0.01, 0.9, 1e-5, inside=False),
    ),
    "rmsprop with momentum": (
        lambda: tt.rmsprop(0.01, momentum=0.9),
        o.rmsprop(0.01, 0.9, 1e-8, beta=0.9),
    ),
    "adam": (lambda: tt.adam(0.01), o.adam(0.01, 0.9, 0.999, 1e-8)),
    "adamw": (
        lambda: tt.adamw(0.01, weight_decay=0.1),
        o.adam(0.01, 0.9, 0.999, 1e-8, decay=0.1),
    ),
    "adam, coupled decay": (
        lambda: optax.chain(tt.l2(0.1), tt.adam(0.01)),
        o.adam(0.01, 0.9, 0.999, 1e-8, coupled=0.1),
    ),
    "adam, decoupled decay": (
        lambda: optax.chain(tt.adam(0.01), tt.decoupled_weight_decay(0.01, 0.1)),
        o.adam(0.01, 0.9, 0.999, 1e-8, decay=0.1),
    ),
    "lion": (lambda: tt.lion(0.01, weight_decay=0.1), o.lion(0.01, 0.9, 0.99, 0.1)),
    "l1": (lambda: optax.chain(tt.l1(0.2), tt.sgd(0.01)), o.penalised(0.01, l1=0.2)),
    "l2": (lambda: optax.chain(tt.l2(0.2), tt.sgd(0.01)), o.penalised(0.01, l2=0.2)),
    "decoupled decay": (
        lambda: optax.chain(tt.sgd(0.1), tt.decoupled_weight_decay(0.1, 0.2)),
        o.penalised(0.1, decoupled=0.02),
    ),
    "soft threshold": (
        lambda: optax.chain(tt.sgd(0.1), tt.soft_threshold(0.1, 0.5)),
        o.proximal(0.1, 0.5),
    ),
    "clip by value": (
        lambda: optax.chain(tt.clip_by_value(0.7), tt.sgd(0.1)),
        o.clipped(0.1, o.clip_value(0.7)),
    ),
    "clip by norm": (
        lambda: optax.chain(tt.clip_by_norm(1.5), tt.sgd(0.1)),
        o.clipped(0.1, o.clip_leaf(1.5)),
    ),
    "clip by global norm": (
        lambda: optax.chain(tt.clip_by_global_norm(4.0), tt.sgd(0.1)),
        o.clipped(0.1, o.clip_global(4.0)),
    ),
    "clip adaptively": (
        lambda: optax.chain(tt.clip_adaptive(0.5), tt.sgd(0.1)),
        o.clipped(0.1, o.clip_adaptive(0.5, 1e-3)),
    ),
    "centralised": (lambda: optax.chain(tt.centralize(), tt.sgd(0.1)), o.centralised(0.1)),
    "muon": (
        lambda: tt.muon(0.01, weight_decay=0.1),
        o.muon(0.01, COEFFICIENTS, 5, 0.95, 1e-8, 0.9, 0.999, decay=0.1),
    ),
    "adafactor": (
        lambda: tt.adafactor(0.02, min_dim_size_to_factor=3),
        o.adafactor(0.02, 0.8, 1e-30, 1.0, 3),
    ),
    "schedule-free": (lambda: tt.schedule_free(0.1), o.schedule_free(0.1, 0.9)),
    "schedule-free adamw": (
        lambda: tt.schedule_free_adamw(0.02),
        o.schedule_free(0.02, 0.9, b2=0.999),
    ),
    "adabelief": (lambda: tt.adabelief(0.01), o.adabelief(0.01, 0.9, 0.999, 1e-16, 1e-16)),
    "adadelta": (lambda: tt.adadelta(0.5), o.adadelta(0.5, 0.9, 1e-6)),
    "adamax": (lambda: tt.adamax(0.01), o.adamax(0.01, 0.9, 0.999, 1e-8)),
    "amsgrad": (lambda: tt.amsgrad(0.01), o.amsgrad(0.01, 0.9, 0.999, 1e-8)),
    "nadam": (lambda: tt.nadam(0.01), o.nadam(0.01, 0.9, 0.999, 1e-8)),
    "nadamw": (
        lambda: tt.nadamw(0.01, weight_decay=0.1),
        o.nadam(0.01, 0.9, 0.999, 1e-8, decay=0.1),
    ),
    "radam": (lambda: tt.radam(0.01), o.radam(0.01, 0.9, 0.999, 1e-8)),
    "yogi": (lambda: tt.yogi(0.01), o.yogi(0.01, 0.9, 0.999, 1e-3)),
    "novograd": (
        lambda: tt.novograd(0.01, weight_decay=0.1),
        o.novograd(0.01, 0.9, 0.25, 1e-6, 0.1),
    ),
    "lamb": (
        lambda: tt.lamb(0.01, weight_decay=0.1),
        o.lamb(0.01, 0.9, 0.999, 1e-6, 0.1),
    ),
    "lars": (
        lambda: tt.lars(0.5, weight_decay=0.1),
        o.lars(0.5, 0.9, 0.001, 0.1),
    ),
    # What stands around a rule.
    "a schedule": (
        lambda: tt.sgd(schedules.warmup(schedules.inverse_sqrt(0.1, 20), 10)),
        o.descent(lambda t: 0.1 * t / 10 if t < 10 else 0.1 / np.sqrt(1 + (t - 10) / 20)),
    ),
    "names": (
        lambda: tt.named(clip=tt.clip_by_global_norm(4.0), sgd=tt.sgd(0.1)),
        o.clipped(0.1, o.clip_global(4.0)),
    ),
    "groups": (
        lambda: tt.groups([("w", tt.adam(0.01)), ("[vz]", tt.sgd(0.1, 0.9)), (".*", None)]),
        o.parted(
            {
                "w": o.adam(0.01, 0.9, 0.999, 1e-8),
                "v": o.momentum(0.1, 0.9, 1.0),
                "z": o.momentum(0.1, 0.9, 1.0),
                "s": o.descent(0.0),
            }
        ),
    ),
    "layer-wise decay": (
        lambda: optax.chain(tt.sgd(0.1), tt.layerwise_decay(["w", "v|z", "s"], 0.5)),
        o.parted(
            {
                "w": o.descent(0.025),
                "v": o.descent(0.05),
                "z": o.descent(0.05),
                "s": o.descent(0.1),
            }
        ),
    ),
    "unfreezing": (
        lambda: tt.gradual_unfreezing(tt.sgd(0.1), [("w", 50), (".*", 0)]),
        o.parted(
            {
                "w": o.descent(lambda t: 0.1 * (t >= 50)),
                **dict.fromkeys("vzs", o.descent(0.1)),
            }
        ),
    ),
    "accumulated": (
        lambda: tt.accumulate(tt.adam(0.01), 4),
        o.accumulated(o.adam(0.01, 0.9, 0.999, 1e-8), 4),
    ),
    "guarded": (
        lambda: tt.skip_nonfinite(tt.adam(0.01)),
        o.adam(0.01, 0.9, 0.999, 1e-8),
    ),
    "averaged": (
        lambda: tt.average_params(tt.adam(0.01)),
        o.adam(0.01, 0.9, 0.999, 1e-8),
    ),
}


def draws(key, order):
    """The noise that a rule with this key draws, in the order of the leaves, step after step."""

    def draw(t, shapes, dtype):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(key), t), len(order))
        return {
            k: np.asarray(jax.random.normal(one, shapes[k], dtype), np.float64)
            for k, one in zip(order, keys, strict=True)
        }

    return draw


def noisy(dtype):
    """Rules with noise: what is drawn is data to the references, in the dtype it is drawn in."""
    draw = lambda t, shapes: draws(3, sorted(shapes))(t, shapes, jnp.dtype(dtype))
    return {
        "gradient noise": (
            lambda: optax.chain(tt.gradient_noise(0.3, key=3), tt.sgd(0.1)),
            o.noisy(0.1, lambda t: np.sqrt(0.3 / (1 + t) ** 0.55), draw),
        ),
        "sgld": (
            lambda: tt.sgld(1e-3, num_data=20, prior=2.0, key=3),
            o.langevin(1e-3, 20, 2.0, draw),
        ),
    }
