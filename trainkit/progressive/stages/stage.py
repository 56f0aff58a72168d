"""Stages of a growing run: which model, on which data, until when, and how it grows there.

stages = [
    Stage(MLP((64,)), until=triggers.plateau("loss")),
    Stage(MLP((128,)), until=triggers.plateau("loss") | triggers.flops(1e12)),
    Stage(MLP((128, 256)), how="preserve"),
]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from trainkit._core import validation
from trainkit.growth.operators import Operator, operator
from trainkit.progressive.stages.triggers import Trigger


class StageError(ValueError):
    """A list of stages that cannot be trained as it stands; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Data:
    """How much of the data a stage sees; `None` leaves it as it was in the stage before.

    Attributes:
      subset: share of the training examples (a float from 0 to 1) or their number (an int).
      sequence_length: tokens of an example.
      resolution: pixels of an image's side.
      batch_size: examples of a batch.

    >>> Data(batch_size=8).after(Data(subset=0.5, batch_size=4))
    Data(subset=0.5, sequence_length=None, resolution=None, batch_size=8)
    """

    subset: float | int | None = None
    sequence_length: int | None = None
    resolution: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("sequence_length", "resolution", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                validation.integer(name, value, "Data")
        hint = "a float is a share of the examples, an int a number of them"
        if isinstance(self.subset, float):
            validation.number("subset", self.subset, "Data", above=0, most=1, hint=hint)
        elif self.subset is not None:
            validation.integer("subset", self.subset, "Data", hint=hint)

    def after(self, before: Data) -> Data:
        """This, with what it leaves open taken from the stage before."""
        own = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return dataclasses.replace(before, **own)

    def shrinks(self, before: Data) -> str | None:
        """Which of its sizes is below that of the stage before, in words."""
        for name, new in dataclasses.asdict(self).items():
            old = getattr(before, name)
            if new is not None and old is not None and type(new) is type(old) and new < old:
                return f"{name} from {old} to {new}"
        return None


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a growing run.

    Attributes:
      model: what is trained: a Linen module, an NNX module or factory, anything that the run's
        `build` takes; `None` keeps the model of the stage before (only the data grow).
      until: the trigger that ends it (see `progressive.triggers`); `None` for "until the end".
      how: how the model grows from the stage before; see `trainkit.growth.operators`.
      data: what it sees of the data.
      moments: whether the optimizer's moments are carried through the growth or reset.
      rewarm: steps over which the leaves of new layers, and only they, warm up from 0.
      anneal: steps over which leaves whose inputs were copied go from the learning rate of exact
        continuation (lr · c, c the weight's factor) to the plain one.
      learning_rate: factor on the transformation's learning rate in this stage.
      mup: "adam" or "sgd", the kind of rule that is trained with: from here on each leaf has the
        learning rate of the maximal-update parametrisation (see `growth.views.mup`), relative to
        the model before. `None` keeps the factors that leaves have.
      shrink: says that the model or the data are meant to get smaller here.
      name: what reports call it.
    """

    model: Any = None
    until: Trigger | None = None
    how: str | Operator = "preserve"
    data: Data = dataclasses.field(default_factory=Data)
    moments: Literal["carry", "reset"] = "carry"
    rewarm: int = 0
    anneal: int = 0
    learning_rate: float = 1.0
    mup: Literal["adam", "sgd"] | None = None
    shrink: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        operator(self.how)
        if self.until is not None:
            example = "triggers.steps(1000) or triggers.plateau('loss'), joined by | and &"
            validation.kind("until", self.until, Trigger, example)
        validation.kind("data", self.data, Data, "Data(batch_size=64)")
        validation.choice("moments", self.moments, ("carry", "reset"))
        hint = "'adam' is also AdamW, Lion and RMSProp, 'sgd' also momentum"
        validation.choice("mup", self.mup, (None, "adam", "sgd"), hint=hint)
        validation.integer("rewarm", self.rewarm, "Stage", least=0)
        validation.integer("anneal", self.anneal, "Stage", least=0)
        validation.flag("shrink", self.shrink, "Stage", hint="it says that this is meant")
        if self.name is not None:
            validation.text("name", self.name, "Stage")
        validation.number("learning_rate", self.learning_rate, above=0)


Alternatives = tuple[Stage, ...]


def normalised(stages: Sequence[Stage | Sequence[Any]]) -> list[Alternatives]:
    """The stages as tuples of alternatives, each with its model and data spelled out.

    An entry is a `Stage`, a tuple `(model, until)` or `(model, until, how)`, or a list of stages,
    among which a probe chooses. What an alternative leaves open is taken from the first
    alternative of the stage before.

    Raises:
      StageError: no stages, a first stage without a model or with alternatives, a stage before
        the last that nothing ends.
    """
    if stages is None or (isinstance(stages, Sequence) and not stages):
        raise StageError("There are no stages: give at least one Stage(model).")
    if not isinstance(stages, Sequence):
        raise StageError(f"stages must be a list of Stages, not a {type(stages).__name__}.")
    levels = [_alternatives(entry, number) for number, entry in enumerate(stages)]
    if len(levels[0]) > 1:
        raise StageError("Stage 0 has alternatives, but there is no state yet to choose from.")
    if levels[0][0].model is None:
        raise StageError("Stage 0 has no model, and there is none before it.")
    for number, level in enumerate(levels[:-1]):
        for stage in level:
            if stage.until is None:
                raise StageError(
                    f"Stage {number} has no `until`, so stage {number + 1} would never come: give "
                    "it one, such as triggers.plateau('loss')."
                )
    out = [levels[0]]
    for level in levels[1:]:
        before = out[-1][0]
        out.append(
            tuple(
                dataclasses.replace(
                    stage,
                    model=before.model if stage.model is None else stage.model,
                    data=stage.data.after(before.data),
                )
                for stage in level
            )
        )
    return out


def _alternatives(entry: Stage | Sequence[Any], number: int) -> Alternatives:
    if isinstance(entry, Stage):
        return (entry,)
    if isinstance(entry, tuple) and 1 <= len(entry) <= 3 and not isinstance(entry[-1], Stage):
        return (Stage(*entry),)
    if isinstance(entry, Sequence) and entry and all(isinstance(s, Stage) for s in entry):
        return tuple(entry)
    shown = " ".join(repr(entry).split())
    raise StageError(
        f"Stage {number} is {shown if len(shown) <= 60 else shown[:57] + '…'}; expected "
        "Stage(model, until=…, how=…), a tuple (model, until, how), or a list of stages to choose "
        "from."
    )
