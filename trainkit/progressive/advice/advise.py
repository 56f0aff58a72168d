"""`advise`: whether to grow, when and how, told from short runs before the budget is spent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.processes import alone as one_process
from trainkit._core.run_files import read_json, write_whole
from trainkit._core.units import flops as flops_text
from trainkit.progressive.advice.choices import Choice, sizes_of
from trainkit.progressive.advice.curves import Curve, predict
from trainkit.progressive.advice.decision import Advice, decide, expected_of
from trainkit.progressive.advice.probes import Probed, Prober, array_of
from trainkit.progressive.advice.question import Question, question_of
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.options import check_options
from trainkit.progressive.stages.prepared import Recipe
from trainkit.progressive.stages.stage import Stage, normalised
from trainkit.progressive.transition.shrink import grown_or_shrunk
from trainkit.progressive.transition.state_growth import Grow
from trainkit.progressive.validation import check_data, check_pair

PROBES = "probes.json"


def advise(
    stages: Sequence[Stage | Sequence[Any]],
    build: Callable[[Any], Any],
    tx: optax.GradientTransformation,
    data: Any,
    validation: Any,
    *,
    flops: float,
    share: float = 0.2,
    seeds: int = 1,
    alone: Sequence[Stage] | None = None,
    metric: str = "loss",
    warmup: int = 0,
    decay: float = 0.2,
    grow: Grow | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    out: str | os.PathLike | None = None,
    progress: bool = True,
) -> Advice:
    """Says whether growing pays at a budget: from which stage, when, with which operator, how sure.

    Every size is trained alone, and every stage but the last is grown to the last (in each of its
    alternatives), at two early times; all to four short budgets, each twice the one before, with a
    learning rate that falls to 0 at its end, as in `progressive`. Through the losses of each goes
    a saturating power law (see `trainkit.progressive.advice.curves`), whose value at the budget is
    compared. Growing is advised if it is likelier than not to end below every size alone; that it
    pays is said only where the 95 % interval excludes 0. What cannot be seen in short runs is not
    foreseen: a model that overfits later, or growth later than half of the longest of them.

    Args:
      stages, build, tx, data, validation, warmup, decay, grow, seed, options: as for
        `progressive`. The stages' `until` may be `triggers.advised()`; it is not used here.
      flops: the budget of the run: training and growing.
      share: the share of the budget that all short runs together may take.
      seeds: how many short runs of each kind, with other initial parameters and order of data.
        With more of them each is shorter, for the same share.
      alone: the stages to train alone, for sizes in between and learning rates of their own;
        by default every stage.
      metric: the name of the loss, which lower values of are better.
      out: a folder for what was measured, from which the same question goes on; `None`: nothing
        is kept.
      progress: whether to print a line for every short run.

    Returns:
      The advice; `str` of it is a table and a sentence.

    Raises:
      TypeError, ValueError: an option of the wrong type or out of range, a budget below what the
        probes need (it says the least), data that end, no metric of this name, or another question
        in `out`.
      StageError, GrowthError: fewer than two stages, or one that cannot be planned.

    >>> import flax.linen as nn, numpy as np, trainkit
    >>> from trainkit.data import Sampler
    >>> from trainkit.progressive import Stage, advise, triggers
    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(256, 4)).astype(np.float32)
    >>> data = {"x": x, "label": (x[:, 0] > 0).astype(np.int32)}
    >>> model = lambda width: nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(2)])
    >>> advice = advise(
    ...     [Stage(model(2), triggers.advised(), name="2"), Stage(model(4), name="4")],
    ...     lambda module: trainkit.from_linen(
    ...         module, optax.softmax_cross_entropy_with_integer_labels),
    ...     optax.adam(1e-2), Sampler(data, 16), [data], flops=3e8, progress=False)
    >>> len(advice.expected), advice.ledger.total < 0.2 * 3e8
    (4, True)

    Reference: Shen et al., Staged Training for Transformer Language Models, 2022 (growth is judged
    by loss against compute).
    """
    _check(flops=flops, share=share, seeds=seeds, metric=metric, progress=progress)
    check_options(
        build=build, tx=tx, data=data, grow=grow, seed=seed, warmup=warmup, options=options,
        tokens=None, target=None, probe=None, price=None, advice=None, decay=decay, ahead=True,
        wait=True, certify=False, hooks=(), fit_options=(), own_options=(),
    )  # fmt: skip
    levels = normalised(stages)
    sizes = sizes_of(levels, alone)
    if not callable(data):
        check_data([*levels, sizes])
    data_of = data if callable(data) else lambda _: data
    recipe = Recipe(
        build, tx, data_of, validation, grow or grown_or_shrunk, seed=seed, warmup=warmup,
        options=dict(options or {}), certify=False,
    )  # fmt: skip
    prober = Prober(recipe, decay, metric)
    say = (lambda text: print(text, flush=True)) if progress else lambda _: None
    question = question_of(prober, levels, sizes, flops=flops, share=share, seeds=seeds)
    for choice in question.choices:
        if choice.grows:
            check_pair(*(prober.prepared(one, at) for at, one in enumerate(choice.stages)))
            prober.transition(choice)  # refused before anything is trained
    identity = question.to_json(
        flops=flops, seeds=seeds, seed=seed, decay=decay, warmup=warmup, metric=metric
    )
    say(
        f"{len(question.choices)} choices, {seeds} seed{'s' * (seeds > 1)} each, up to "
        f"{flops_text(question.rungs[-1])} of {flops_text(flops)}."
    )
    probed = _measured(prober, question, seeds, _Kept(out, identity), say)
    return _decided(prober, question, probed, flops, metric)


def _check(*, flops: Any, share: Any, seeds: Any, metric: Any, progress: Any) -> None:
    validation.number("flops", flops, "advise", above=0, hint="it is the budget of the run")
    validation.number("share", share, "advise", above=0, below=1, hint="it is of the budget")
    validation.integer("seeds", seeds, "advise")
    validation.text("metric", metric, "advise")
    validation.flag("progress", progress, "advise")
    if not one_process():
        raise ValueError("advise runs in one process; give its answer to the others.")


class _Kept:
    """What was measured before, in a file."""

    def __init__(self, out: str | os.PathLike | None, identity: dict[str, Any]):
        self._path = None if out is None else Path(out) / PROBES
        self._content: dict[str, Any] = {"question": identity, "probes": {}}
        # As JSON gives it back.
        identity = json.loads(json.dumps(identity))
        if self._path is not None and (saved := read_json(self._path)):
            if saved["question"] != identity:
                raise ValueError(
                    f"{self._path} has the probes of another question: give another out=, or "
                    "delete it."
                )
            self._content = saved

    def __call__(self, key: str, measure: Callable[[], Probed]) -> Probed:
        """What was measured under this key; now, if there is nothing."""
        probes = self._content["probes"]
        if key not in probes:
            probes[key] = measure().to_json()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._path, json.dumps(self._content, indent=1))
        return Probed.from_json(probes[key])


def _measured(
    prober: Prober, question: Question, seeds: int, kept: _Kept, say: Callable[[str], None]
) -> list[list[Probed]]:
    """The short runs of every choice, one for each seed."""
    found = []
    width = max(len(choice.name) for choice in question.choices)
    for number, choice in enumerate(question.choices):
        runs = []
        for seed in range(seeds):
            train = lambda choice=choice, seed=seed: prober.train(choice, seed, question.rungs)
            runs.append(kept(f"{number}: {choice.name}, seed {seed}", train))
        last = [run.losses[-1] for run in runs]
        say(
            f"{number + 1} of {len(question.choices)}: {choice.name:{width}} loss "
            f"{np.mean(last):.3f} at {flops_text(runs[0].flops[-1])}"
        )
        found.append(runs)
    return found


def _decided(
    prober: Prober,
    question: Question,
    probed: Sequence[Sequence[Probed]],
    flops: float,
    metric: str,
) -> Advice:
    points = [array_of(runs) for runs in probed]
    fit = [k for k, (_, losses) in enumerate(points) if np.isfinite(losses).all()]
    draws = np.full((len(points), 4000), np.inf)
    if fit:
        families = _families([question.choices[k] for k in fit])
        sizes = [prober.flops_per_step(question.choices[k]) for k in fit]
        curves = [Curve(*points[k], *kind) for k, *kind in zip(fit, families, sizes, strict=True)]
        draws[fit] = predict(curves, flops, draws=draws.shape[1], seed=prober.recipe.seed)
    ledger = Ledger()
    for run in (run for runs in probed for run in runs):
        ledger = ledger.plus(**run.ledger.to_json())
    expected = [
        expected_of(
            choice, prober.flops_per_step(choice), draws[k], points[k],
            [run.before_growth for run in probed[k] if run.before_growth is not None],
        )
        for k, choice in enumerate(question.choices)
    ]  # fmt: skip
    return decide(expected, draws, flops, ledger, metric)


def _families(choices: Sequence[Choice]) -> list[int]:
    """For each choice a number that is the same for those that end with the same model and data."""
    kinds: list[tuple[Any, Any]] = []
    found = []
    for choice in choices:
        kind = choice.ends_with.model, choice.ends_with.data
        if kind not in kinds:
            kinds.append(kind)
        found.append(kinds.index(kind))
    return found
