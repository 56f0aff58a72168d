import pytest

from trainkit.progressive import triggers
from trainkit.progressive.stages.stage import Data, Stage, StageError, normalised
from trainkit.progressive.validation import check_sizes, check_triggers


def check(stages, metrics=("loss",), budget=None, one_step=None):
    check_triggers(
        normalised(stages),
        metrics=metrics,
        budget=budget or {},
        one_step={"steps": 1, "flops": 100.0, "examples": 8, **(one_step or {})},
    )


def test_a_trigger_that_may_fire_by_another_way_is_let_through():
    check(
        [Stage("a", triggers.steps(100) | triggers.plateau("loss")), Stage("b")],
        budget={"steps": 50},
    )
    check(
        [Stage("a", triggers.steps(10) & triggers.reaches("loss", 1.0)), Stage("b")],
        budget={"steps": 50},
    )


def test_a_trigger_that_no_way_leads_to_is_refused():
    with pytest.raises(StageError, match="would never come"):
        check(
            [Stage("a", triggers.steps(100) & triggers.plateau("loss")), Stage("b")],
            budget={"steps": 50},
        )
    with pytest.raises(StageError, match="nothing computes 'f1'"):
        check([Stage("a", triggers.steps(10) & triggers.reaches("f1", 0.5)), Stage("b")])
    with pytest.raises(StageError, match=r"budget of 50 flops is below one step"):
        check([Stage("a")], budget={"flops": 50.0})


# One step is 8 examples of 80, so ten steps a pass; after the growth twice as many.
RATES = [
    [{"steps": 1.0, "examples": 8.0, "epochs": 0.1}],
    [{"steps": 1.0, "examples": 16.0, "epochs": 0.2}],
    [{}],
]


@pytest.mark.parametrize(
    ("first", "second", "budget", "refused"),
    [
        (triggers.epochs(3), triggers.examples(160), {"steps": 41}, None),  # 30 and 10 steps
        (triggers.epochs(3), triggers.examples(160), {"steps": 40}, "Stage 1 ends after 40 steps"),
        (triggers.steps(10), triggers.steps(10), {"examples": 240}, "after 240 examples"),
        (triggers.steps(10), triggers.steps(10), {"epochs": 3.1}, None),
        # Evaluations come every 7 steps of the run: at 7, 14, 21 and 28.
        (triggers.steps(8), triggers.plateau("loss", patience=3), {"steps": 29}, None),
        (triggers.steps(8), triggers.plateau("loss", patience=3), {"steps": 28}, "after 28 steps"),
        (triggers.steps(8), triggers.plateau("loss") | triggers.steps(9), {"steps": 18}, None),
    ],
)
def test_units_are_converted_where_steps_make_them(first, second, budget, refused):
    levels = normalised([Stage("a", first), Stage("b", second), Stage("c")])
    options = {"metrics": ["loss"], "one_step": {}, "rates": RATES, "eval_every": 7}
    if refused is None:
        check_triggers(levels, budget=budget, **options)
    else:
        with pytest.raises(StageError, match=refused):
            check_triggers(levels, budget=budget, **options)


def sizes(before, after, old, new):
    check_sizes(before, after, old, new, 1)


def test_shrinking_is_refused_unless_said():
    a, b = {"w": (4, 8)}, {"w": (8, 4)}
    with pytest.raises(StageError, match=r"axis 1 of w from \(4, 8\) to \(8, 4\)"):
        sizes(Stage("a"), Stage("b"), a, b)
    sizes(Stage("a"), Stage("b", shrink=True), a, b)
    with pytest.raises(StageError, match="from 32 to 16 parameters"):
        sizes(Stage("a"), Stage("b"), a, {"v": (4, 4)})
    with pytest.raises(StageError, match="sequence_length from 8 to 4"):
        sizes(
            Stage("a", data=Data(sequence_length=8)), Stage("a", data=Data(sequence_length=4)), a, a
        )


def test_a_layer_that_moves_along_does_not_shrink():
    old = {"Dense_0": (4, 8), "Dense_1": (8, 2)}
    sizes(Stage("a"), Stage("b"), old, {"Dense_0": (4, 8), "Dense_1": (8, 8), "Dense_2": (8, 2)})
