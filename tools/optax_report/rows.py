"""The rows of the report over Optax: every public rule and schedule, and how it is called."""

from __future__ import annotations

import inspect
import re
from typing import Any

from tools.optax_report.names import REASONS

# The arguments of names without defaults; others get only the learning rate, or nothing.
RATE = "learning_rate=1e-2"
SGD = "optax.sgd(1e-2)"
WRAPPED = ".gradient_transformation()"
CALLS: dict[str, str] = {
    "adadelta": RATE,
    "adafactor": RATE,
    "adaptive_grad_clip": "clipping=0.01",
    "add_decayed_weights": "weight_decay=0.1",
    "add_noise": "eta=0.01, gamma=0.55, key=0",
    "apply_every": "k=3",
    "apply_if_finite": "inner=optax.adam(1e-2), max_consecutive_errors=3",
    "chain": "optax.clip(1.0), optax.adam(1e-2)",
    "clip": "max_delta=0.5",
    "clip_by_block_rms": "threshold=0.5",
    "clip_by_global_norm": "max_norm=1.0",
    "conditionally_mask": f"inner={SGD}, should_transform_fn=lambda step: step < 5",
    "conditionally_transform": f"inner={SGD}, should_transform_fn=lambda step: step < 5",
    "contrib.differentially_private_aggregate": "l2_norm_clip=1.0, noise_multiplier=0.0, key=0",
    "contrib.dpsgd": "learning_rate=1e-2, l2_norm_clip=1.0, noise_multiplier=0.0, seed=0",
    "contrib.mechanize": f"base_optimizer={SGD}",
    "contrib.momo": RATE,
    "contrib.reduce_on_plateau": "patience=3",
    "contrib.sam": f"optimizer={SGD}, "
    "adv_optimizer=optax.chain(optax.contrib.normalize(), optax.sgd(0.05))",
    "contrib.schedule_free": f"base_optimizer={SGD}, learning_rate=1e-2",
    "contrib.split_real_and_imaginary": "inner=optax.adam(1e-2)",
    "ema": "decay=0.9",
    "flatten": "inner=optax.adam(1e-2)",
    "freeze": "mask=False",
    "inject_hyperparams": "optax.adam)(learning_rate=1e-2",
    "inject_stateful_hyperparams": "optax.adam)(learning_rate=1e-2",
    "masked": "inner=optax.adam(1e-2), "
    "mask=lambda p: __import__('jax').tree.map(lambda x: x.ndim > 1, p)",
    "measure_with_ema": "lambda updates, *_, **__: optax.global_norm(updates), 0.9",
    "monitor": "{'norm': lambda updates, *_, **__: optax.global_norm(updates)}",
    "named_chain": "('clip', optax.clip(1.0)), ('adam', optax.adam(1e-2))",
    "noisy_sgd": "learning_rate=1e-2, key=0",
    "partition": "transforms={'one': optax.adam(1e-2), 'two': optax.sgd(1e-2)}, param_labels="
    "lambda p: __import__('jax').tree.map(lambda x: 'one' if x.ndim > 1 else 'two', p)",
    "polyak_sgd": "",
    "scale": "step_size=-0.1",
    "scale_by_learning_rate": RATE,
    "scale_by_schedule": "step_size_fn=optax.linear_schedule(-1.0, -0.1, 20)",
    "scale_by_rprop": RATE,
    "scale_by_backtracking_linesearch": "max_backtracking_steps=15",
    "scale_by_zoom_linesearch": "max_linesearch_steps=15",
    "selective_transform": f"optimizer={SGD}, freeze_mask=False",
    "snapshot": "'norm', lambda updates, *_, **__: optax.global_norm(updates)",
    "trace": "decay=0.9",
    # Schedules.
    "constant_schedule": "value=0.1",
    "cosine_decay_schedule": "init_value=1.0, decay_steps=100, alpha=0.1",
    "cosine_onecycle_schedule": "transition_steps=100, peak_value=1.0",
    "exponential_decay": "init_value=1.0, transition_steps=10, decay_rate=0.9",
    "join_schedules": "schedules=[optax.linear_schedule(0.0, 1.0, 10), optax.constant_schedule(1.0)"
    "], boundaries=[10]",
    "linear_onecycle_schedule": "transition_steps=100, peak_value=1.0",
    "linear_schedule": "init_value=1.0, end_value=0.1, transition_steps=100",
    "piecewise_constant_schedule": "init_value=1.0, boundaries_and_scales={20: 0.5, 50: 0.1}",
    "piecewise_interpolate_schedule": "interpolate_type='cosine', init_value=1.0, "
    "boundaries_and_scales={20: 0.5, 50: 0.1}",
    "polynomial_schedule": "init_value=1.0, end_value=0.1, power=0.5, transition_steps=100",
    "sgdr_schedule": "cosine_kwargs=[dict(init_value=0.0, peak_value=1.0, warmup_steps=5, "
    "decay_steps=50), dict(init_value=0.0, peak_value=0.5, warmup_steps=5, decay_steps=50)]",
    "warmup_constant_schedule": "init_value=0.0, peak_value=1.0, warmup_steps=10",
    "warmup_cosine_decay_schedule": "init_value=0.0, peak_value=1.0, warmup_steps=10, "
    "decay_steps=100, end_value=0.1",
    "warmup_exponential_decay_schedule": "init_value=0.0, peak_value=1.0, warmup_steps=10, "
    "transition_steps=20, decay_rate=0.5",
}
# Further calls, for options that select another rule.
VARIANTS: dict[str, str] = {
    "adam, nesterov": "optax.adam(learning_rate=1e-2, nesterov=True)",
    "rmsprop, centred, momentum": "optax.rmsprop(learning_rate=1e-2, centered=True, momentum=0.9)",
    "sgd, momentum": "optax.sgd(learning_rate=1e-2, momentum=0.9)",
    "sgd, nesterov": "optax.sgd(learning_rate=1e-2, momentum=0.9, nesterov=True)",
    "lbfgs, no search": "optax.lbfgs(learning_rate=0.5, linesearch=None)",
    "contrib.scale_by_muon, dimension numbers": "optax.contrib.scale_by_muon("
    "weight_dimension_numbers=lambda p: __import__('jax').tree.map("
    "lambda x: optax.contrib.MuonDimensionNumbers(), p))",
    "contrib.differentially_private_aggregate, noise": "optax.contrib."
    "differentially_private_aggregate(l2_norm_clip=1.0, noise_multiplier=1.1, key=0)",
    "MultiSteps": f"optax.MultiSteps(opt={SGD}, every_k_schedule=3){WRAPPED}",
    "MultiSteps, adam": f"optax.MultiSteps(opt=optax.adam(1e-2), every_k_schedule=3){WRAPPED}",
    "cosine_decay_schedule, exponent": "optax.cosine_decay_schedule(init_value=1.0, "
    "decay_steps=100, exponent=0.5)",
    "cosine_decay_schedule, one step": "optax.cosine_decay_schedule(init_value=1.0, decay_steps=1)",
    "linear_schedule, no steps": "optax.linear_schedule(init_value=1.0, end_value=0.1, "
    "transition_steps=0)",
    "warmup_cosine_decay_schedule, no warm-up": "optax.warmup_cosine_decay_schedule("
    "init_value=0.0, peak_value=1.0, warmup_steps=0, decay_steps=100)",
    "linear_onecycle_schedule, fraction 0": "optax.linear_onecycle_schedule(transition_steps=100, "
    "peak_value=1.0, pct_start=0.0)",
    "exponential_decay, growing": "optax.exponential_decay(init_value=1.0, transition_steps=10, "
    "decay_rate=1.1)",
}


def constructions() -> dict[str, str]:
    """Row -> the expression that creates its rule."""
    import optax

    rows: dict[str, str] = {}
    for prefix, home in (("", optax), ("contrib.", optax.contrib)):
        for name in sorted(n for n in dir(home) if not n.startswith("_")):
            full = prefix + name
            made = getattr(home, name)
            if (
                full in REASONS
                or inspect.isclass(made)
                or not callable(made)
                or not _makes(made, full)
            ):
                continue
            call = CALLS.get(full)
            if call is None:
                parameters = inspect.signature(made).parameters
                call = RATE if "learning_rate" in parameters else ""
            rows[full] = f"optax.{full}({call})"
    return rows | VARIANTS


def _makes(made: Any, name: str) -> bool:
    if name in CALLS:
        return True
    try:
        result = str(inspect.signature(made).return_annotation)
    except (TypeError, ValueError):
        return False
    unannotated = ("nadam", "nadamw", "scale_by_factored_rms", "contrib.dog", "contrib.dowg")
    return name in unannotated or bool(re.search(r"GradientTransformation|Schedule\b", result))
