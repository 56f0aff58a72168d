"""Stages of a progressive run: the model, its data, the trigger, and how the model grows.

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
    """An invalid list of stages; the message names the stage and the reason."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The sizes of a stage's data; `None` keeps the value of the stage before.

    Attributes:
      subset: the fraction of the training examples (a float in (0, 1]) or their number (an int).
      sequence_length: tokens per example.
      resolution: height and width of an image in pixels.
      batch_size: examples per batch.

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
        """The sizes, with each `None` replaced by the value of the stage before."""
        own = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return dataclasses.replace(before, **own)

    def shrinks(self, before: Data) -> str | None:
        """The first size below that of the stage before, as text; `None` if there is none."""
        for name, new in dataclasses.asdict(self).items():
            old = getattr(before, name)
            if new is not None and old is not None and type(new) is type(old) and new < old:
                return f"{name} from {old} to {new}"
        return None


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a progressive run.

    Attributes:
      model: the model: a Linen module, an NNX module or factory, or anything else that the run's
        `build` accepts; `None` keeps the model of the stage before (only the data change).
      until: the trigger that ends the stage (see `progressive.triggers`); `None`: the end of the
        run.
      how: how the model grows from that of the stage before; see `trainkit.growth.operators`.
      data: the sizes of the data.
      moments: whether to "carry" the optimizer's moments through the growth or "reset" them.
      rewarm: steps over which the leaves of new layers, and only these, warm up from 0.
      anneal: steps over which leaves whose inputs were copied go from the learning rate of exact
        continuation (lr · c, where c is the factor of the weight) to the plain one.
      learning_rate: a factor on the learning rate of `tx` in this stage, above 0.
      mup: "adam" or "sgd", the kind of optimizer: from this stage on, each leaf has the learning
        rate of the maximal-update parametrisation (see `growth.views.mup`), relative to the model
        before. `None` keeps the factors of the leaves.
      shrink: whether the model or the data may be smaller than in the stage before.
      name: the name in reports.

    Raises:
      TypeError, ValueError: a field of the wrong type or out of range.
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
            example = "triggers.steps(1000) or triggers.plateau('loss'), combined by | and &"
            validation.kind("until", self.until, Trigger, example)
        validation.kind("data", self.data, Data, "Data(batch_size=64)")
        validation.choice("moments", self.moments, ("carry", "reset"))
        hint = "'adam' is also AdamW, Lion and RMSProp, 'sgd' also momentum"
        validation.choice("mup", self.mup, (None, "adam", "sgd"), hint=hint)
        validation.integer("rewarm", self.rewarm, "Stage", least=0)
        validation.integer("anneal", self.anneal, "Stage", least=0)
        validation.flag("shrink", self.shrink, "Stage", hint="True allows a smaller stage")
        if self.name is not None:
            validation.text("name", self.name, "Stage")
        validation.number("learning_rate", self.learning_rate, above=0)


Alternatives = tuple[Stage, ...]


def normalised(stages: Sequence[Stage | Sequence[Any]]) -> list[Alternatives]:
    """The stages as tuples of alternatives, each with its own model and data.

    An entry is a `Stage`, a tuple `(model, until)` or `(model, until, how)`, or a list of stages,
    among which a probe chooses. A `None` is replaced by the value of the first alternative of the
    stage before.

    Raises:
      StageError: there are no stages, the first has no model or has alternatives, or one before
        the last has no trigger.
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
