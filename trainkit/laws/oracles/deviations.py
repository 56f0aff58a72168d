"""Where Optax departs from the paper of a rule: `like="adan"` means the paper's rule, and
`like="optax.adan"` Optax's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainkit.laws.oracles import contrib, rules
from trainkit.laws.oracles import pieces as P
from trainkit.laws.oracles.rules import Builder, after, alone, decayed


class Deviation(NamedTuple):
    """What the paper has, what Optax has, and the reference of the latter.

    Attributes:
      paper: the paper's formula in words, and where it stands.
      optax: what Optax does in its place.
      build: the reference of that.
      shown: arguments with which it shows, where it does not with Optax's defaults.
      since: the release of Optax in which it was found; earlier ones were not looked at.
    """

    paper: str
    optax: str
    build: Builder
    shown: Mapping[str, Any] = {}
    since: str = "0.2.8"


_ADAN = ("the differences of gradients are weighed by 1 − β₂ = b2 (Xie 2022, algorithm 1)",
         "by 1 − b2 = β₂")  # fmt: skip
_WEIGHTS = ("the average is weighed by the rate of its own step (Defazio 2024, algorithm 1)",
            "by the rate of the next step, which during a warm-up is larger")  # fmt: skip
_PLATEAU = ("a loss is better that is lower by rtol of the best one's size",
            "by rtol of its value: where that is below 0, a higher loss is better")  # fmt: skip
_ADAGRAD = ("ε is added to the root, δ I + diag(G)^½ (Duchi 2011, figure 1)",
            "ε is added under the root")  # fmt: skip
_LARS = ("the rate of a leaf is η ‖w‖ / (‖g‖ + β ‖w‖) (You 2017, equation 6)",
         "η ‖w‖ / ‖g + β w‖")  # fmt: skip
_RPROP = ("a step goes by the size and the sign of this gradient (Riedmiller & Braun 1993)",
          "the step of the call before is returned")  # fmt: skip
_ACPROP = ("s_t averages (g_t − m_t)² (Zhuang 2021, algorithm 1)",
           "(g_t − m_{t−1})²")  # fmt: skip
_SOPHIA = ("h is made anew before the step that divides by it, and m is not corrected (Liu 2023, "
           "algorithm 3)",
           "a step divides by the h of the step before, and m is bias-corrected")  # fmt: skip
_MADGRAD = ("a step weighs γ √(k + 1) (Defazio & Jelassi 2021, algorithm 1)",
            "(γ + ε) √(k + 1), as the authors' code")  # fmt: skip
_MUON = ("M ← β M + (1 − β) G, and β M + (1 − β) G is orthogonalised; other leaves get AdamW "
         "(Jordan 2024)",
         "M and G are bias-corrected apart, which changes their proportion, and other leaves get "
         "Nadam's momentum")  # fmt: skip

DEVIATIONS: dict[str, Deviation] = {
    "adan": Deviation(*_ADAN, decayed(lambda h: rules.adan(h, mix=1 - h["b2"]))),
    "scale_by_adan": Deviation(*_ADAN, alone(lambda h: rules.adan(h, mix=1 - h["b2"]))),
    "schedule_free": Deviation(*_WEIGHTS, lambda h, mask: contrib.schedule_free(h, ahead=1)),
    **dict.fromkeys(
        ("schedule_free_sgd", "schedule_free_adamw"),
        Deviation(
            *_WEIGHTS, lambda h, mask: contrib.schedule_free(h, ahead=1), {"warmup_steps": 5}
        ),
    ),
    "reduce_on_plateau": Deviation(*_PLATEAU, lambda h, mask: contrib.on_plateau(h, False)),
    "adagrad": Deviation(*_ADAGRAD, after(rules.INSIDE), {"eps": 1e-2}),
    "scale_by_rss": Deviation(*_ADAGRAD, alone(rules.INSIDE), {"eps": 1e-2}),
    "lars": Deviation(*_LARS, lambda h, mask: rules.lars(h, mask, True), {"weight_decay": 0.1}),
    "rprop": Deviation(*_RPROP, lambda h, mask: P.chain(rules.LATE(h), P.scale(-1.0))),
    "scale_by_rprop": Deviation(*_RPROP, alone(rules.LATE)),
    "acprop": Deviation(*_ACPROP, decayed(contrib.CENTRED_BEFORE)),
    "scale_by_acprop": Deviation(*_ACPROP, alone(contrib.CENTRED_BEFORE)),
    "sophia": Deviation(*_SOPHIA, decayed(contrib.LATE_SOPHIA, "weight_decay_mask")),
    **dict.fromkeys(
        ("madgrad", "scale_by_madgrad"),
        Deviation(*_MADGRAD, lambda h, mask: contrib.madgrad(h, mask, h["eps"])),
    ),
    "muon": Deviation(*_MUON, lambda h, mask: contrib.muon(h, mask, True)),
    "scale_by_muon": Deviation(*_MUON, alone(lambda h: contrib.scale_by_muon(h, True))),
}
