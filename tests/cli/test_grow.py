"""`trainkit grow`: a checkpoint into a bigger model, and what is said where it cannot be."""

import numpy as np
import pytest

from tests.cli.test_cli import main

MODELS = """
import jax
import jax.numpy as jnp


def net(p, x):
    return jnp.tanh(x @ p["up"]) @ p["down"]


def sized(width=4, inputs=3):
    s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return net, {"up": s(inputs, width), "down": s(width, 2)}, s(5, inputs)


def needs(width):
    return sized(width)


def alone():
    return net


def cube(width=4):
    s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return net, {"up": s(width, width), "down": s(width, width)}, s(5, width)
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with models and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sizes_of_mine.py").write_text(MODELS)
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    np.savez("small.npz", up=draw(3, 4), down=draw(4, 2))
    np.savez("square.npz", up=draw(4, 4), down=draw(4, 4))

    def run(arguments, model="sizes_of_mine:sized"):
        return main(capsys, "grow", "--model", model, *arguments.split())

    return run


def test_it_grows_and_shows_the_mapping(command):
    status, out, _ = command("small.npz --small width=4 --big width=8 --out big.npz")
    assert status == 0
    assert out.startswith(
        "down = down\nup = up\nwrote big.npz: 20 → 40 parameters; the function is"
    )
    with np.load("big.npz") as file:
        assert file["up"].shape == (3, 8)
    status, out, _ = command("small.npz --big width=8 --out again.npz --no-measure --how even")
    assert status == 0
    assert "outputs" not in out


def test_help_teaches_the_model_and_the_names(command, capsys):
    with pytest.raises(SystemExit):
        command("--help")
    out = capsys.readouterr().out
    for word in ("def llama(width=64, depth=2)", "--new-name", "--as-is", "Exit status", "shards"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "model", "says"),
    [
        ("none.npz --out b.npz", "sized", "there is no file or folder none.npz"),
        ("small.npz --out small.npz", "sized", "small.npz is there already"),
        (
            "small.npz --big widht=8 --out b.npz",
            "sized",
            "no argument widht; did you mean 'width'?",
        ),
        ("small.npz --big 8 --out b.npz", "sized", "--big 8: write NAME=VALUE"),
        ("small.npz --out b.npz", "size", "no function size; did you mean 'sized'?"),
        ("small.npz --out b.npz", "needs", "needs width; add width=..."),
        ("small.npz --out b.npz", "alone", "the small model must be (module, *inputs) or"),
        ("small.npz --small width=5 --out b.npz", "sized", "down (5×2) in the small model; the ne"),
        ("small.npz --ignore dwn --out b.npz", "sized", "--ignore: 'dwn' is no tensor"),
        ("small.npz --how stak --out b.npz", "sized", "did you mean 'stack'?"),
        ("square.npz --out b.npz", "cube", "say --transpose 'down' or --as-is 'down'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(command, arguments, model, says):
    status, out, err = command(arguments, f"sizes_of_mine:{model}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("trainkit grow: ")
    assert says in err


@pytest.mark.parametrize(
    ("model", "says"),
    [("nowhere_to_be:f", "no module nowhere_to_be"), ("sizes_of_mine", "write MODULE:FACTORY"),
     ("sizes_of_mine.py:sized", "write MODULE:FACTORY")],
)  # fmt: skip
def test_a_model_that_is_not_there(command, model, says):
    status, _, err = command("small.npz --out b.npz", model)
    assert status == 2
    assert says in err


def test_a_refusal_of_growth_is_told_whole(command):
    status, _, err = command("small.npz --big width=3 --out b.npz")
    assert status == 2
    assert "would shrink from 4 to 3" in err
    assert "instead:" in err
