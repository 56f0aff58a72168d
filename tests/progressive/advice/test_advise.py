"""`advise`: its short runs are those of `progressive`, counted and told, and can be followed."""

import dataclasses
import json

import numpy as np
import optax
import pytest

from tests.progressive.tiny import arrays, build, events, grow, parts, run, sampler
from trainkit.data import Sampler
from trainkit.growth.errors import GrowthError
from trainkit.progressive import Data, Stage, advise, triggers
from trainkit.progressive.advice.choices import Choice
from trainkit.progressive.advice.probes import Prober, cost_of_rungs, rungs_of
from trainkit.progressive.stages.prepared import Recipe
from trainkit.progressive.stages.stage import StageError

STAGES = [Stage(4, triggers.advised(), name="4"), Stage(8, rewarm=3, name="8")]
BUDGET = 4e7


def ask(stages=STAGES, **options):
    defaults = {
        "build": build,
        "tx": optax.sgd(0.1),
        "data": Sampler(arrays(), 16),
        "validation": parts(arrays(64, seed=1), 16),
        "grow": grow,
        "flops": BUDGET,
        "seeds": 2,
        "progress": False,
    }
    return advise(stages, **{**defaults, **options})


@pytest.fixture(scope="module")
def advice():
    return ask()


def prober(decay=0.25, warmup=0):
    recipe = Recipe(
        build, optax.sgd(0.1), lambda _: Sampler(arrays(), 16), parts(arrays(64, seed=1), 16), grow,
        seed=3, warmup=warmup,
    )  # fmt: skip
    return Prober(recipe, decay, "loss")


def test_a_short_run_is_bit_for_bit_a_run_of_progressive_and_costs_the_same():
    probe = prober(warmup=5)
    stages = (Stage(4, triggers.steps(12)), Stage(8, rewarm=3))
    small, big = (probe.prepared(stage, at) for at, stage in enumerate(stages))
    choice = Choice("4 → 8", stages, 12, 0.1)
    grown = probe.transition(choice).flops
    # 12 steps of the small model, 18 of the large one, 10 more that decay: 40, a quarter of them.
    budget = 12 * small.flops_per_step + grown + 28 * big.flops_per_step
    probe.decay = 10 * big.flops_per_step / budget
    found = probe.train(choice, 0, [budget])
    whole = run(list(stages), steps=40, decay=0.25, seed=3, warmup=5, certify=False, eval_every=100)
    assert whole.ledger.train == found.ledger.train
    assert whole.ledger.growth == found.ledger.growth
    assert whole.ledger.analytic == found.ledger.analytic
    # Beside the one at the end, the probe evaluates before the growth.
    assert found.ledger.evaluate == whole.ledger.evaluate + small.evaluation.flops
    assert found.flops == (budget,)
    assert found.losses == (whole.evaluation["loss"],)


def test_the_flops_are_those_of_the_steps_and_the_share_is_kept():
    probe = prober()
    size = probe.prepared(Stage(4))
    budgets = rungs_of(64 * size.flops_per_step)
    found = probe.train(Choice("4", (Stage(4),)), 0, budgets)
    steps = found.ledger.train / size.flops_per_step
    assert steps == 64 * cost_of_rungs(0.25) == 64 * (0.75 + 0.25 * 1.875)
    assert found.ledger.evaluate == 4 * size.evaluation.flops
    assert list(found.flops) == budgets
    assert found.before_growth is None
    assert found.ledger.total == found.ledger.train + found.ledger.evaluate


def test_branches_do_not_touch_the_run_they_branch_from():
    probe = prober()
    size = probe.prepared(Stage(4))
    budgets = rungs_of(64 * size.flops_per_step)
    choice = Choice("4", (Stage(4),))
    alone = [probe.train(choice, 1, [budget]).losses[0] for budget in budgets]
    assert list(probe.train(choice, 1, budgets).losses) == alone
    assert alone != [probe.train(choice, 2, [budget]).losses[0] for budget in budgets]


def test_every_choice_is_there_and_the_probes_stay_within_their_share(advice):
    names = {one.choice.name.split(" at ")[0] for one in advice.expected}
    assert names == {"4", "8", "4 → 8"}
    assert len(advice.expected) == 4
    times = sorted(one.choice.share for one in advice.expected if one.choice.grows)
    assert 0 < times[0] < times[1] < 0.2
    # Half a step of each short run may be rounded up.
    assert 0.15 * BUDGET < advice.ledger.total < 0.21 * BUDGET
    assert advice.flops == BUDGET
    for one in advice.expected:
        assert one.low < one.loss < one.high
        assert (one.before_growth is not None) == one.choice.grows
        flops = [flops for flops, _ in one.points]
        assert 1 <= len(flops) <= 4
        assert all(len(losses) == 2 for _, losses in one.points)
        # To half a step.
        assert flops[-1] == pytest.approx(
            max(p[0] for e in advice.expected for p in e.points), rel=0.1
        )


def test_the_same_question_has_the_same_answer(advice):
    again = ask()
    assert json.dumps(again.to_json()) == json.dumps(advice.to_json())
    assert ask(seed=5).expected[0].points != advice.expected[0].points


def test_it_goes_on_where_it_was(tmp_path, advice, monkeypatch):
    trained = []
    train = Prober.train

    def stopped(self, choice, seed, budgets):
        trained.append((choice.name, seed))
        if len(trained) == 4:
            raise KeyboardInterrupt
        return train(self, choice, seed, budgets)

    monkeypatch.setattr(Prober, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        ask(out=tmp_path)
    found = ask(out=tmp_path)
    assert len(trained) == 4 + 8 - 3  # three were finished
    assert found.to_json() == advice.to_json()
    with pytest.raises(ValueError, match="probes of another question"):
        ask(out=tmp_path, flops=2 * BUDGET)


def test_it_says_what_it_does(capsys):
    ask(progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 choices, 2 seeds each, up to ")
    assert [line.split(":")[0] for line in lines[1:]] == [f"{n} of 4" for n in (1, 2, 3, 4)]


def test_operators_are_alternatives_of_the_last_stage_and_sizes_alone_can_be_given():
    last = [Stage(8, name="8"), Stage(8, moments="reset", how="even", name="8")]
    alone = [Stage(4, name="4"), Stage(6, name="6"), Stage(8, name="8")]
    found = ask([STAGES[0], last], alone=alone, flops=1e8, seeds=1)
    names = [one.choice.name for one in found.expected]
    assert {name.split(" at ")[0] for name in names} == {"4", "6", "8", "4 → 8", "4 → 8, even"}


def test_data_that_grow_are_compared_as_models_are():
    stages = [
        Stage(8, triggers.advised(), data=Data(subset=0.5), name="half"),
        Stage(data=Data(subset=1.0), name="all"),
    ]
    found = ask(stages, data=sampler, seeds=1)
    assert [one.choice.name.split(" at ")[0] for one in found.expected if one.choice.grows] == [
        "half → all",
        "half → all",
    ]
    assert found.ledger.growth == 2  # of both: the factor on the rate; nothing else changes
    losses = {one.choice.name: one.points[-1][1] for one in found.expected}
    assert len(set(losses.values())) == 4  # all four saw other data


def followed(advice, grow_it, **options):
    """The run of an advice that is made to say what it is to say."""
    growth = next(one for one in advice.expected if one.choice.grows)
    size = next(one for one in advice.expected if not one.choice.grows)
    best, other = (growth, size) if grow_it else (size, growth)
    made = dataclasses.replace(advice, grow=grow_it, best=best, other=other)
    options = {
        "flops": BUDGET / 20,
        "advice": dataclasses.replace(made, flops=BUDGET / 20),
    } | options
    return best, run(STAGES, decay=0.2, **options)


def test_a_run_follows_the_advice_and_says_what_was_expected_and_what_came(advice):
    growth, found = followed(advice, True)
    (event,) = events(found, "growth")
    assert event["step"] == growth.choice.steps
    assert event["expected"] == growth.before_growth[0]
    # The run begins as the first seed of the probes did.
    assert abs(event["came"] - event["expected"]) < event["expected_high"] - event["expected"]
    (end,) = events(found, "end")
    assert end["expected"] == growth.loss
    assert (end["expected_low"], end["expected_high"]) == (growth.low, growth.high)
    assert end["came"] == found.evaluation["loss"]
    assert found.fit.flops == pytest.approx(found.ledger.total)


def test_a_run_that_is_advised_not_to_grow_does_not(advice):
    size, found = followed(advice, False)
    assert not events(found, "growth")
    assert found.model == size.choice.ends_with.model
    assert found.history[-1]["expected"] == size.loss


def test_without_advice_nothing_is_expected():
    found = run([Stage(4, triggers.steps(5)), Stage(8)], steps=20)
    assert not any("expected" in event for event in found.history)


@pytest.mark.parametrize(
    ("stages", "options", "kind", "words"),
    [
        ([Stage(4)], {}, StageError, "only one stage"),
        (STAGES, {"flops": 1e5}, ValueError, r"Give flops=\d\S* or more"),
        (STAGES, {"flops": -1}, ValueError, "flops"),
        (STAGES, {"share": 1.5}, ValueError, "share"),
        (STAGES, {"seeds": 0}, ValueError, "seeds"),
        (STAGES, {"metric": "los"}, ValueError, "The evaluation has no metric 'los'"),
        (STAGES, {"alone": []}, StageError, "alone="),
        ([STAGES[0], Stage(7)], {}, GrowthError, "7 is no multiple of 4"),
        ([Stage(8, triggers.advised()), Stage(4)], {}, (StageError, GrowthError), "4"),
    ],
)
def test_what_cannot_be_answered_is_refused(stages, options, kind, words):
    with pytest.raises(kind, match=words):
        ask(stages, **options)


def test_the_least_budget_that_is_told_is_enough_and_less_is_not():
    with pytest.raises(ValueError, match="or more") as refused:
        ask(flops=1e5)
    least = float(str(refused.value).split("Give flops=")[1].split()[0])
    assert ask(flops=1.01 * least).flops == 1.01 * least
    with pytest.raises(ValueError, match="or more"):
        ask(flops=0.98 * least)


def test_data_that_end_are_told():
    class Ending(Sampler):
        def draw(self, position):
            if position.epoch:
                raise StopIteration
            return super().draw(position)

    with pytest.raises(ValueError, match=r"The data end after \d+ steps.*Sampler"):
        ask(data=Ending(arrays(), 16), seeds=1)


@pytest.mark.parametrize(
    ("stages", "options", "words"),
    [
        (STAGES, {}, "the run has no advice"),
        ([Stage(4, triggers.advised() | triggers.steps(9)), Stage(8)], {}, "cannot be combined"),
        ([Stage(4, triggers.advised()), Stage(16)], {"flops": BUDGET}, "none of these stages"),
        (STAGES, {"flops": BUDGET / 2}, "the same budget"),
        (STAGES, {"steps": 40}, "the same budget"),
    ],
)
def test_an_advice_that_cannot_be_followed_is_refused(stages, options, words, advice):
    own = {} if words in ("the run has no advice", "cannot be combined") else {"advice": advice}
    with pytest.raises(ValueError, match=words):
        run(
            stages,
            **{"flops": BUDGET, **own, **options} if "steps" not in options else own | options,
        )


def test_losses_that_diverge_are_never_advised():
    found = ask(
        [STAGES[0], Stage(8, learning_rate=1e30, name="8")],
        alone=[Stage(4, name="4")],
        options={"skip_nonfinite": False} if False else None,
    )
    assert not found.grow
    assert np.isinf(found.other.loss)
    saved = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert saved["expected"][-1]["loss"] is None


def test_what_a_choice_costs_counts_its_data_too():
    probe = prober()
    probe.recipe = dataclasses.replace(
        probe.recipe, data=lambda data: Sampler(arrays(), data.batch_size or 16)
    )
    cost = lambda stage: probe.flops_per_step(Choice("", (stage,)))
    few, many = (Stage(4, data=Data(batch_size=size)) for size in (4, 16))
    assert 3 * cost(few) < cost(many) < cost(Stage(8))
