"""The references of Optax's wrappers, around the rule that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit.laws.oracles import pieces as P
from trainkit.laws.oracles import wrappers as W
from trainkit.laws.oracles.rules import Builder


def _multi_steps(h: Mapping[str, Any], mask: Any) -> P.Start:
    return W.multi_steps(W.foreign(h["opt"]), h["every_k_schedule"], h["use_grad_mean"],
                         h["should_skip_update_fn"])  # fmt: skip


def _partition(h: Mapping[str, Any], mask: Any) -> P.Start:
    names = list(h["transforms"])
    which = [names.index(label) for label in mask(h["param_labels"])]
    return P.groups([W.foreign(h["transforms"][n]) for n in names], which)


def _selective(h: Mapping[str, Any], mask: Any) -> P.Start:
    frozen = h["freeze_mask"]
    return P.scale(0.0) if frozen else W.foreign(h["optimizer"])


RULES: dict[str, Builder] = {
    "MultiSteps": _multi_steps,
    "apply_if_finite": lambda h, mask: W.if_finite(
        W.foreign(h["inner"]), h["max_consecutive_errors"]
    ),
    "conditionally_mask": lambda h, mask: W.sometimes(
        W.foreign(h["inner"]), h["should_transform_fn"], 0.0
    ),
    "conditionally_transform": lambda h, mask: W.sometimes(
        W.foreign(h["inner"]), h["should_transform_fn"], 1.0
    ),
    "flatten": lambda h, mask: W.joined(W.foreign(h["inner"])),
    "freeze": lambda h, mask: P.masked(P.scale(0.0), mask(h["mask"])),
    "masked": lambda h, mask: P.masked(W.foreign(h["inner"]), mask(h["mask"])),
    "partition": _partition,
    "selective_transform": _selective,
}
