"""Gradient transformations in Optax's protocol: classical rules, and what Optax lacks.

Input: hyper-parameters. Output: an `optax.GradientTransformation`; its arguments are checked at
once. `optimizers` has update rules, `wrappers` has transformations of a transformation, and `state`
reads and edits optimizer states by name. Read `rule` first.
"""

from optax import apply_updates, identity, scale_by_schedule, set_to_zero

from trainkit.transforms.chains import chain
from trainkit.transforms.clipping import (
    centralize,
    clip_adaptive,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    safe_norm,
)
from trainkit.transforms.masks import decay_mask, decay_table
from trainkit.transforms.noise import NoiseState, gradient_noise, sgld
from trainkit.transforms.optimizers.adam_mini import AdamMiniState, adam_mini
from trainkit.transforms.optimizers.adaptive import (
    adabelief,
    adadelta,
    adagrad,
    adam,
    adamax,
    adamw,
    lamb,
    lars,
    lion,
    nadam,
    nadamw,
    novograd,
    rmsprop,
)
from trainkit.transforms.optimizers.curvature import (
    NewtonState,
    gauss_newton,
    lbfgs,
    newton_cg,
    sophia,
)
from trainkit.transforms.optimizers.descent import (
    dynamic_gd,
    momentum,
    nesterov,
    scale,
    scale_by_learning_rate,
    sgd,
)
from trainkit.transforms.optimizers.dion import DionState, dion
from trainkit.transforms.optimizers.kron import KronState, kron
from trainkit.transforms.optimizers.matrix import adafactor, muon
from trainkit.transforms.optimizers.normuon import NorMuonState, normuon
from trainkit.transforms.optimizers.products import conjugate_gradient, gnvp, hvp, linearised
from trainkit.transforms.optimizers.schedule_free import (
    schedule_free,
    schedule_free_adamw,
    schedule_free_params,
)
from trainkit.transforms.optimizers.scion import scion
from trainkit.transforms.optimizers.shampoo import ShampooState, shampoo
from trainkit.transforms.optimizers.soap import SoapState, soap
from trainkit.transforms.optimizers.variants import MarsState, amsgrad, mars, radam, yogi
from trainkit.transforms.penalties import (
    add_decayed_weights,
    decoupled_weight_decay,
    l1,
    l2,
    soft_threshold,
)
from trainkit.transforms.rounding import stochastic_round
from trainkit.transforms.rule import Rule, rule
from trainkit.transforms.state.edit import edit_state, reset_state
from trainkit.transforms.state.groups import (
    assign,
    freeze,
    groups,
    layerwise_decay,
    scale_by_path,
    stop_frozen,
)
from trainkit.transforms.state.inject import InjectState, inject
from trainkit.transforms.state.named import get, named, set
from trainkit.transforms.state.unfreezing import gradual_unfreezing, unfreeze_at
from trainkit.transforms.wrappers.accumulate import AccumulateState, accumulate, has_updated
from trainkit.transforms.wrappers.average import AverageState, average_params, averaged, swap
from trainkit.transforms.wrappers.cautious import cautious
from trainkit.transforms.wrappers.guard import GuardState, check_guard, skip_nonfinite
from trainkit.transforms.wrappers.lookahead import SlowWeightsState, lookahead
from trainkit.transforms.wrappers.quantise import (
    Quantised,
    QuantiseState,
    dequantise,
    quantise,
    quantise_moments,
)
from trainkit.transforms.wrappers.rounding import RoundingState, stochastic_rounding

# Optax's names for three of these.
clip = clip_by_value
adaptive_grad_clip = clip_adaptive
add_noise = gradient_noise

__all__ = [
    "AccumulateState",
    "AdamMiniState",
    "AverageState",
    "DionState",
    "GuardState",
    "InjectState",
    "KronState",
    "MarsState",
    "NewtonState",
    "NoiseState",
    "NorMuonState",
    "QuantiseState",
    "Quantised",
    "RoundingState",
    "Rule",
    "ShampooState",
    "SlowWeightsState",
    "SoapState",
    "accumulate",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adam_mini",
    "adamax",
    "adamw",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "amsgrad",
    "apply_updates",
    "assign",
    "average_params",
    "averaged",
    "cautious",
    "centralize",
    "chain",
    "check_guard",
    "clip",
    "clip_adaptive",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "conjugate_gradient",
    "decay_mask",
    "decay_table",
    "decoupled_weight_decay",
    "dequantise",
    "dion",
    "dynamic_gd",
    "edit_state",
    "freeze",
    "gauss_newton",
    "get",
    "gnvp",
    "gradient_noise",
    "gradual_unfreezing",
    "groups",
    "has_updated",
    "hvp",
    "identity",
    "inject",
    "kron",
    "l1",
    "l2",
    "lamb",
    "lars",
    "layerwise_decay",
    "lbfgs",
    "linearised",
    "lion",
    "lookahead",
    "mars",
    "momentum",
    "muon",
    "nadam",
    "nadamw",
    "named",
    "nesterov",
    "newton_cg",
    "normuon",
    "novograd",
    "quantise",
    "quantise_moments",
    "radam",
    "reset_state",
    "rmsprop",
    "rule",
    "safe_norm",
    "scale",
    "scale_by_learning_rate",
    "scale_by_path",
    "scale_by_schedule",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_params",
    "scion",
    "set",
    "set_to_zero",
    "sgd",
    "sgld",
    "shampoo",
    "skip_nonfinite",
    "soap",
    "soft_threshold",
    "sophia",
    "stochastic_round",
    "stochastic_rounding",
    "stop_frozen",
    "swap",
    "unfreeze_at",
    "yogi",
]
