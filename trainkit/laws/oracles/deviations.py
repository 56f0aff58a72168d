"""Where Optax departs from the paper of a rule: `like="adan"` means the paper's rule, and
`like="optax.adan"` Optax's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainkit.laws.oracles import contrib, rules
from trainkit.laws.oracles import norms as N
from trainkit.laws.oracles import parameter_free as F
from trainkit.laws.oracles import pieces as P
from trainkit.laws.oracles.rules import Builder, after, alone, decayed, piece


class Deviation(NamedTuple):
    """What the paper has, what Optax has, and the reference of the latter.

    Attributes:
      paper: the paper's formula in words, and where it stands.
      optax: what Optax does in its place.
      build: the reference of that.
      shown: arguments with which it shows, where it does not with Optax's defaults.
      since: the release of Optax in which it was found; earlier ones were not looked at.
      plain: what the paper's rule has where Optax's default of an argument chooses another.
    """

    paper: str
    optax: str
    build: Builder
    shown: Mapping[str, Any] = {}
    since: str = "0.2.8"
    plain: Mapping[str, Any] = {}


_MIX = ("the differences of gradients are weighed by 1 − β₂ = b2 (Xie 2022, algorithm 1)",
        "by 1 − b2 = β₂")  # fmt: skip
_ADAN = ("the differences of gradients are weighed by 1 − β₂ = b2, and a decayed step is divided "
         "by 1 + λ η (Xie 2022, algorithm 1)",
         "the differences are weighed by 1 − b2 = β₂, and η λ θ is subtracted, as in AdamW",
         )  # fmt: skip
_WEIGHTS = ("the average is weighed by the rate of its own step (Defazio 2024, algorithm 1)",
            "by the rate of the next step, which during a warm-up is larger")  # fmt: skip
_SCHEDULE_FREE_ADAMW = (
    "a step and the weight of the average have γ √(1 − β₂ᵗ) (Defazio 2024, algorithm 1)",
    "the weight is the rate alone, and that of the next step; the ε beside the root is larger by "
    "1 / √(1 − β₂ᵗ), as in the authors' later code")  # fmt: skip
_AMSGRAD = ("the largest uncorrected v divides the uncorrected m (Reddi 2018, algorithm 2)",
            "both are bias-corrected, v before the largest is taken, unless both of its arguments "
            "say otherwise")  # fmt: skip
_RADAM = ("a step is rectified where ρ > 4 (Liu 2020, algorithm 2)",
          "where ρ ≥ 5, its argument's default, as in the authors' code")  # fmt: skip
_YOGI = ("m begins at 0, and nothing is bias-corrected (Zaheer 2018, algorithm 2)",
         "m begins at the initial accumulator of v, and both are bias-corrected")  # fmt: skip
_CENTRALIZE = (
    "the mean is over the weights into one unit, a column of W (Yong 2020, equation 1)",
    "over all axes but the first: for kernels [in, out], as in Flax, over the weights out of one "
    "input")  # fmt: skip
_GALORE = ("the singular vectors are those of the smaller side, and the rest keeps the larger one "
           "(Zhao 2024, algorithm 2)",
           "those of the larger side, and the rest keeps the smaller one")  # fmt: skip
_DADAPT = ("⟨g, s⟩ is taken in the norm of the v with this gradient, and nothing is bias-corrected "
           "(Defazio & Mishchenko 2023, algorithm 5)",
           "in that of the v before it, as the authors' code, and with Adam's bias corrections, "
           "which are an option there")  # fmt: skip
_PRODIGY = ("nothing is bias-corrected, and ε is times the d of this step (Mishchenko & Defazio "
            "2023, algorithm 4)",
            "with Adam's bias corrections, an option of the authors' code, and ε times the next d, "
            "as it has it")  # fmt: skip
_MOMO = ("a step is proximal, (x − τ d) / (1 + α λ) (Schaipp 2023, algorithm 1)",
         "only x is divided, x / (1 + α λ) − τ d")  # fmt: skip
_MECHANIC = ("the reward is max(0, β r − s h) (Cutkosky 2023, algorithm 1)",
             "h is clipped to the largest before it, as its comment says, and a reward below 0 is "
             "kept, and counts as 0")  # fmt: skip
_PLATEAU = ("a loss is better that is lower by rtol of the best one's size",
            "by rtol of its value: where that is below 0, a higher loss is better")  # fmt: skip
_ADAGRAD = ("ε is added to the root, δ I + diag(G)^½ (Duchi 2011, figure 1)",
            "ε is added under the root")  # fmt: skip
_LARS = ("the rate of a leaf is η ‖w‖ / (‖g‖ + β ‖w‖) (You 2017, equation 6)",
         "η ‖w‖ / ‖g + β w‖")  # fmt: skip
_RPROP = ("a step goes by the size and the sign of this gradient (Igel & Hüsken 2003, iRprop⁻)",
          "the step of the call before is returned")  # fmt: skip
_ACPROP = ("s_t averages (g_t − m_t)² (Zhuang 2021)",
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

_UNCORRECTED = {"bias_correction_mu": False, "bias_correction_nu": False}

DEVIATIONS: dict[str, Deviation] = {
    "adan": Deviation(
        *_ADAN, decayed(lambda h: rules.adan(h, mix=1 - h["b2"])), {"weight_decay": 0.1}
    ),
    "scale_by_adan": Deviation(*_MIX, alone(lambda h: rules.adan(h, mix=1 - h["b2"]))),
    "schedule_free": Deviation(*_WEIGHTS, lambda h, mask: contrib.schedule_free(h, ahead=1)),
    "schedule_free_sgd": Deviation(
        *_WEIGHTS, lambda h, mask: contrib.schedule_free(h, ahead=1), {"warmup_steps": 5}
    ),
    "schedule_free_adamw": Deviation(
        *_SCHEDULE_FREE_ADAMW, lambda h, mask: contrib.schedule_free(h, ahead=1)
    ),
    "amsgrad": Deviation(*_AMSGRAD, after(rules.AMSGRAD), plain=_UNCORRECTED),
    "scale_by_amsgrad": Deviation(*_AMSGRAD, alone(rules.AMSGRAD), plain=_UNCORRECTED),
    "radam": Deviation(*_RADAM, after(rules.RADAM), plain={"threshold": 4.0}),
    "scale_by_radam": Deviation(*_RADAM, alone(rules.RADAM), plain={"threshold": 4.0}),
    "yogi": Deviation(*_YOGI, after(lambda h: rules.yogi(h, True))),
    "scale_by_yogi": Deviation(*_YOGI, alone(lambda h: rules.yogi(h, True))),
    "centralize": Deviation(*_CENTRALIZE, lambda h, mask: N.centralize(outputs=0)),
    "galore": Deviation(*_GALORE, decayed(lambda h: contrib.galore(h, True))),
    "scale_by_galore": Deviation(*_GALORE, alone(lambda h: contrib.galore(h, True))),
    "dadapt_adamw": Deviation(*_DADAPT, alone(piece(F.dadapt_adamw, contrib.DADAPT, optax=True))),
    "prodigy": Deviation(*_PRODIGY, alone(piece(F.prodigy, contrib.PRODIGY, optax=True))),
    "momo": Deviation(
        *_MOMO, alone(piece(F.momo, contrib.MOMO, optax=True)), {"weight_decay": 0.1}
    ),
    "momo_adam": Deviation(
        *_MOMO, alone(piece(F.momo_adam, contrib.MOMO_ADAM, optax=True)), {"weight_decay": 0.1}
    ),
    "mechanize": Deviation(*_MECHANIC, alone(lambda h: contrib.mechanic(h, True))),
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
