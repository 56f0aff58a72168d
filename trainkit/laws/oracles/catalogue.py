"""Which reference a name of Optax stands for, and which defaults its arguments have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from trainkit.laws.oracles import pieces as P

Builder = Callable[[Mapping[str, Any], Callable[[Any], Any]], P.Start]


class Oracle(NamedTuple):
    """A reference for one name.

    Attributes:
      name: the Optax function.
      hyperparams: its arguments, defaults filled in.
      unknown: required arguments that were not given (only `learning_rate` can be inferred).
      build: `(hyperparams, params tree) -> start`, see `pieces`.
    """

    name: str
    hyperparams: dict[str, Any]
    unknown: tuple[str, ...]

    def start(self, params: Any, **override: Any) -> P.Start:
        """The piece for this tree of parameters (masks are resolved against it)."""

        def resolve(mask: Any) -> list[bool] | None:
            if mask is None or mask is True:
                return None
            if mask is False:
                return [False] * len(jax.tree.leaves(params))
            tree = mask(params) if callable(mask) else mask
            return [bool(m) for m in jax.tree.leaves(jax.tree.broadcast(tree, params))]

        return RULES[self.name](self.hyperparams | override, resolve)


def _adam_like(h: Mapping[str, Any], **more: Any) -> P.Start:
    return P.adam(h["b1"], h["b2"], h["eps"], h.get("eps_root", 0.0),
                  h.get("nesterov", False), **more)  # fmt: skip


def _after(rule: Callable[..., P.Start]) -> Builder:
    """rule, then the learning rate."""
    return lambda h, mask: P.chain(rule(h), P.learning_rate(h["learning_rate"]))


def _decayed(rule: Callable[..., P.Start]) -> Builder:
    """rule, then decoupled decay, then the learning rate."""
    return lambda h, mask: P.chain(
        rule(h), P.decay(h["weight_decay"], mask(h["mask"])), P.learning_rate(h["learning_rate"])
    )


def _rms(h: Mapping[str, Any], centred: bool) -> P.Start:
    return P.rms(h["decay"], h["eps"], h["initial_scale"], h["eps_in_sqrt"], centred,
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
    import numpy as np

    return P.stateless(lambda g, p: np.sign(g))


def _lars(h: Mapping[str, Any], mask: Any) -> P.Start:
    return P.chain(
        P.decay(h["weight_decay"], mask(h["weight_decay_mask"])),
        P.masked(P.trust_ratio(h["trust_coefficient"], h["eps"]), mask(h["trust_ratio_mask"])),
        P.learning_rate(h["learning_rate"]),
        P.trace(h["momentum"], h["nesterov"]),
    )


def _lamb(h: Mapping[str, Any], mask: Any) -> P.Start:
    return P.chain(
        _adam_like(h),
        P.decay(h["weight_decay"], mask(h["mask"])),
        P.trust_ratio(),
        P.learning_rate(h["learning_rate"]),
    )


def _fromage(h: Mapping[str, Any], mask: Any) -> P.Start:
    rate = h["learning_rate"]
    shrink = lambda count: (1 + P.value_at(rate, count + 1) ** 2) ** -0.5
    return P.chain(
        P.trust_ratio(floor=h["min_norm"]),
        P.scale(lambda c: shrink(c) * P.value_at(rate, c + 1), -1.0),
        P.decay(lambda c: shrink(c) - 1),
    )


def _adadelta(h: Mapping[str, Any], mask: Any) -> P.Start:
    parts = [P.decay(h["weight_decay"], mask(h["weight_decay_mask"])),
             P.adadelta(h["rho"], h["eps"])]  # fmt: skip
    if h["learning_rate"] is not None:
        parts.append(P.learning_rate(h["learning_rate"]))
    return P.chain(*parts)


def _adafactor(h: Mapping[str, Any], mask: Any) -> P.Start:
    parts = [P.factored(h["factored"], h["decay_rate"], h["decay_offset"],
                        h["min_dim_size_to_factor"], h["eps"])]  # fmt: skip
    if h["clipping_threshold"] is not None:
        parts.append(P.clip_block_rms(h["clipping_threshold"]))
    if h["learning_rate"] is not None:
        parts.append(P.scale(h["learning_rate"]))
    if h["multiply_by_parameter_scale"]:
        parts.append(P.param_block_rms())
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
    return P.lion(h["b1"], h["b2"])


RULES: dict[str, Builder] = {
    "sgd": _sgd,
    "adam": _after(_adam_like),
    "nadam": _after(_adam_like),
    "adamw": _decayed(_adam_like),
    "nadamw": _decayed(_adam_like),
    "adamax": _after(lambda h: _adam_like(h, infinity=True)),
    "adamaxw": _decayed(lambda h: _adam_like(h, infinity=True)),
    "amsgrad": _after(
        lambda h: _adam_like(
            h, maximum=True, correct=(h["bias_correction_mu"], h["bias_correction_nu"])
        )
    ),
    "adabelief": _after(lambda h: _adam_like(h, belief=True)),
    "yogi": _after(lambda h: _adam_like(h, yogi=1e-6)),
    "radam": _after(lambda h: _adam_like(h, rectify=h["threshold"])),
    "adan": _decayed(lambda h: P.adan(h["b1"], h["b2"], h["b3"], h["eps"], h["eps_root"])),
    "lion": _decayed(_lion_kinds),
    "rmsprop": _rmsprop,
    "adagrad": _after(lambda h: P.adagrad(h["initial_accumulator_value"], h["eps"])),
    "adadelta": _adadelta,
    "adafactor": _adafactor,
    "lars": _lars,
    "lamb": _lamb,
    "fromage": _fromage,
    "novograd": _after(
        lambda h: P.novograd(h["b1"], h["b2"], h["eps"], h["eps_root"], h["weight_decay"])
    ),
    "sm3": _after(lambda h: P.sm3(h["momentum"])),
    "rprop": lambda h, mask: P.chain(
        P.rprop(
            h["learning_rate"],
            h["eta_minus"],
            h["eta_plus"],
            h["min_step_size"],
            h["max_step_size"],
        ),
        P.scale(-1.0),
    ),
    "sign_sgd": _after(lambda h: _sign()),
    "signum": _after(lambda h: P.chain(P.ema(h["beta"], debias=False), _sign())),
    "optimistic_gradient_descent": _after(lambda h: P.optimistic(h["alpha"], h["beta"])),
    "optimistic_adam": _optimistic_adam,
    "optimistic_adam_v2": _after(
        lambda h: P.chain(_adam_like(h), P.optimistic(h["alpha"], h["beta"]))
    ),
    "polyak_sgd": lambda h, mask: P.chain(
        P.learning_rate(h["scaling"]),
        P.polyak(h["f_min"], h["max_learning_rate"], h["eps"], h["variant"] == "sps+"),
    ),
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
    "scale_by_adan": lambda h, mask: P.adan(h["b1"], h["b2"], h["b3"], h["eps"], h["eps_root"]),
    "scale_by_lion": lambda h, mask: _lion_kinds(h),
    "scale_by_rms": lambda h, mask: _rms(h, False),
    "scale_by_stddev": lambda h, mask: _rms(h, True),
    "scale_by_rss": lambda h, mask: P.adagrad(h["initial_accumulator_value"], h["eps"]),
    "scale_by_adadelta": lambda h, mask: P.adadelta(h["rho"], h["eps"]),
    "scale_by_novograd": lambda h, mask: P.novograd(
        h["b1"], h["b2"], h["eps"], h["eps_root"], h["weight_decay"]
    ),
    "scale_by_sign": lambda h, mask: _sign(),
    "scale_by_optimistic_gradient": lambda h, mask: P.optimistic(h["alpha"], h["beta"]),
    "scale_by_trust_ratio": lambda h, mask: P.trust_ratio(
        h["trust_coefficient"], h["eps"], h["min_norm"]
    ),
    "scale_by_factored_rms": lambda h, mask: P.factored(
        h["factored"], h["decay_rate"], h["step_offset"], h["min_dim_size_to_factor"], h["epsilon"]
    ),
    "scale_by_param_block_rms": lambda h, mask: P.param_block_rms(h["min_scale"]),
    "scale_by_param_block_norm": lambda h, mask: P.param_block_norm(h["min_scale"]),
    "trace": lambda h, mask: P.trace(h["decay"], h["nesterov"]),
    "ema": lambda h, mask: P.ema(h["decay"], h["debias"]),
    "add_decayed_weights": lambda h, mask: P.decay(h["weight_decay"], mask(h["mask"])),
    "clip": lambda h, mask: P.clip(h["max_delta"]),
    "clip_by_block_rms": lambda h, mask: P.clip_block_rms(h["threshold"]),
    "clip_by_global_norm": lambda h, mask: P.clip_global_norm(h["max_norm"]),
    "adaptive_grad_clip": lambda h, mask: P.adaptive_clip(h["clipping"], h["eps"], h["axis"]),
    "normalize_by_update_norm": lambda h, mask: P.normalize(h["scale_factor"], h["eps"]),
    "zero_nans": lambda h, mask: P.zero_nans(),
    "keep_params_nonnegative": lambda h, mask: P.keep_nonnegative(),
    "centralize": lambda h, mask: P.centralize(),
    "apply_every": lambda h, mask: P.accumulate(h["k"]),
}

# Required arguments that can be read off what the rule does.
INFERABLE = ("learning_rate",)


def bind(name: str, hyperparams: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """The arguments of `optax.<name>`, defaults filled in, and the required ones still missing."""
    signature = inspect.signature(getattr(optax, name))
    given = dict(hyperparams or {})
    wrong = sorted(set(given) - set(signature.parameters))
    if wrong:
        raise TypeError(
            f"optax.{name} has no argument {', '.join(wrong)}; hyperparams may have "
            f"{', '.join(signature.parameters) or 'nothing'}"
        )
    bound = {
        key: given.get(key, p.default)
        for key, p in signature.parameters.items()
        if key in given or p.default is not inspect.Parameter.empty
    }
    return bound, [key for key in signature.parameters if key not in bound]


def oracle_for(name: str, hyperparams: Mapping[str, Any] | None) -> Oracle:
    """The reference for `like=name`.

    Raises:
      ValueError: no such name, or a required argument is missing that cannot be inferred.
      TypeError: an argument that the Optax function does not have.
    """
    if name not in RULES:
        raise ValueError(
            f"like={name!r} is no update rule with a reference. Known: {', '.join(sorted(RULES))}"
        )
    bound, missing = bind(name, hyperparams)
    hopeless = [key for key in missing if key not in INFERABLE]
    if hopeless:
        example = ", ".join(f"{key!r}: …" for key in hopeless)
        raise ValueError(
            f"like={name!r} needs {', '.join(hopeless)}, which optax.{name} has no default for: "
            f"pass hyperparams={{{example}}}"
        )
    return Oracle(name, bound, tuple(missing))
