"""The claims that a name of Optax implies, with its hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optax

from trainkit.laws.oracles.catalogue import plain_name
from trainkit.laws.oracles.matrices import STANDARD
from trainkit.laws.per_example import FACTORS

ELEMENTWISE = {"element-wise": True, "permutation": True, "growth": True}
LINEAR = ELEMENTWISE | {"odd": True, "degree": 1, "zero first": True}
ADAM = ELEMENTWISE | {"odd": True, "degree": 0, "adapts": True, "zero first": True}
DESCENT = {"descends": True}
DECAY = {"decoupled decay": True}

IMPLIED: dict[str, dict[str, Any]] = {
    "sgd": LINEAR | DESCENT | {"rotation": True},
    "adam": ADAM | DESCENT,
    "nadam": ADAM | DESCENT,
    "adamw": ADAM | DESCENT | DECAY,
    "nadamw": ADAM | DESCENT | DECAY,
    "adamax": ADAM | DESCENT,
    "adamaxw": ADAM | DESCENT | DECAY,
    "amsgrad": ADAM | DESCENT,
    "adabelief": ELEMENTWISE | DESCENT | {"odd": True, "zero first": True},
    "yogi": ELEMENTWISE | DESCENT,
    "radam": ELEMENTWISE | DESCENT | {"odd": True, "zero first": True},
    "adan": ELEMENTWISE | DESCENT | DECAY | {"odd": True, "zero first": True},
    "lion": ELEMENTWISE | DESCENT | DECAY
    | {"odd": True, "degree": 0, "adapts": True, "zero first": True},
    "rmsprop": ELEMENTWISE | DESCENT | {"odd": True, "zero first": True},
    "adagrad": ELEMENTWISE | DESCENT | {"odd": True, "zero first": True, "adapts": True},
    "adadelta": ELEMENTWISE | DESCENT | {"odd": True},
    "adafactor": {},
    "lars": DESCENT,
    "lamb": DESCENT,
    "fromage": DESCENT,
    "novograd": DESCENT,
    "sm3": DESCENT | {"odd": True, "zero first": True},
    "rprop": ELEMENTWISE | {"odd": True, "zero first": True},
    "sign_sgd": ELEMENTWISE | DESCENT
    | {"odd": True, "degree": 0, "adapts": True, "zero first": True},
    "signum": ELEMENTWISE | DESCENT
    | {"odd": True, "degree": 0, "adapts": True, "zero first": True},
    "optimistic_gradient_descent": LINEAR | DESCENT,
    "optimistic_adam": ADAM | DESCENT,
    "optimistic_adam_v2": ADAM | DESCENT,
    "polyak_sgd": {},
    "identity": LINEAR,
    "set_to_zero": {"odd": True, "zero first": True},
    "scale": LINEAR | {"rotation": True},
    "scale_by_learning_rate": LINEAR | {"rotation": True},
    "scale_by_schedule": LINEAR | {"rotation": True},
    "scale_by_adam": ADAM,
    "scale_by_adamax": ADAM,
    "scale_by_amsgrad": ADAM,
    "scale_by_lion": ELEMENTWISE | {"odd": True, "degree": 0, "zero first": True},
    "scale_by_rms": ELEMENTWISE | {"odd": True, "zero first": True},
    "scale_by_stddev": ELEMENTWISE | {"odd": True, "zero first": True},
    "scale_by_rss": ELEMENTWISE | {"odd": True, "zero first": True},
    "scale_by_sign": ELEMENTWISE | {"odd": True, "degree": 0, "zero first": True},
    "trace": LINEAR | {"rotation": True},
    "ema": LINEAR | {"rotation": True},
    "centralize": {"odd": True, "degree": 1, "zero first": True},
    "clip": ELEMENTWISE | {"odd": True, "zero first": True},
    "clip_by_global_norm": {"odd": True, "permutation": True, "rotation": True, "zero first": True},
    "clip_by_block_rms": {"odd": True, "permutation": True, "zero first": True},
    "normalize_by_update_norm": {"odd": True, "permutation": True, "rotation": True},
    "apply_if_finite": {"guard": True},
    "lbfgs": DESCENT,
    "scale_by_muon": {"matrices": True, "odd": True},
    "differentially_private_aggregate": {"per example": True},
    "dpsgd": {"per example": True},
    "acprop": ELEMENTWISE | {"odd": True, "zero first": True},
    "ademamix": ADAM | DESCENT | DECAY,
    "simplified_ademamix": ADAM | DECAY,
    "adopt": ELEMENTWISE | DESCENT | {"odd": True, "zero first": True},
    "scale_by_ademamix": ADAM,
    "scale_by_simplified_ademamix": ADAM,
    "scale_by_adopt": ELEMENTWISE | {"odd": True, "zero first": True},
    "madgrad": DESCENT | {"element-wise": True, "permutation": True},
    "cocob": {"element-wise": True, "permutation": True},
    "dog": {"permutation": True, "rotation": True},
    "dowg": {"permutation": True, "rotation": True},
    "momo": DESCENT | {"permutation": True, "rotation": True},
    "schedule_free_sgd": DESCENT | {"permutation": True, "rotation": True},
    "schedule_free_adamw": DESCENT | {"permutation": True},
}  # fmt: skip

BOUNDS = {
    "clip": ("element", "max_delta"),
    "clip_by_global_norm": ("global", "max_norm"),
    "clip_by_block_rms": ("leaf rms", "threshold"),
}


def implied(like: str | None, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of `like` with these hyper-parameters (defaults filled in)."""
    if like is None:
        return {}
    proximal = like == "adan"  # in its paper a decayed step is divided
    like, h = plain_name(like), hyperparams
    claims = dict(IMPLIED.get(like, {})) | {"oracle": True}
    if "decoupled decay" in claims:
        rate, decay, mask = h.get("learning_rate"), h.get("weight_decay"), h.get("mask")
        if callable(rate) or callable(decay) or mask is not None or not decay:
            del claims["decoupled decay"]  # the oracle still checks it, with its schedule or mask
        elif rate is not None:
            claims["decoupled decay"] = float(rate) * float(decay)
        if decay:
            # Decay adds a term that does not follow the gradient.
            for name in ("odd", "degree", "zero first"):
                claims.pop(name, None)
        if proximal:
            claims.pop("decoupled decay", None)
    if callable(h.get("learning_rate")):
        claims.pop("adapts", None)  # its steps change with the schedule, from 0 perhaps
    if claims.get("degree") == 0 and (h.get("eps", 0.0) > 1e-8 or h.get("eps_root", 0.0) > 0):
        del claims["degree"]  # ε is seen beside the gradients that the law scales
    if like == "adadelta" and h.get("weight_decay"):
        claims = {"oracle": True}
    if like == "apply_if_finite":
        claims["guard"] = int(h["max_consecutive_errors"])
        if not claims["guard"]:
            del claims["guard"]
    if like == "MultiSteps" and isinstance(h["every_k_schedule"], int) and h["use_grad_mean"]:
        claims["accumulation"] = {"k": h["every_k_schedule"], "inner": h["opt"], "poison": False}
    if like == "apply_every":
        claims["accumulation"] = {
            "k": h["k"], "inner": optax.identity(), "mean": False, "poison": False
        }  # fmt: skip
    claims |= _searching(like, h) | _of_matrices(like, h)
    noise = _noise(like, h)
    if noise is not None:
        claims["noise"] = noise
    if noise is not None or claims.get("line search", {}).get("length"):
        del claims["oracle"]  # another law compares with the reference, as far as it goes
    if like in BOUNDS:
        norm, key = BOUNDS[like]
        claims["clip"] = {"norm": norm, "bound": float(h[key])}
    return claims


def _of_matrices(like: str, h: Mapping[str, Any]) -> dict[str, Any]:
    """What rules that see a matrix as a matrix do to one."""
    threshold = h.get("min_dim_size_to_factor")
    if threshold is not None and h["factored"]:
        return {"factored": threshold, "transposes": True}
    if like == "normuon":
        return {"shape factor": "sqrt(max(in, out))"}  # updates have one root mean square
    if like == "dion":
        return {"shape factor": "sqrt(out/in)"}
    if like == "shampoo" and h["graft"] in (None, "sgd"):
        return {"orthogonal": True, "transposes": True}
    if like not in ("muon", "scale_by_muon", "scion"):
        return {}
    if any("dimension_numbers" in name and h[name] is not None for name in h):
        return {}
    if like != "muon":
        factor = "sqrt(out/in)" if like == "scion" else "1"
    else:
        consistent = h["consistent_rms"] is not None
        factor = "sqrt(max(in, out))" if consistent else "sqrt(max(1, out/in))"
    claims: dict[str, Any] = {"shape factor": factor}
    if h.get("preconditioning") != "aol":  # its first division is by the sums of rows
        claims |= {"orthogonal": True, "transposes": True}
    size = 1.0 if like == "scale_by_muon" else h.get("learning_rate")
    usual = h["ns_steps"] >= 5 and h.get("ns_coeffs", STANDARD) == STANDARD
    if (
        usual
        and size is not None
        and not (callable(size) or h.get("adaptive") or h.get("consistent_rms"))
    ):
        size = float(size) * h.get("radius", 1.0)
        claims["singular values"] = (0.65 * size, 1.25 * size)
    return claims


def _searching(like: str, h: Mapping[str, Any]) -> dict[str, Any]:
    """The claim of a line search; "length": the reference determines all but the step length."""
    if like == "scale_by_backtracking_linesearch":
        armijo = {"decrease": h["slope_rtol"], "curvature": None, "takes": "directions"}
        return {"line search": armijo}
    if like == "scale_by_zoom_linesearch":
        wolfe = {"decrease": h["slope_rtol"], "curvature": h["curv_rtol"], "takes": "directions"}
        return {"line search": wolfe | {"length": True}}
    if like == "lbfgs" and h["linesearch"] is not None:
        # The constants of the given search are unknown, so Optax's are used.
        return {"line search": {"decrease": 1e-4, "curvature": 0.9, "length": True}}
    return {}


def _noise(like: str, h: Mapping[str, Any]) -> Callable[[int], float] | bool | None:
    """The standard deviation of a rule's noise, by step; `None` if it has no noise.

    `True` if there is no formula, because momentum accumulates the noise of all steps.
    """
    at = lambda rate, t: float(rate(t - 1)) if callable(rate) else float(rate)
    if like in ("add_noise", "noisy_sgd") and h["eta"]:
        rate = h.get("learning_rate", 1.0)
        return lambda t: at(rate, t) * (h["eta"] / t ** h["gamma"]) ** 0.5
    if like in ("differentially_private_aggregate", "dpsgd") and h["noise_multiplier"]:
        if h.get("momentum") is not None:
            return True
        rate, whole = h.get("learning_rate", 1.0), h["l2_norm_clip"] * h["noise_multiplier"]
        return lambda t: at(rate, t) * whole / len(FACTORS)
    return None
