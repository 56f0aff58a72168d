import pytest

from trainkit.growth import until
from trainkit.growth.stages import Data, Stage, StageError, check_sizes, check_triggers, normalised


def test_what_a_stage_leaves_open_comes_from_the_one_before():
    stages = [
        Stage("a", until.steps(1), data=Data(subset=0.5, batch_size=4)),
        Stage(None, until.steps(1), data=Data(batch_size=8)),
        Stage("b"),
    ]
    _, (second,), (third,) = normalised(stages)
    assert second.model == "a"
    assert second.data == third.data == Data(subset=0.5, batch_size=8)


def test_tuples_and_alternatives():
    levels = normalised(
        [
            ("a", until.steps(1)),
            [Stage("b", until.steps(1)), Stage("c", until.steps(2))],
            ("d", None, "stack"),
        ]
    )
    assert [len(level) for level in levels] == [1, 2, 1]
    assert levels[2][0].how == "stack"


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "no stages"),
        ([Stage(None)], "has no model"),
        ([[Stage("a"), Stage("b")]], "no state yet to choose from"),
        ([Stage("a"), Stage("b")], "Stage 0 has no `until`"),
        (["a"], "Stage 0 is 'a'"),
    ],
)
def test_lists_that_are_no_stages(stages, words):
    with pytest.raises(StageError, match=words):
        normalised(stages)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"until": 100}, "must be a trigger"),
        ({"moments": "keep"}, "'carry' or 'reset'"),
        ({"rewarm": -1}, "rewarm=-1"),
        ({"mup": "adamw"}, "mup='adamw' must be 'adam'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"how": "grow"}, "there is no operator"),
    ],
)
def test_bad_stages(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Stage("a", **options)


@pytest.mark.parametrize(
    "options",
    [{"subset": 0.0}, {"subset": 1.5}, {"subset": 0}, {"batch_size": 0}, {"resolution": 2.0}],
)
def test_bad_sizes_of_data(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Data(**options)


def check(stages, metrics=("loss",), budget=None, one_step=None):
    check_triggers(
        normalised(stages),
        metrics=metrics,
        budget={"steps": None, "flops": None, **(budget or {})},
        one_step={"steps": 1, "flops": 100.0, "examples": 8, **(one_step or {})},
    )


def test_a_trigger_that_may_fire_by_another_way_is_let_through():
    check([Stage("a", until.steps(100) | until.plateau("loss")), Stage("b")], budget={"steps": 50})
    check(
        [Stage("a", until.steps(10) & until.reaches("loss", 1.0)), Stage("b")], budget={"steps": 50}
    )


def test_a_trigger_that_no_way_leads_to_is_refused():
    with pytest.raises(StageError, match="would never come"):
        check(
            [Stage("a", until.steps(100) & until.plateau("loss")), Stage("b")], budget={"steps": 50}
        )
    with pytest.raises(StageError, match="nothing computes 'f1'"):
        check([Stage("a", until.steps(10) & until.reaches("f1", 0.5)), Stage("b")])
    with pytest.raises(StageError, match=r"budget of 50 flops is below one step"):
        check([Stage("a")], budget={"flops": 50.0})


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
