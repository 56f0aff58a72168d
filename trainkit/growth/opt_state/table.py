"""The kind of every field of every optimizer state of Optax and trainkit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit.growth.errors import GrowthError
from trainkit.growth.opt_state.slots import Fields, Kind, Slot, Slots

_MOMENTS: dict[str, Kind] = {"count": "keep", "mu": 1, "nu": 2}
_WRAP: dict[str, Kind] = {"inner_state": "state"}

# By name, not by class, because some classes are private in one Optax release and public in
# another.
OPTAX: dict[str, Fields] = {
    "AccumulateAvgUpdatesState": {"micro_step": "keep", "ready": "keep", "avg_grad": 1},
    "AddNoiseState": {"count": "keep", "rng_key": "keep"},
    "ApplyEvery": {"count": "keep", "grad_acc": 1},
    "ApplyIfFiniteState": {
        "notfinite_count": "keep",
        "last_finite": "keep",
        "total_notfinite": "keep",
        **_WRAP,
    },
    "COCOBState": {
        "init_particles": "params",
        "cumulative_gradients": 1,
        "scale": Slot(gradient=1, new="mean"),
        "subgradients": Slot(gradient=1, new="mean"),
        # Σ g·(p₀ − p): one factor of a gradient and one of a weight.
        "reward": Slot(weight=1, gradient=1),
    },
    "ConditionallyMaskState": {"step": "keep", **_WRAP},
    "ConditionallyTransformState": {"step": "keep", **_WRAP},
    "DAdaptAdamWState": {
        "exp_avg": 1,
        "exp_avg_sq": 2,
        "grad_sum": 1,
        "estim_lr": "keep",
        "numerator_weighted": "keep",
        "count": "keep",
    },
    "DifferentiallyPrivateAggregateState": {"rng_key": "keep"},
    "DoGState": {
        "is_init_step": "keep",
        "init_params": "params",
        "max_dist": "keep",
        "sum_sq_norm_grads": "keep",
    },
    "DoWGState": {
        "init_params": "params",
        "weighted_sq_norm_grads": "keep",
        "estim_sq_dist": "keep",
    },
    "EmaState": {"count": "keep", "ema": 1},
    "HutchinsonState": {"key": "keep"},
    "InjectHyperparamsState": {"count": "keep", "hyperparams": "keep", **_WRAP},
    "InjectStatefulHyperparamsState": {
        "count": "keep",
        "hyperparams": "keep",
        "hyperparams_states": "keep",
        **_WRAP,
    },
    "LookaheadState": {"fast_state": "state", "steps_since_sync": "keep"},
    "MadgradState": {"count": "keep", "grad_sum_sq": 2, "s": 1, "x0": "params"},
    "MaskedState": _WRAP,
    "MechanicState": {
        "base_optimizer_state": "state",
        "count": "keep",
        # Made of ⟨g, Δ⟩, which growth leaves as it is: Σ c f = 1.
        "r": "keep",
        "m": "keep",
        "v": "keep",
        "s": "keep",
        "x0": "params",
    },
    "MomoAdamState": {
        "exp_avg": 1,
        "exp_avg_sq": 2,
        "barf": "keep",
        "gamma": "keep",  # ⟨g, p⟩, left as it is
        "lb": "keep",
        "count": "keep",
    },
    "MomoState": {"exp_avg": 1, "barf": "keep", "gamma": "keep", "lb": "keep", "count": "keep"},
    "MonitorState": {"measurements": "measured", "measure_states": "measured"},
    "MultiStepsState": {
        "mini_step": "keep",
        "gradient_step": "keep",
        "inner_opt_state": "state",
        "acc_grads": 1,
        "skip_state": "keep",
    },
    "MuonState": {"count": "keep", "mu": 1, "ns_coeffs": "keep"},
    "PartitionState": {"inner_states": "state"},
    "PerElementMeanAndSumSqDiffGradsState": {
        "micro_step": "keep",
        "ready": "keep",
        "mean_grads": 1,
        "sum_sq_diff_grads": 2,
    },
    "PerElementMeanAndVarianceEMAState": {
        "count": "keep",
        "ema_decay": "keep",
        "mean_grads_ema": 1,
        "variance_grads_ema": 2,
    },
    "ProdigyState": {
        "exp_avg": 1,
        "exp_avg_sq": 2,
        "grad_sum": 1,
        "params0": "params",
        "estim_lr": "keep",
        "numerator_weighted": "keep",  # ⟨g, p₀ − p⟩, left as it is
        "count": "keep",
    },
    "ReduceLROnPlateauState": {
        "scale": "keep",
        "best_value": "keep",
        "plateau_count": "keep",
        "cooldown_count": "keep",
        "count": "keep",
        "avg_value": "keep",
    },
    "SAMState": {
        "steps_since_sync": "keep",
        "opt_state": "state",
        "adv_state": "state",
        "cache": "params",
    },
    # E[Δx²] depends only on itself and on g/√E[g²]: degree 0 from the first step on.
    "ScaleByAdaDeltaState": {"e_g": 2, "e_x": 0},
    "ScaleByAdamState": _MOMENTS,
    "ScaleByAdanState": {"m": 1, "v": 1, "n": 2, "g": 1, "t": "keep"},
    "ScaleByAdemamixState": {"count": "keep", "count_m2": "keep", "m1": 1, "m2": 1, "nu": 2},
    "ScaleByAmsgradState": {**_MOMENTS, "nu_max": 2},
    "ScaleByBacktrackingLinesearchState": {
        "learning_rate": "keep",
        "value": "keep",
        "grad": 1,
        "info": "keep",
    },
    "ScaleByBeliefState": _MOMENTS,
    "ScaleByDistanceOverGradientsState": {
        "max_dist": Slot(norm_weight=1, per_leaf=True),
        "grad_sum_of_squares": Slot(norm_gradient=2, per_leaf=True),
        "init_params": "params",
    },
    # ⟨Δg, Δp⟩ is left as it is, so the weights of the memory are too.
    "ScaleByLBFGSState": {
        "count": "keep",
        "params": "params",
        "updates": 1,
        "diff_params_memory": Slot(weight=1, lead=1),
        "diff_updates_memory": Slot(gradient=1, lead=1),
        "weights_memory": "keep",
    },
    "ScaleByLionState": {"count": "keep", "mu": 1},
    # μ averages g/‖g‖ of the leaf, ν is ‖g‖².
    "ScaleByNovogradState": {
        "count": "keep",
        "mu": Slot(gradient=1, norm_gradient=-1),
        "nu": Slot(norm_gradient=2, per_leaf=True),
    },
    "ScaleByOptimisticGradientState": {"is_initial_step": "keep", "previous_gradient": 1},
    "ScaleByRStdDevState": {"mu": 1, "nu": 2},
    "ScaleByRStdDevWithCountState": _MOMENTS,
    "ScaleByRmsState": {"nu": 2},
    "ScaleByRmsWithCountState": {"count": "keep", "nu": 2},
    # Both follow the sign of the gradient alone.
    "ScaleByRpropState": {"step_sizes": 0, "prev_updates": Slot()},
    "ScaleByRssState": {"sum_of_squares": 2},
    "ScaleByScheduleState": {"count": "keep"},
    "ScaleBySimplifiedAdEMAMixState": {"t": "keep", "m": 1, "n": 2},
    "ScaleByZoomLinesearchState": {
        "learning_rate": "keep",
        "value": "keep",
        "grad": 1,
        "info": "keep",
    },
    "ScheduleFreeState": {
        "b1": "keep",
        "weight_sum": "keep",
        "step_count": "keep",
        "max_lr": "keep",
        "base_optimizer_state": "state",
        "z": "params",
    },
    "SnapshotState": {"measurement": "measured"},
    # A diagonal of the Gauss-Newton matrix scales as a squared gradient does.
    "SophiaState": {"count": "keep", "mu": 1, "nu": 2, "hessian_fn_state": "state"},
    "SplitRealAndImaginaryState": _WRAP,
    "TraceState": {"trace": 1},
    "WeightDecaySchedule": {"count": "keep"},
    "WrappedScheduleState": {"count": "keep"},
    "ZeroNansState": {"found_nan": "keep"},
}

OURS: dict[str, Fields] = {
    "AccumulateState": {
        "micro_step": "keep",
        "gradient_step": "keep",
        "weight": "keep",
        "accumulated": 1,
        **_WRAP,
    },
    "AdamMiniState": {
        "count": "keep",
        "mu": 1,
        "nu": Slot(gradient=2, new="mean", means=True),
    },
    "AverageState": {"count": "keep", "averaged": "keep", "average": "params", **_WRAP},
    "ExactState": {"step": "keep", "inner": "state"},
    "GuardState": {"skipped": "keep", "in_a_row": "keep", **_WRAP},
    "InjectState": {"count": "keep", "hyperparams": "keep", "scheduled": "keep", **_WRAP},
    # Of gradients made no longer than 1, where they are longer.
    "MarsState": {**_MOMENTS, "last": 1},
    "NewtonState": {"count": "keep", "iterations": "keep"},
    "NoiseState": {"count": "keep", "key": "keep"},
    # A common factor of a matrix's ν cancels in the update.
    "NorMuonState": {
        "count": "keep",
        "mu": 1,
        "nu": Slot(gradient=2, new="mean", means=True),
    },
    "PaceState": {
        "hyperparams": "keep",
        "step": "keep",
        "level": "keep",
        "decay_at": "keep",
        "decay_steps": "keep",
        "ramp_at": "keep",
        # A few numbers for each leaf; `progressive` may set them at a growth.
        "leaves": Slot(per_leaf=True),
        "inner": "state",
    },
    "QuantiseState": {"count": "keep", "key": "keep", **_WRAP},
    "RoundingState": {"count": "keep", "key": "keep", **_WRAP},
    "SlowWeightsState": {"count": "keep", "slow": "params", "outer_state": "state", **_WRAP},
}


def fields_of(state: Any, slots: Slots | None, where: str) -> Fields:
    """The kinds of the fields of one state.

    Raises:
      GrowthError: the class is not in the table; the message shows how to describe it.
    """
    cls = type(state)
    names = tuple(getattr(state, "_fields", ()) or getattr(cls, "__dataclass_fields__", ()))
    known: Fields | None = None
    for candidate, fields in (slots or {}).items():
        if cls is candidate:
            known = fields
    if known is None:
        home = cls.__module__.split(".")[0]
        table: Mapping[str, Fields] = {"optax": OPTAX, "trainkit": OURS}.get(home, {})
        known = table.get(cls.__name__)
    missing = [name for name in names if known is None or name not in known]
    if known is None or missing:
        example = ", ".join(f'"{name}": 1' for name in missing[:3]) or '"mu": 1'
        raise GrowthError(
            f"cannot grow the optimizer state at {where or 'its top'}: {cls.__module__}."
            f"{cls.__qualname__} is not in the table of slots"
            + (f" with its field(s) {missing}" if known is not None else "")
            + f". Describe its fields with slots={{{cls.__name__}: {{{example}}}}}, where 1 is a "
            'momentum (scaled by f), 2 a second moment (by f²), "params" a copy of the parameters, '
            '"keep" a count or scalar, and "state" a nested state.'
        )
    return known
