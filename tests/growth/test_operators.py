import pytest

from trainkit.growth.operators import DEPTH, WIDTH, Operator, operator


@pytest.mark.parametrize("name", WIDTH)
def test_a_width_operator_leaves_depth_to_identity(name):
    assert operator(name) == Operator(name, "identity")


@pytest.mark.parametrize("name", DEPTH)
def test_a_depth_operator_leaves_width_uneven(name):
    assert operator(name) == Operator("uneven", name)


def test_compounds_in_either_order():
    assert operator("stack+rms") == operator("rms+stack") == Operator("rms", "stack")


@pytest.mark.parametrize(
    ("name", "keeps"),
    [("preserve", True), ("even", True), ("zero_out", True), ("rms", False), ("last", False)],
)
def test_which_keep_the_function(name, keeps):
    assert operator(name).preserves is keeps


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosie", "did you mean 'noise'"),
        ("", "there is no operator ''"),
        ("stack+last", "two operators for depth: 'stack' and 'last'"),
        ("even+rms", "two operators for width"),
    ],
)
def test_a_wrong_name_is_explained(name, words):
    with pytest.raises(ValueError, match=words):
        operator(name)


def test_something_else_is_no_name():
    with pytest.raises(TypeError, match="name of an operator"):
        operator(3)
