"""How Optax's own rules and pieces are put together from the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainkit.laws.oracles import accumulators as S
from trainkit.laws.oracles import adaptive as A
from trainkit.laws.oracles import curvature as C
from trainkit.laws.oracles import norms as N
from trainkit.laws.oracles import parameter_free as F
from trainkit.laws.oracles import pieces as P

Piece = Callable[[Mapping[str, Any]], P.Start]
Builder = Callable[[Mapping[str, Any], Callable[[Any], Any]], P.Start]


RMS = "decay eps initial_scale eps_in_sqrt bias_correction"


def _adam_like(h: Mapping[str, Any], **more: Any) -> P.Start:
    return A.adam(h["b1"], h["b2"], h["eps"], h.get("eps_root", 0.0),
                  h.get("nesterov", False), **more)  # fmt: skip


def piece(of: Callable[..., P.Start], names: str = "", **fixed: Any) -> Piece:
    """`of` with these hyper-parameters, in its order, and others that are fixed."""
    return lambda h: of(*(h[name] for name in names.split()), **fixed)


def alone(rule: Piece) -> Builder:
    return lambda h, mask: rule(h)


def after(rule: Piece) -> Builder:
    """rule, then the learning rate."""
    return lambda h, mask: P.chain(rule(h), P.learning_rate(h["learning_rate"]))


def decayed(rule: Piece, where: str = "mask") -> Builder:
    """rule, then decoupled decay (by the mask of that name), then the learning rate."""
    return lambda h, mask: P.chain(
        rule(h), P.decay(h["weight_decay"], mask(h[where])), P.learning_rate(h["learning_rate"])
    )


def adan(h: Mapping[str, Any], mix: float | None = None) -> P.Start:
    """`mix`: the weight of the differences, by default the paper's."""
    return A.adan(h["b1"], h["b2"], h["b3"], h["eps"], h["eps_root"],
                  h["b2"] if mix is None else mix)  # fmt: skip


def _adan(h: Mapping[str, Any], mask: Any) -> P.Start:
    rate = h["learning_rate"]
    return P.chain(
        adan(h),
        P.learning_rate(rate),
        P.proximal_decay(rate, h["weight_decay"], mask(h["mask"])),
    )


def yogi(h: Mapping[str, Any], corrected: bool = False) -> P.Start:
    """The alias has an accumulator of 1e-6, the piece an argument for it."""
    initial = h.get("initial_accumulator_value", 1e-6)
    return A.yogi(h["b1"], h["b2"], h["eps"], h.get("eps_root", 0.0), initial, corrected)


def _rmsprop(h: Mapping[str, Any], mask: Any) -> P.Start:
    parts = [piece(S.rms, RMS, centred=h["centered"])(h), P.learning_rate(h["learning_rate"])]
    if h["momentum"] is not None:
        parts.append(P.trace(h["momentum"], h["nesterov"]))
    return P.chain(*parts)


def _sgd(h: Mapping[str, Any], mask: Any) -> P.Start:
    momentum = [] if h["momentum"] is None else [P.trace(h["momentum"], h["nesterov"])]
    return P.chain(*momentum, P.learning_rate(h["learning_rate"]))


def lars(h: Mapping[str, Any], mask: Any, sum_first: bool = False) -> P.Start:
    """`sum_first`: the divisor is the norm of g + β w, where the paper adds the norms."""
    decays, trusts = mask(h["weight_decay_mask"]), mask(h["trust_ratio_mask"])
    ratio = (h["trust_coefficient"], h["eps"])
    return P.chain(
        P.chain(P.decay(h["weight_decay"], decays), P.masked(N.trust_ratio(*ratio), trusts))
        if sum_first
        else N.lars(*ratio, h["weight_decay"], decays, trusts),
        P.learning_rate(h["learning_rate"]),
        P.trace(h["momentum"], h["nesterov"]),
    )


def _lamb(h: Mapping[str, Any], mask: Any) -> P.Start:
    return P.chain(
        _adam_like(h),
        P.decay(h["weight_decay"], mask(h["mask"])),
        N.trust_ratio(),
        P.learning_rate(h["learning_rate"]),
    )


def _fromage(h: Mapping[str, Any], mask: Any) -> P.Start:
    rate = h["learning_rate"]
    shrink = lambda count: (1 + P.value_at(rate, count + 1) ** 2) ** -0.5
    return P.chain(
        N.trust_ratio(floor=h["min_norm"]),
        P.scale(lambda c: shrink(c) * P.value_at(rate, c + 1), -1.0),
        P.decay(lambda c: shrink(c) - 1),
    )


def _adadelta(h: Mapping[str, Any], mask: Any) -> P.Start:
    parts = [P.decay(h["weight_decay"], mask(h["weight_decay_mask"])),
             S.adadelta(h["rho"], h["eps"])]  # fmt: skip
    if h["learning_rate"] is not None:
        parts.append(P.learning_rate(h["learning_rate"]))
    return P.chain(*parts)


def _adafactor(h: Mapping[str, Any], mask: Any) -> P.Start:
    parts = [S.factored(h["factored"], h["decay_rate"], h["decay_offset"],
                        h["min_dim_size_to_factor"], h["eps"])]  # fmt: skip
    if h["clipping_threshold"] is not None:
        parts.append(N.clip_block_rms(h["clipping_threshold"]))
    if h["learning_rate"] is not None:
        parts.append(P.scale(h["learning_rate"]))
    if h["multiply_by_parameter_scale"]:
        parts.append(N.param_block_rms())
    if h["momentum"] is not None:
        parts.append(P.ema(h["momentum"], debias=False))
    if h["weight_decay_rate"] is not None:
        parts.append(P.decay(h["weight_decay_rate"], mask(h["weight_decay_mask"])))
    return P.chain(*parts, P.scale(-1.0))


def _optimistic_adam(h: Mapping[str, Any], mask: Any) -> P.Start:
    optimism = h["learning_rate"] if h["optimism"] is None else h["optimism"]
    return P.chain(_adam_like(h), P.optimistic(h["learning_rate"], optimism), P.scale(-1.0))


def _lion_kinds(h: Mapping[str, Any]) -> P.Start:
    if h.get("mode", "hard") != "hard":
        raise ValueError("the reference for scale_by_lion knows only mode='hard'")
    return A.lion(h["b1"], h["b2"])


def _scale_by_sm3(h: Mapping[str, Any], mask: Any) -> P.Start:
    if h["b2"] != 1:
        raise ValueError("the reference for scale_by_sm3 knows only b2=1, the sum of the paper")
    return S.sm3(h["b1"], h["eps"])


NOVOGRAD = piece(A.novograd, "b1 b2 eps eps_root weight_decay")
STEPS = "learning_rate eta_minus eta_plus min_step_size max_step_size"
RPROP = piece(S.rprop, STEPS)
LATE = piece(S.rprop, STEPS, late=True)
ADAGRAD = piece(S.adagrad, "initial_accumulator_value eps")
INSIDE = piece(S.adagrad, "initial_accumulator_value eps", inside=True)
OPTIMISTIC = piece(P.optimistic, "alpha beta")
LBFGS = piece(C.lbfgs, "memory_size scale_init_precond")
SIGN = piece(P.stateless, f=lambda g, p: np.sign(g))
ADAMAX = lambda h: _adam_like(h, infinity=True)
BELIEF = lambda h: _adam_like(h, belief=True)
RADAM = lambda h: _adam_like(h, rectify=h["threshold"])
AMSGRAD = lambda h: _adam_like(
    h, maximum=True, correct=(h["bias_correction_mu"], h["bias_correction_nu"])
)
POLYAK = lambda h: N.polyak(h["f_min"], h["max_learning_rate"], h["eps"], h["variant"] == "sps+")


def _lbfgs(h: Mapping[str, Any], mask: Any) -> P.Start:
    """Up to the length of the step, where a search chooses it."""
    rate = h["learning_rate"]
    return P.chain(LBFGS(h), P.scale(-1.0) if rate is None else P.learning_rate(rate))


RULES: dict[str, Builder] = {
    "lbfgs": _lbfgs,
    "scale_by_lbfgs": alone(LBFGS),
    "scale_by_backtracking_linesearch": alone(piece(
        C.backtracking, "max_backtracking_steps slope_rtol decrease_factor increase_factor "
        "max_learning_rate atol rtol")),
    "scale_by_zoom_linesearch": alone(piece(P.chain)),  # up to the length
    # Without their noise, which has a law of its own.
    "add_noise": alone(piece(P.chain)),
    "noisy_sgd": alone(piece(P.learning_rate, "learning_rate")),
    "sgd": _sgd,
    "adam": after(_adam_like),
    "nadam": after(_adam_like),
    "adamw": decayed(_adam_like),
    "nadamw": decayed(_adam_like),
    "adamax": after(ADAMAX),
    "adamaxw": decayed(ADAMAX),
    "amsgrad": after(AMSGRAD),
    "adabelief": after(BELIEF),
    "yogi": after(yogi),
    "radam": after(RADAM),
    "adan": _adan,
    "lion": decayed(_lion_kinds),
    "rmsprop": _rmsprop,
    "adagrad": after(ADAGRAD),
    "adadelta": _adadelta,
    "adafactor": _adafactor,
    "lars": lars,
    "lamb": _lamb,
    "fromage": _fromage,
    "novograd": after(NOVOGRAD),
    "sm3": after(piece(S.sm3, "momentum")),
    "rprop": lambda h, mask: P.chain(RPROP(h), P.scale(-1.0)),
    "sign_sgd": after(SIGN),
    "signum": after(lambda h: P.chain(P.ema(h["beta"], debias=False), SIGN(h))),
    "optimistic_gradient_descent": after(OPTIMISTIC),
    "optimistic_adam": _optimistic_adam,
    "optimistic_adam_v2": after(lambda h: P.chain(_adam_like(h), OPTIMISTIC(h))),
    "polyak_sgd": lambda h, mask: P.chain(P.learning_rate(h["scaling"]), POLYAK(h)),
    # The pieces that rules are chained from.
    "identity": alone(piece(P.chain)),
    "set_to_zero": alone(piece(P.scale, rate=0.0)),
    "scale": alone(piece(P.scale, "step_size")),
    "scale_by_learning_rate": lambda h, mask: (
        P.chain()
        if h["learning_rate"] is None
        else P.scale(h["learning_rate"], -1.0 if h["flip_sign"] else 1.0)
    ),
    "scale_by_schedule": alone(piece(P.scale, "step_size_fn")),
    "scale_by_adam": alone(_adam_like),
    "scale_by_adamax": alone(ADAMAX),
    "scale_by_amsgrad": alone(AMSGRAD),
    "scale_by_belief": alone(BELIEF),
    "scale_by_yogi": alone(yogi),
    "scale_by_radam": alone(RADAM),
    "scale_by_adan": alone(adan),
    "scale_by_lion": alone(_lion_kinds),
    "scale_by_rms": alone(piece(S.rms, RMS)),
    "scale_by_stddev": alone(piece(S.rms, RMS, centred=True)),
    "scale_by_rss": alone(ADAGRAD),
    "scale_by_adadelta": alone(piece(S.adadelta, "rho eps")),
    "scale_by_novograd": alone(NOVOGRAD),
    "scale_by_sign": alone(SIGN),
    "scale_by_optimistic_gradient": alone(OPTIMISTIC),
    "scale_by_rprop": alone(RPROP),
    "scale_by_sm3": _scale_by_sm3,
    "scale_by_polyak": alone(POLYAK),
    "scale_by_distance_over_gradients": alone(
        piece(F.distance_over_gradients, "reps_rel eps global_scale")),
    "scale_by_trust_ratio": alone(piece(N.trust_ratio, "trust_coefficient eps min_norm")),
    "scale_by_factored_rms": alone(piece(
        S.factored, "factored decay_rate step_offset min_dim_size_to_factor epsilon")),
    "scale_by_param_block_rms": alone(piece(N.param_block_rms, "min_scale")),
    "scale_by_param_block_norm": alone(piece(N.param_block_norm, "min_scale")),
    "trace": alone(piece(P.trace, "decay nesterov")),
    "ema": alone(piece(P.ema, "decay debias")),
    "add_decayed_weights": lambda h, mask: P.decay(h["weight_decay"], mask(h["mask"])),
    "clip": alone(piece(N.clip, "max_delta")),
    "clip_by_block_rms": alone(piece(N.clip_block_rms, "threshold")),
    "clip_by_global_norm": alone(piece(N.clip_global_norm, "max_norm")),
    "adaptive_grad_clip": alone(piece(N.adaptive_clip, "clipping eps axis")),
    "normalize_by_update_norm": alone(piece(N.normalize, "scale_factor eps")),
    "zero_nans": alone(piece(N.zero_nans)),
    "keep_params_nonnegative": alone(piece(N.keep_nonnegative)),
    "centralize": alone(piece(N.centralize, outputs=-1)),
    "apply_every": alone(piece(P.accumulate, "k")),
}  # fmt: skip
