import pytest

from trainkit.progressive import triggers
from trainkit.progressive.stages.stage import Data, Stage, StageError, normalised


def test_what_a_stage_leaves_open_comes_from_the_one_before():
    stages = [
        Stage("a", triggers.steps(1), data=Data(subset=0.5, batch_size=4)),
        Stage(None, triggers.steps(1), data=Data(batch_size=8)),
        Stage("b"),
    ]
    _, (second,), (third,) = normalised(stages)
    assert second.model == "a"
    assert second.data == third.data == Data(subset=0.5, batch_size=8)


def test_tuples_and_alternatives():
    levels = normalised(
        [
            ("a", triggers.steps(1)),
            [Stage("b", triggers.steps(1)), Stage("c", triggers.steps(2))],
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
        ({"until": 100}, "until must be a Trigger"),
        ({"moments": "keep"}, "'carry' or 'reset'"),
        ({"rewarm": -1}, "rewarm must be .*not -1"),
        ({"mup": "adamw"}, "mup must be None, 'adam' or 'sgd', not 'adamw'"),
        ({"learning_rate": 0.0}, "learning_rate must be .*not 0.0"),
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
