"""The programs in examples/ train to where the plain ones do, in at most 60 % of their lines."""

import ast
import importlib
import io
import pathlib
import re
import tokenize

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in ROOT.glob("*.py"))
MARKS = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip

# Orbax, in the plain programs: it leaves event loops to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def code_lines(text):
    """The number of lines without comments, docstrings and blank lines."""
    words = set()
    for node in ast.walk(ast.parse(text)):
        holds = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if holds and ast.get_docstring(node) is not None:
            words |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = (range(t.start[0], t.end[0] + 1) for t in tokens if t.type not in MARKS)
    return len(set().union(*lines) - words)


def test_code_lines_are_counted():
    text = '"""Words.\n\nMore."""\n\nx = """\n\n"""  # why\n# a comment\n\n\n'
    text += 'def f(\n    a,\n):\n    "doc"\n'
    assert code_lines(text) == 6  # three of the string x, three of the head of f


@pytest.mark.parametrize("name", NAMES)
def test_at_most_60_percent_of_the_lines(name):
    texts = [(folder / f"{name}.py").read_text() for folder in (ROOT, ROOT / "plain")]
    ours, plain = map(code_lines, texts)
    assert ours <= 0.6 * plain, f"{ours} of {plain} lines"
    assert f"| `{name}.py` | {ours} | {plain} |" in (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def as_a_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):
        yield


def both(monkeypatch, name, **sizes):
    """The program and the plain one, made smaller."""
    modules = [importlib.import_module(f"examples.{inside}{name}") for inside in ("", "plain.")]
    for module in modules:
        for constant, value in sizes.items():
            monkeypatch.setattr(module, constant, value)
    return modules


@pytest.mark.parametrize("placement", ["pmap", "fsdp"])
def test_a_transformer_goes_on_and_ends_where_the_plain_one_does(placement, monkeypatch):
    """The same initial values and batches; sums in bfloat16 differ in their order."""
    ours, plain = both(monkeypatch, "transformer", DEPTH=1, WIDTH=32, LENGTH=8)
    first, found = (ours.train(placement, "ours", steps).evaluation for steps in (20, 40))
    _, expected = (plain.train(placement, "plain", steps) for steps in (20, 40))
    assert found.keys() == expected.keys()
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.005)
    assert found["top_5"] == pytest.approx(expected["top_5"], abs=0.02)
    assert found["loss"] < first["loss"] - 0.1


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The body and the digits, made by the program in the README."""
    folder = tmp_path_factory.mktemp("files")
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.chdir(folder)
        exec(compile(code, "README", "exec"), {"__name__": "readme"})
    return folder


def test_fine_tuning_ends_where_the_plain_one_does_and_leaves_what_is_frozen(files, monkeypatch):
    """Each draws its own batches: of 600 digits a few are told otherwise."""
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import load_file

    ours, plain = both(monkeypatch, "fine_tuning", EPOCHS=3)
    paths = [str(files / name) for name in ("body.safetensors", "digits.npz")]
    result, found = ours.train(*paths)
    params, expected = plain.train(*paths)
    assert found["accuracy"] > 0.8
    assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=0.06)
    before = load_file(paths[0])
    for tuned in (result.state.params, params):
        now = flatten_dict(tuned, sep=".")
        same = {name for name in now if np.array_equal(now[name], before[name])}
        assert same == {name for name in now if re.match("stem|block_0", name)}


def test_a_growing_network_ends_where_the_plain_one_does(files, monkeypatch, capsys):
    ours, plain = both(monkeypatch, "growing_cnn", WIDTHS=(4, 8), STEPS=150)
    found = [program.train(str(files / "digits.npz")) for program in (ours, plain)]
    losses = [evaluation["loss"] for _, evaluation in found]
    assert max(losses) < 1.9  # that of width 4 alone is about 2.0 here
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    # In both the larger network begins where the smaller one ended.
    lines = [float(x) for x in re.findall(r"'loss': (\d\.\d{4})", capsys.readouterr().out)]
    assert len(lines) == 8
    for run in (lines[:4], lines[4:]):
        assert run[1] == pytest.approx(run[2], abs=2e-4)
