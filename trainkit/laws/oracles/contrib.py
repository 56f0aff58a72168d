"""How the rules of optax.contrib are put together from the references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from trainkit.laws.losses import CURVATURE
from trainkit.laws.oracles import accumulators as S
from trainkit.laws.oracles import adaptive as A
from trainkit.laws.oracles import matrices as M
from trainkit.laws.oracles import norms as N
from trainkit.laws.oracles import parameter_free as F
from trainkit.laws.oracles import pieces as P
from trainkit.laws.oracles import wrappers as W
from trainkit.laws.oracles.rules import Builder, decayed


def _acprop(h: Mapping[str, Any]) -> P.Start:
    return A.acprop(h["b1"], h["b2"], h["eps"], h["eps_root"])


def _ademamix(h: Mapping[str, Any]) -> P.Start:
    return A.ademamix(h["b1"], h["b2"], h["b3"], h["alpha"], h["eps"], h["eps_root"])


def _simplified(h: Mapping[str, Any]) -> P.Start:
    return A.simplified_ademamix(h["b1"], h["b2"], h["alpha"], h["eps"], h["eps_root"])


def _adopt(h: Mapping[str, Any]) -> P.Start:
    bound = h["clip_value_fn"] if h["use_clipping"] else None
    return A.adopt(h["b1"], h["b2"], h["eps"], h["nesterov"], bound)


def _madgrad(h: Mapping[str, Any]) -> P.Start:
    return S.madgrad(h["learning_rate"], h["momentum"], h["eps"])


def _sophia(h: Mapping[str, Any]) -> P.Start:
    return A.sophia(h["b1"], h["b2"], h["eps"], h["gamma"], h["clip_threshold"],
                    h["update_interval"], lambda ps: [CURVATURE] * len(ps))  # fmt: skip


def _galore(h: Mapping[str, Any]) -> P.Start:
    if h["weight_dimension_numbers"] is not None:
        raise ValueError("the reference for galore knows only matrices, not dimension numbers")
    base = h["base_optimizer"]
    inner = A.adam(0.9, 0.999, 1e-8) if base is None else W.foreign(base)
    return M.each(lambda p: M.galore(h["rank"], h["update_proj_gap"], h["scale"], inner))


def _orthogonal(h: Mapping[str, Any]) -> P.Start:
    return M.muon(h["ns_coeffs"], h["ns_steps"], h["beta"], h["eps"], h["nesterov"], h["adaptive"],
                  h["preconditioning"])  # fmt: skip


def _scale_by_muon(h: Mapping[str, Any], mask: Any) -> P.Start:
    axes = h["weight_dimension_numbers"]
    plain = lambda: {"w": optax.contrib.MuonDimensionNumbers()}
    if axes is not None and not (callable(axes) and axes({"w": np.zeros((2, 3))}) == plain()):
        raise ValueError("the reference for scale_by_muon knows only plain dimension numbers")
    return _orthogonal(h)


def _private(h: Mapping[str, Any], mask: Any) -> P.Start:
    return N.per_example(h["l2_norm_clip"])


def _dpsgd(h: Mapping[str, Any], mask: Any) -> P.Start:
    momentum = [] if h["momentum"] is None else [P.trace(h["momentum"], h["nesterov"])]
    return P.chain(_private(h, mask), *momentum, P.learning_rate(h["learning_rate"]))


def _muon(h: Mapping[str, Any], mask: Any) -> P.Start:
    if h["muon_weight_dimension_numbers"] is not None or h["weight_decay_mask"] is not None:
        raise ValueError("the reference for muon knows neither dimension numbers nor a decay mask")
    matrix = P.chain(
        _orthogonal(h),
        M.by_shape(h["consistent_rms"]),
        P.decay(h["weight_decay"]),
        P.learning_rate(h["learning_rate"]),
    )  # fmt: skip
    rate = h["learning_rate"] if h["adam_learning_rate"] is None else h["adam_learning_rate"]
    other = P.chain(
        A.adam(h["adam_b1"], h["adam_b2"], h["eps"], h["adam_eps_root"], h["nesterov"]),
        P.decay(h["adam_weight_decay"]),
        P.learning_rate(rate),
    )
    return M.matrices_and_others(matrix, other)


def _coupled(rule: Any, sign: float) -> Builder:
    """decay in the gradient, then the rule, then the learning rate."""
    return lambda h, resolve: P.chain(
        P.decay(h["weight_decay"] or 0.0, resolve(h["mask"])),
        rule(h),
        P.scale(h["learning_rate"], sign),
    )


def _cocob(h: Mapping[str, Any], mask: Any) -> P.Start:
    return P.chain(
        P.decay(h["weight_decay"], mask(h["mask"])),
        P.scale(h["learning_rate"]),
        F.cocob(h["alpha"], h["eps"]),
    )


def _warmed(h: Mapping[str, Any]) -> Any:
    """The learning rate, after a linear warm-up from 0 where one is asked for."""
    rate, steps = h["learning_rate"], h["warmup_steps"]
    return rate if steps is None else lambda t: rate * min(t, steps) / steps


def schedule_free(h: Mapping[str, Any], ahead: int = 0) -> P.Start:
    """Around SGD, AdamW or a rule that was given; `ahead`: see `wrappers.schedule_free`."""
    rate = _warmed(h) if "warmup_steps" in h else h["learning_rate"]
    if "base_optimizer" in h:
        inner = W.foreign(h["base_optimizer"])
    else:
        scaled = [A.adam(0.0, h["b2"], h["eps"])] if "b2" in h else []
        inner = P.chain(*scaled, P.decay(h["weight_decay"] or 0.0), P.learning_rate(rate))
    return W.schedule_free(inner, rate, h["b1"], h["weight_lr_power"], ahead)


def on_plateau(h: Mapping[str, Any], of_size: bool = True) -> P.Start:
    return W.on_plateau(h["factor"], h["patience"], h["rtol"], h["atol"], h["cooldown"],
                        h["accumulation_size"], h["min_scale"], of_size)  # fmt: skip


def _sam(h: Mapping[str, Any], mask: Any) -> P.Start:
    if h["opaque_mode"]:
        raise ValueError("the reference for sam knows only the mode that is not opaque")
    return W.sam(W.foreign(h["optimizer"]), W.foreign(h["adv_optimizer"]), h["sync_period"],
                 h["reset_state"])  # fmt: skip


RULES: dict[str, Builder] = {
    "acprop": decayed(_acprop),
    "scale_by_acprop": lambda h, mask: _acprop(h),
    "ademamix": decayed(_ademamix),
    "scale_by_ademamix": lambda h, mask: _ademamix(h),
    "simplified_ademamix": decayed(_simplified),
    "scale_by_simplified_ademamix": lambda h, mask: _simplified(h),
    "adopt": lambda h, mask: P.chain(_adopt(h), P.learning_rate(h["learning_rate"])),
    "scale_by_adopt": lambda h, mask: _adopt(h),
    "sophia": decayed(_sophia, "weight_decay_mask"),
    "madgrad": lambda h, mask: P.chain(P.decay(h["weight_decay"]), _madgrad(h)),
    "scale_by_madgrad": lambda h, mask: _madgrad(h),
    "cocob": _cocob,
    "scale_by_cocob": lambda h, mask: F.cocob(h["alpha"], h["eps"]),
    "dog": _coupled(lambda h: F.dog(h["init_step"], h["eps"]), -1.0),
    "dowg": _coupled(lambda h: F.dowg(h["init_estim_sq_dist"], h["eps"]), -1.0),
    "dadapt_adamw": lambda h, mask: F.dadapt_adamw(
        h["learning_rate"], h["betas"], h["eps"], h["estim_lr0"], h["weight_decay"]
    ),
    "prodigy": lambda h, mask: F.prodigy(
        h["learning_rate"], h["betas"], h["beta3"], h["eps"], h["estim_lr0"], h["estim_lr_coef"],
        h["weight_decay"], h["safeguard_warmup"]),
    "momo": lambda h, mask: F.momo(
        h["learning_rate"], h["beta"], h["lower_bound"], h["weight_decay"], h["adapt_lower_bound"]),
    "momo_adam": lambda h, mask: F.momo_adam(
        h["learning_rate"], h["b1"], h["b2"], h["eps"], h["lower_bound"], h["weight_decay"],
        h["adapt_lower_bound"]),
    "muon": _muon,
    "scale_by_muon": _scale_by_muon,
    "differentially_private_aggregate": _private,
    "dpsgd": _dpsgd,
    "galore": decayed(_galore),
    "scale_by_galore": lambda h, mask: _galore(h),
    "normalize": lambda h, mask: N.normalize(1.0, 0.0),
    "mechanize": lambda h, mask: W.mechanic(
        W.foreign(h["base_optimizer"]), h["weight_decay"], h["eps"], h["s_init"], h["num_betas"]),
    "schedule_free": lambda h, mask: schedule_free(h),
    "schedule_free_sgd": lambda h, mask: schedule_free(h),
    "schedule_free_adamw": lambda h, mask: schedule_free(h),
    "sam": _sam,
    "split_real_and_imaginary": lambda h, mask: W.foreign(h["inner"]),
    "reduce_on_plateau": lambda h, mask: on_plateau(h),
}  # fmt: skip
