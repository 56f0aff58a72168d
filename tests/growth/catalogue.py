"""A small model with two grown axes, and one of every kind of optimizer that Optax makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from tests.growth import zoo
from trainkit._core.paths import path_name
from trainkit.growth.maps.algebra import expand
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap


def copies(source, split="even", seed=0):
    """An axis that is written (copied) and one that reads it (split), as growth makes them."""
    source = np.asarray(source)
    n = source.max() + 1
    if split == "even":
        share = 1.0 / np.bincount(source, minlength=n)[source]
    else:
        share = np.random.default_rng(seed).uniform(0.2, 1.0, len(source))
        share = share / np.bincount(source, share, n)[source]
    ones = np.ones(len(source))
    return AxisMap(source, ones, share), AxisMap(source, share, ones)


def mlp_growth(source, split="even"):
    """3 → n → n → 2: both hidden layers grow through π = source."""
    write, read = copies(source, split)
    return MapData(
        {
            "in/b": LeafMap((write,)),
            "in/w": LeafMap((None, write)),
            "mid/b": LeafMap((write,)),
            "mid/w": LeafMap((read, write)),
            "out/w": LeafMap((read, None)),
        }
    )


def mlp_params(n, seed=0, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, dtype)
    return {
        "in": {"w": draw(3, n), "b": draw(n)},
        "mid": {"w": draw(n, n), "b": draw(n)},
        "out": {"w": draw(n, 2), "b": draw(2)},
    }


mlp, _ = zoo.REGISTRY["two hidden layers, gelu"].at()


def batch(step):
    angle = jnp.arange(24.0, dtype=jnp.float64).reshape(8, 3) + 0.3 * step
    return jnp.sin(angle), jnp.cos(1.7 * angle[:, :2])


def loss(params, step):
    x, y = batch(step)
    return jnp.mean((mlp(params, x) - y) ** 2)


def grow_params(params, growth):
    def one(path, leaf):
        name = path_name(path)
        how = growth.leaves.get(name)
        return leaf if how is None else expand(leaf, how, weight=1, new="fill")

    return jax.tree_util.tree_map_with_path(one, params)


def grow_gradients(grads, growth):
    def one(path, leaf):
        name = path_name(path)
        how = growth.leaves.get(name)
        return leaf if how is None else expand(leaf, how, gradient=1)

    return jax.tree_util.tree_map_with_path(one, grads)


def extra(name, params, step):
    """What some rules ask for beside the gradient, made for any parameters."""
    if name in ("momo", "momo_adam", "polyak", "plateau"):
        return {"value": loss(params, step)}
    if name in ("backtracking", "zoom"):
        value, grad = jax.value_and_grad(loss)(params, step)
        return {"value": value, "grad": grad, "value_fn": lambda p: loss(p, step)}
    if name == "sophia":
        return {"obj_fn": lambda p: loss(p, step)}
    return {}


def is_matrix(tree):
    return jax.tree.map(lambda x: x.ndim == 2, tree)


LR = 1e-2

OPTIMIZERS = {
    # The rules that exact continuation is measured on.
    "sgd": lambda: optax.sgd(LR),
    "momentum": lambda: optax.sgd(LR, 0.9, nesterov=True),
    "adamw": lambda: optax.adamw(LR, weight_decay=0.1),
    "lion": lambda: optax.lion(LR / 10, weight_decay=0.1),
    "lamb": lambda: optax.lamb(LR, weight_decay=0.1),
    "adafactor": lambda: optax.adafactor(LR, min_dim_size_to_factor=2),
    "muon": lambda: contrib.muon(LR, weight_decay=0.1),
    # The rest, so that every class of state occurs.
    "acprop": lambda: contrib.acprop(LR),
    "adadelta": lambda: optax.adadelta(1.0),
    "adafactor_momentum": lambda: optax.adafactor(
        LR, min_dim_size_to_factor=2, momentum=0.9, dtype_momentum=jnp.float64
    ),
    "adafactor_single": lambda: optax.adafactor(LR, min_dim_size_to_factor=2, momentum=0.9),
    "adafactor_whole": lambda: optax.adafactor(LR, min_dim_size_to_factor=128),
    "adagrad": lambda: optax.adagrad(LR),
    "adamax": lambda: optax.adamax(LR),
    "adan": lambda: optax.adan(LR),
    "ademamix": lambda: contrib.ademamix(LR),
    "adopt": lambda: contrib.adopt(LR),
    "amsgrad": lambda: optax.amsgrad(LR),
    "apply_every": lambda: optax.chain(optax.apply_every(3), optax.scale(-LR)),
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5, store_grad=True)
    ),
    "belief": lambda: optax.adabelief(LR),
    "centred_rms": lambda: optax.rmsprop(LR, centered=True, momentum=0.9),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(LR)),
    "cocob": lambda: contrib.cocob(),
    "conditionally_mask": lambda: optax.conditionally_mask(
        optax.adam(LR), lambda step, *_, **__: step % 2 == 0
    ),
    "conditionally_transform": lambda: optax.chain(
        optax.conditionally_transform(optax.scale_by_adam(), lambda step, *_, **__: step % 2 == 0),
        optax.scale(-LR),
    ),
    "dadapt": lambda: contrib.dadapt_adamw(1.0),
    "decay_schedule": lambda: optax.chain(
        optax.add_decayed_weights(lambda count: 0.1 / (1 + count)), optax.scale(-LR)
    ),
    "dog": lambda: contrib.dog(1.0),
    "dowg": lambda: contrib.dowg(1.0),
    "ema": lambda: optax.chain(optax.ema(0.9), optax.scale(-LR)),
    "finite": lambda: optax.apply_if_finite(optax.adam(LR), 3),
    "frozen": lambda: optax.partition(
        {"a": optax.adam(LR), "b": optax.set_to_zero()},
        lambda tree: jax.tree.map(lambda m: "a" if m else "b", is_matrix(tree)),
    ),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(
        learning_rate=optax.linear_schedule(LR, 0.0, 100)
    ),
    "lars": lambda: optax.lars(LR, momentum=0.9),
    "lbfgs": lambda: optax.chain(optax.scale_by_lbfgs(memory_size=3), optax.scale(-LR)),
    "lookahead": lambda: optax.lookahead(optax.adam(LR), 3, 0.5),
    "madgrad": lambda: contrib.madgrad(LR),
    "masked": lambda: optax.chain(optax.masked(optax.trace(0.9), is_matrix), optax.scale(-LR)),
    "mechanic": lambda: contrib.mechanize(optax.adam(LR)),
    "momo": lambda: contrib.momo(LR),
    "momo_adam": lambda: contrib.momo_adam(LR),
    "monitor": lambda: optax.chain(
        optax.snapshot("raw", lambda updates: updates),
        optax.monitor({"size": optax.measure_with_ema(optax.tree.norm, 0.9)}),
        optax.sgd(LR),
    ),
    "multi_steps": lambda: optax.MultiSteps(optax.adam(LR), 3),
    "named": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.adam(LR))),
    "noise": lambda: optax.chain(optax.add_noise(0.0, 0.5, jax.random.key(0)), optax.sgd(LR)),
    "novograd": lambda: optax.novograd(LR, weight_decay=0.0),
    "optimistic": lambda: optax.optimistic_gradient_descent(LR),
    "over_gradients": lambda: optax.chain(
        optax.scale_by_distance_over_gradients(param_dtype=jnp.float64), optax.scale(-1.0)
    ),
    "plateau": lambda: optax.chain(optax.sgd(LR), contrib.reduce_on_plateau()),
    "polyak": lambda: optax.polyak_sgd(LR),
    "prodigy": lambda: contrib.prodigy(1.0),
    "rms": lambda: optax.rmsprop(LR),
    "centred_counted": lambda: optax.rmsprop(LR, centered=True, bias_correction=True),
    "rms_counted": lambda: optax.rmsprop(LR, bias_correction=True, momentum=0.9),
    "rprop": lambda: optax.rprop(LR),
    "sam": lambda: contrib.sam(optax.adam(LR), optax.sgd(0.05), sync_period=2),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(LR, 100)),
    "schedule_free": lambda: contrib.schedule_free_adamw(LR, weight_decay=0.1),
    "simple_ademamix": lambda: contrib.simplified_ademamix(LR),
    "sm3": lambda: optax.sm3(0.1),
    "sophia": lambda: contrib.sophia(LR, verbose=False),
    "split_complex": lambda: contrib.split_real_and_imaginary(optax.adam(LR)),
    "yogi": lambda: optax.yogi(LR),
    "zero_nans": lambda: optax.chain(optax.zero_nans(), optax.sgd(LR)),
    "zoom": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_zoom_linesearch(5, initial_guess_strategy="one")
    ),
}
