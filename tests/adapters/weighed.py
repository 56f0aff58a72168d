"""The loss of a batch whose first element, or x, is what the module is called with."""

from trainkit.adapters.targets import targets_of
from trainkit.adapters.validation import takes_labels
from trainkit.adapters.weighing import weighted


def weighed(loss, outputs, batch, **options):
    """`weighted`, with the labels and weights that a model would find in the batch."""
    claimed = {"x", "tokens", 0}
    targets = targets_of(batch, outputs, claimed, takes_labels=takes_labels(loss), **options)
    return weighted(loss, outputs, batch, targets)
