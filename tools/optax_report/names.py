"""The public names of Optax that have no row in the report, each with the reason."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any

TYPES = "a class or a type: it holds a state, or says what a function takes"
MODULES = "a module: what it exports of rules and schedules is exported by optax as well"
LOSS = "a loss, a function of predictions and not of gradients"
ALGEBRA = "linear algebra or arithmetic that rules are written with"
CLIPPING = "clips gradients for a rule or for the user, and holds no state: no rule by itself"
MOMENT = "a moment's recursion, which the rules that use it are checked with"
PARAMETERS = "acts on parameters or on states, after or beside the update"
SKIP = "an argument of MultiSteps: it says which gradients to skip"

REASONS: dict[str, str] = {
    "init_empty_state": "an init function, part of other rules",
    "lookahead": "wraps parameters in pairs of fast and slow ones, so it has no tree of its own",
    "stateless": "makes a rule from a function",
    "stateless_with_tree_map": "makes a rule from a function",
    "with_extra_args_support": "changes a type, not a rule",
    "WrappedSchedule": "the class behind inject_stateful_hyperparams",
    "schedules.StatefulSchedule": "an interface, which WrappedSchedule fills in",
    "multi_transform": "another name of partition",
    "microbatch": "transforms a function, not gradients",
    "contrib.hutchinson_estimator_diag_hessian": "an estimate of a Hessian, in the place of "
    "updates, which sophia asks for; sophia is checked",
    "contrib.schedule_free_eval_params": PARAMETERS,
    "multi_normal": "a distribution",
    "scale_gradient": "changes the derivative of a function, inside that function",
    "value_and_grad_from_state": "takes a value out of a search's state, instead of computing it",
    **dict.fromkeys(("apply_updates", "incremental_update", "periodic_update", "tree_map_params"),
                    PARAMETERS),
    **dict.fromkeys(("bias_correction", "update_moment", "update_infinity_moment",
                     "update_moment_per_elem_norm"), MOMENT),
    **dict.fromkeys(("global_norm", "matrix_inverse_pth_root", "nnls", "power_iteration",
                     "safe_increment", "safe_int32_increment", "safe_norm",
                     "safe_root_mean_squares"), ALGEBRA),
    **dict.fromkeys(("transforms.unitwise_clip", "transforms.unitwise_norm",
                     "per_example_global_norm_clip", "per_example_layer_norm_clip"), CLIPPING),
    **dict.fromkeys(("skip_large_updates", "skip_not_finite"), SKIP),
    **dict.fromkeys(("convex_kl_divergence", "cosine_distance", "cosine_similarity", "ctc_loss",
                     "ctc_loss_with_forward_probs", "generalized_kl_divergence", "hinge_loss",
                     "huber_loss", "kl_divergence", "l2_loss", "log_cosh", "ntxent",
                     "safe_softmax_cross_entropy", "sigmoid_binary_cross_entropy",
                     "sigmoid_focal_loss", "smooth_labels", "softmax_cross_entropy",
                     "softmax_cross_entropy_with_integer_labels", "squared_error"), LOSS),
}  # fmt: skip


def public() -> Iterator[tuple[str, Any]]:
    """(name, object) for every public name of optax, its contrib, transforms and schedules."""
    import optax

    seen: set[int] = set()
    homes = {"": optax, "contrib.": optax.contrib, "transforms.": optax.transforms,
             "schedules.": optax.schedules}  # fmt: skip
    for prefix, home in homes.items():
        for name in sorted(n for n in dir(home) if not n.startswith("_")):
            made = getattr(home, name)
            if prefix in ("", "contrib.") or id(made) not in seen:
                yield prefix + name, made
            seen.add(id(made))


def reason(name: str, made: Any) -> str | None:
    """Why a public name has no row; `None` if there is no reason yet."""
    if name in REASONS:
        return REASONS[name]
    if isinstance(made, types.ModuleType):
        return MODULES
    if inspect.isclass(made) or type(made).__module__ in ("typing", "collections.abc", "types"):
        return TYPES if not callable(getattr(made, "update", None)) else None
    return None
