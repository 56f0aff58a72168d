"""Where Optax departs from the paper of a rule: `like="adan"` means the paper's rule, and
`like="optax.adan"` Optax's."""

from __future__ import annotations

from typing import NamedTuple

from trainkit.laws.oracles import contrib, rules
from trainkit.laws.oracles.rules import Builder


class Deviation(NamedTuple):
    """What the paper has, what Optax has, and the reference of the latter."""

    paper: str
    optax: str
    build: Builder


_ADAN = ("the differences of gradients are weighed by 1 − β₂ = b2 (Xie 2022, algorithm 1)",
         "by 1 − b2 = β₂")  # fmt: skip
_WEIGHTS = ("the average is weighed by the rate of its own step (Defazio 2024, algorithm 1)",
            "by the rate of the next step, which during a warm-up is larger")  # fmt: skip
_PLATEAU = ("a loss is better that is lower by rtol of the best one's size",
            "by rtol of its value: where that is below 0, a higher loss is better")  # fmt: skip

DEVIATIONS: dict[str, Deviation] = {
    "adan": Deviation(*_ADAN, rules.decayed(lambda h: rules.adan(h, mix=1 - h["b2"]))),
    "scale_by_adan": Deviation(*_ADAN, rules.alone(lambda h: rules.adan(h, mix=1 - h["b2"]))),
    **dict.fromkeys(
        ("schedule_free", "schedule_free_sgd", "schedule_free_adamw"),
        Deviation(*_WEIGHTS, lambda h, mask: contrib.schedule_free(h, ahead=1)),
    ),
    "reduce_on_plateau": Deviation(*_PLATEAU, lambda h, mask: contrib.on_plateau(h, False)),
}
