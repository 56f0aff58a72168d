"""Regularisation and knowledge transfer: small pure functions, each usable alone.

Input and output: losses, batches or parameters. `targets` changes labels, `examples` weights
examples, `pruning` masks parameters, and `ensembles` trains several models at once.
Read `targets` first.
"""

from trainkit.regularise.ensembles import ensemble_init, ensemble_loss
from trainkit.regularise.examples import gradient_norms, hard_examples, importance_sample
from trainkit.regularise.pruning import (
    PruneState,
    apply_masks,
    magnitude_masks,
    prune,
    sparsity_schedule,
)
from trainkit.regularise.targets import distillation_loss, label_smoothing, mixup

__all__ = [
    "PruneState",
    "apply_masks",
    "distillation_loss",
    "ensemble_init",
    "ensemble_loss",
    "gradient_norms",
    "hard_examples",
    "importance_sample",
    "label_smoothing",
    "magnitude_masks",
    "mixup",
    "prune",
    "sparsity_schedule",
]
