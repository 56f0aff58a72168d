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
from trainkit.laws.oracles.rules import Builder, Piece, after, alone, decayed, piece

ACPROP = piece(A.acprop, "b1 b2 eps eps_root")
ADEMAMIX = piece(A.ademamix, "b1 b2 b3 alpha eps eps_root")
SIMPLIFIED = piece(A.simplified_ademamix, "b1 b2 alpha eps eps_root")
CENTRED_BEFORE = piece(A.acprop, "b1 b2 eps eps_root", before=True)
COCOB = piece(F.cocob, "alpha eps")
PRIVATE = piece(N.per_example, "l2_norm_clip")
DADAPT = "learning_rate betas eps estim_lr0 weight_decay"
PRODIGY = "learning_rate betas beta3 eps estim_lr0 estim_lr_coef weight_decay safeguard_warmup"
MOMO = "learning_rate beta lower_bound weight_decay adapt_lower_bound"
MOMO_ADAM = "learning_rate b1 b2 eps lower_bound weight_decay adapt_lower_bound"
_SOPHIA = "b1 b2 eps gamma clip_threshold update_interval"
_DIAGONAL = lambda ps: [CURVATURE] * len(ps)
SOPHIA = piece(A.sophia, _SOPHIA, diagonal=_DIAGONAL, paper=True)
LATE_SOPHIA = piece(A.sophia, _SOPHIA, diagonal=_DIAGONAL)
_MUON = "ns_coeffs ns_steps beta eps nesterov adaptive preconditioning"


def orthogonal(h: Mapping[str, Any], corrected: bool = False) -> P.Start:
    return piece(M.muon, _MUON, corrected=corrected)(h)


def madgrad(h: Mapping[str, Any], mask: Any, more: float = 0.0) -> P.Start:
    rule = S.madgrad(h["learning_rate"], h["momentum"], h["eps"], more)
    return P.chain(P.decay(h["weight_decay"]), rule) if "weight_decay" in h else rule


def _adopt(h: Mapping[str, Any]) -> P.Start:
    bound = h["clip_value_fn"] if h["use_clipping"] else None
    return A.adopt(h["b1"], h["b2"], h["eps"], h["nesterov"], bound)


def galore(h: Mapping[str, Any], larger: bool = False) -> P.Start:
    if h["weight_dimension_numbers"] is not None:
        raise ValueError("the reference for galore knows only matrices, not dimension numbers")
    base = h["base_optimizer"]
    inner = A.adam(0.9, 0.999, 1e-8) if base is None else W.foreign(base)
    return M.each(lambda p: M.galore(h["rank"], h["update_proj_gap"], h["scale"], inner, larger))


def scale_by_muon(h: Mapping[str, Any], corrected: bool = False) -> P.Start:
    axes = h["weight_dimension_numbers"]
    plain = lambda: {"w": optax.contrib.MuonDimensionNumbers()}
    if axes is not None and not (callable(axes) and axes({"w": np.zeros((2, 3))}) == plain()):
        raise ValueError("the reference for scale_by_muon knows only plain dimension numbers")
    return orthogonal(h, corrected)


def _dpsgd(h: Mapping[str, Any], mask: Any) -> P.Start:
    momentum = [] if h["momentum"] is None else [P.trace(h["momentum"], h["nesterov"])]
    return P.chain(PRIVATE(h), *momentum, P.learning_rate(h["learning_rate"]))


def muon(h: Mapping[str, Any], mask: Any, corrected: bool = False) -> P.Start:
    """`corrected`: with bias corrections, and Nadam for the other leaves as well."""
    if h["muon_weight_dimension_numbers"] is not None or h["weight_decay_mask"] is not None:
        raise ValueError("the reference for muon knows neither dimension numbers nor a decay mask")
    matrix = P.chain(
        orthogonal(h, corrected),
        M.by_shape(h["consistent_rms"]),
        P.decay(h["weight_decay"]),
        P.learning_rate(h["learning_rate"]),
    )  # fmt: skip
    rate = h["learning_rate"] if h["adam_learning_rate"] is None else h["adam_learning_rate"]
    other = P.chain(
        A.adam(
            h["adam_b1"], h["adam_b2"], h["eps"], h["adam_eps_root"], h["nesterov"] and corrected
        ),
        P.decay(h["adam_weight_decay"]),
        P.learning_rate(rate),
    )
    return M.matrices_and_others(matrix, other)


def _coupled(rule: Piece) -> Builder:
    """decay in the gradient, then the rule, then the learning rate."""
    return lambda h, mask: P.chain(
        P.decay(h["weight_decay"] or 0.0, mask(h["mask"])), rule(h),
        P.learning_rate(h["learning_rate"]),
    )  # fmt: skip


def _cocob(h: Mapping[str, Any], mask: Any) -> P.Start:
    return P.chain(
        P.decay(h["weight_decay"], mask(h["mask"])),
        P.scale(h["learning_rate"]),
        COCOB(h),
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


def schedule_free_adamw(h: Mapping[str, Any]) -> P.Start:
    """Schedule-free AdamW (Defazio 2024, arXiv 2405.15682, algorithm 1).

    γ_t = γ √(1 − β₂ᵗ), times the warm-up, is the step over the uncorrected root, and its square the
    weight of the average.
    """
    warmed = _warmed(h)
    gamma = lambda count: P.value_at(warmed, count + 1) * (1 - h["b2"] ** (count + 1)) ** 0.5
    inner = P.chain(
        S.rms(h["b2"], h["eps"], 0.0, inside=False),  # g / (√v + ε)
        P.decay(h["weight_decay"] or 0.0),  # λ y
        P.learning_rate(gamma),
    )
    return W.schedule_free(inner, gamma, h["b1"], h["weight_lr_power"])


def on_plateau(h: Mapping[str, Any], of_size: bool = True) -> P.Start:
    return W.on_plateau(h["factor"], h["patience"], h["rtol"], h["atol"], h["cooldown"],
                        h["accumulation_size"], h["min_scale"], of_size)  # fmt: skip


def mechanic(h: Mapping[str, Any], optax: bool = False) -> P.Start:
    return W.mechanic(W.foreign(h["base_optimizer"]), h["weight_decay"], h["eps"], h["s_init"],
                      h["num_betas"], optax)  # fmt: skip


def _sam(h: Mapping[str, Any]) -> P.Start:
    if h["opaque_mode"]:
        raise ValueError("the reference for sam knows only the mode that is not opaque")
    return W.sam(W.foreign(h["optimizer"]), W.foreign(h["adv_optimizer"]), h["sync_period"],
                 h["reset_state"])  # fmt: skip


RULES: dict[str, Builder] = {
    "acprop": decayed(ACPROP),
    "scale_by_acprop": alone(ACPROP),
    "ademamix": decayed(ADEMAMIX),
    "scale_by_ademamix": alone(ADEMAMIX),
    "simplified_ademamix": decayed(SIMPLIFIED),
    "scale_by_simplified_ademamix": alone(SIMPLIFIED),
    "adopt": after(_adopt),
    "scale_by_adopt": alone(_adopt),
    "sophia": decayed(SOPHIA, "weight_decay_mask"),
    "madgrad": madgrad,
    "scale_by_madgrad": madgrad,
    "cocob": _cocob,
    "scale_by_cocob": alone(COCOB),
    "dog": _coupled(piece(F.dog, "init_step eps")),
    "dowg": _coupled(piece(F.dowg, "init_estim_sq_dist eps")),
    "dadapt_adamw": alone(piece(F.dadapt_adamw, DADAPT)),
    "prodigy": alone(piece(F.prodigy, PRODIGY)),
    "momo": alone(piece(F.momo, MOMO)),
    "momo_adam": alone(piece(F.momo_adam, MOMO_ADAM)),
    "muon": muon,
    "scale_by_muon": alone(scale_by_muon),
    "differentially_private_aggregate": alone(PRIVATE),
    "dpsgd": _dpsgd,
    "galore": decayed(galore),
    "scale_by_galore": alone(galore),
    "normalize": alone(piece(N.normalize, factor=1.0, eps=0.0)),
    "mechanize": alone(mechanic),
    **dict.fromkeys(("schedule_free", "schedule_free_sgd"), alone(schedule_free)),
    "schedule_free_adamw": alone(schedule_free_adamw),
    "sam": alone(_sam),
    "split_real_and_imaginary": lambda h, mask: W.foreign(h["inner"]),
    "reduce_on_plateau": alone(on_plateau),
}  # fmt: skip
