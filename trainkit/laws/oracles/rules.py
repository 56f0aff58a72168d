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

Builder = Callable[[Mapping[str, Any], Callable[[Any], Any]], P.Start]


def _adam_like(h: Mapping[str, Any], **more: Any) -> P.Start:
    return A.adam(h["b1"], h["b2"], h["eps"], h.get("eps_root", 0.0),
                  h.get("nesterov", False), **more)  # fmt: skip


def _after(rule: Callable[..., P.Start]) -> Builder:
    """rule, then the learning rate."""
    return lambda h, mask: P.chain(rule(h), P.learning_rate(h["learning_rate"]))


def decayed(rule: Callable[..., P.Start], where: str = "mask") -> Builder:
    """rule, then decoupled decay (by the mask of that name), then the learning rate."""
    return lambda h, mask: P.chain(
        rule(h), P.decay(h["weight_decay"], mask(h[where])), P.learning_rate(h["learning_rate"])
    )


def adan(h: Mapping[str, Any], mix: float | None = None) -> P.Start:
    """`mix`: the weight of the differences, by default the paper's."""
    return A.adan(h["b1"], h["b2"], h["b3"], h["eps"], h["eps_root"],
                  h["b2"] if mix is None else mix)  # fmt: skip


def _rms(h: Mapping[str, Any], centred: bool) -> P.Start:
    return S.rms(h["decay"], h["eps"], h["initial_scale"], h["eps_in_sqrt"], centred,
                 h["bias_correction"])  # fmt: skip


def _rmsprop(h: Mapping[str, Any], mask: Any) -> P.Start:
    parts = [_rms(h, h["centered"]), P.learning_rate(h["learning_rate"])]
    if h["momentum"] is not None:
        parts.append(P.trace(h["momentum"], h["nesterov"]))
    return P.chain(*parts)


def _sgd(h: Mapping[str, Any], mask: Any) -> P.Start:
    momentum = [] if h["momentum"] is None else [P.trace(h["momentum"], h["nesterov"])]
    return P.chain(*momentum, P.learning_rate(h["learning_rate"]))


def _sign() -> P.Start:
    return P.stateless(lambda g, p: np.sign(g))


def _lars(h: Mapping[str, Any], mask: Any) -> P.Start:
    return P.chain(
        P.decay(h["weight_decay"], mask(h["weight_decay_mask"])),
        P.masked(N.trust_ratio(h["trust_coefficient"], h["eps"]), mask(h["trust_ratio_mask"])),
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


def _rprop(h: Mapping[str, Any]) -> P.Start:
    return S.rprop(h["learning_rate"], h["eta_minus"], h["eta_plus"], h["min_step_size"],
                   h["max_step_size"])  # fmt: skip


def _scale_by_sm3(h: Mapping[str, Any], mask: Any) -> P.Start:
    if h["b2"] != 1:
        raise ValueError("the reference for scale_by_sm3 knows only b2=1, the sum of the paper")
    return S.sm3(h["b1"], h["eps"])


def _polyak(h: Mapping[str, Any]) -> P.Start:
    return N.polyak(h["f_min"], h["max_learning_rate"], h["eps"], h["variant"] == "sps+")


def _scale_by_lbfgs(h: Mapping[str, Any]) -> P.Start:
    return C.lbfgs(h["memory_size"], h["scale_init_precond"])


def _lbfgs(h: Mapping[str, Any], mask: Any) -> P.Start:
    """Up to the length of the step, where a search chooses it."""
    rate = h["learning_rate"]
    return P.chain(_scale_by_lbfgs(h), P.scale(-1.0) if rate is None else P.learning_rate(rate))


def _backtracking(h: Mapping[str, Any]) -> P.Start:
    return C.backtracking(h["max_backtracking_steps"], h["slope_rtol"], h["decrease_factor"],
                          h["increase_factor"], h["max_learning_rate"], h["atol"],
                          h["rtol"])  # fmt: skip


RULES: dict[str, Builder] = {
    "lbfgs": _lbfgs,
    "scale_by_lbfgs": lambda h, mask: _scale_by_lbfgs(h),
    "scale_by_backtracking_linesearch": lambda h, mask: _backtracking(h),
    "scale_by_zoom_linesearch": lambda h, mask: P.chain(),  # up to the length
    # Without their noise, which has a law of its own.
    "add_noise": lambda h, mask: P.chain(),
    "noisy_sgd": lambda h, mask: P.learning_rate(h["learning_rate"]),
    "sgd": _sgd,
    "adam": _after(_adam_like),
    "nadam": _after(_adam_like),
    "adamw": decayed(_adam_like),
    "nadamw": decayed(_adam_like),
    "adamax": _after(lambda h: _adam_like(h, infinity=True)),
    "adamaxw": decayed(lambda h: _adam_like(h, infinity=True)),
    "amsgrad": _after(
        lambda h: _adam_like(
            h, maximum=True, correct=(h["bias_correction_mu"], h["bias_correction_nu"])
        )
    ),
    "adabelief": _after(lambda h: _adam_like(h, belief=True)),
    "yogi": _after(lambda h: _adam_like(h, yogi=1e-6)),
    "radam": _after(lambda h: _adam_like(h, rectify=h["threshold"])),
    "adan": decayed(adan),
    "lion": decayed(_lion_kinds),
    "rmsprop": _rmsprop,
    "adagrad": _after(lambda h: S.adagrad(h["initial_accumulator_value"], h["eps"])),
    "adadelta": _adadelta,
    "adafactor": _adafactor,
    "lars": _lars,
    "lamb": _lamb,
    "fromage": _fromage,
    "novograd": _after(
        lambda h: A.novograd(h["b1"], h["b2"], h["eps"], h["eps_root"], h["weight_decay"])
    ),
    "sm3": _after(lambda h: S.sm3(h["momentum"])),
    "rprop": lambda h, mask: P.chain(_rprop(h), P.scale(-1.0)),
    "sign_sgd": _after(lambda h: _sign()),
    "signum": _after(lambda h: P.chain(P.ema(h["beta"], debias=False), _sign())),
    "optimistic_gradient_descent": _after(lambda h: P.optimistic(h["alpha"], h["beta"])),
    "optimistic_adam": _optimistic_adam,
    "optimistic_adam_v2": _after(
        lambda h: P.chain(_adam_like(h), P.optimistic(h["alpha"], h["beta"]))
    ),
    "polyak_sgd": lambda h, mask: P.chain(P.learning_rate(h["scaling"]), _polyak(h)),
    # The pieces that rules are chained from.
    "identity": lambda h, mask: P.chain(),
    "set_to_zero": lambda h, mask: P.scale(0.0),
    "scale": lambda h, mask: P.scale(h["step_size"]),
    "scale_by_learning_rate": lambda h, mask: (
        P.chain()
        if h["learning_rate"] is None
        else P.scale(h["learning_rate"], -1.0 if h["flip_sign"] else 1.0)
    ),
    "scale_by_schedule": lambda h, mask: P.scale(h["step_size_fn"]),
    "scale_by_adam": lambda h, mask: _adam_like(h),
    "scale_by_adamax": lambda h, mask: _adam_like(h, infinity=True),
    "scale_by_amsgrad": lambda h, mask: _adam_like(
        h, maximum=True, correct=(h["bias_correction_mu"], h["bias_correction_nu"])
    ),
    "scale_by_belief": lambda h, mask: _adam_like(h, belief=True),
    "scale_by_yogi": lambda h, mask: _adam_like(h, yogi=h["initial_accumulator_value"]),
    "scale_by_radam": lambda h, mask: _adam_like(h, rectify=h["threshold"]),
    "scale_by_adan": lambda h, mask: adan(h),
    "scale_by_lion": lambda h, mask: _lion_kinds(h),
    "scale_by_rms": lambda h, mask: _rms(h, False),
    "scale_by_stddev": lambda h, mask: _rms(h, True),
    "scale_by_rss": lambda h, mask: S.adagrad(h["initial_accumulator_value"], h["eps"]),
    "scale_by_adadelta": lambda h, mask: S.adadelta(h["rho"], h["eps"]),
    "scale_by_novograd": lambda h, mask: A.novograd(
        h["b1"], h["b2"], h["eps"], h["eps_root"], h["weight_decay"]
    ),
    "scale_by_sign": lambda h, mask: _sign(),
    "scale_by_optimistic_gradient": lambda h, mask: P.optimistic(h["alpha"], h["beta"]),
    "scale_by_rprop": lambda h, mask: _rprop(h),
    "scale_by_sm3": _scale_by_sm3,
    "scale_by_polyak": lambda h, mask: _polyak(h),
    "scale_by_distance_over_gradients": lambda h, mask: F.distance_over_gradients(
        h["reps_rel"], h["eps"], h["global_scale"]
    ),
    "scale_by_trust_ratio": lambda h, mask: N.trust_ratio(
        h["trust_coefficient"], h["eps"], h["min_norm"]
    ),
    "scale_by_factored_rms": lambda h, mask: S.factored(
        h["factored"], h["decay_rate"], h["step_offset"], h["min_dim_size_to_factor"], h["epsilon"]
    ),
    "scale_by_param_block_rms": lambda h, mask: N.param_block_rms(h["min_scale"]),
    "scale_by_param_block_norm": lambda h, mask: N.param_block_norm(h["min_scale"]),
    "trace": lambda h, mask: P.trace(h["decay"], h["nesterov"]),
    "ema": lambda h, mask: P.ema(h["decay"], h["debias"]),
    "add_decayed_weights": lambda h, mask: P.decay(h["weight_decay"], mask(h["mask"])),
    "clip": lambda h, mask: N.clip(h["max_delta"]),
    "clip_by_block_rms": lambda h, mask: N.clip_block_rms(h["threshold"]),
    "clip_by_global_norm": lambda h, mask: N.clip_global_norm(h["max_norm"]),
    "adaptive_grad_clip": lambda h, mask: N.adaptive_clip(h["clipping"], h["eps"], h["axis"]),
    "normalize_by_update_norm": lambda h, mask: N.normalize(h["scale_factor"], h["eps"]),
    "zero_nans": lambda h, mask: N.zero_nans(),
    "keep_params_nonnegative": lambda h, mask: N.keep_nonnegative(),
    "centralize": lambda h, mask: N.centralize(outputs=0),
    "apply_every": lambda h, mask: P.accumulate(h["k"]),
}
