"""Every Python block in the README and the pages of docs/ runs, and so does every doctest."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import warnings

import jax
import pytest

import trainkit

ROOT = pathlib.Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages():
    """The pages that hold Python blocks; a page's blocks run in order, as one program."""
    candidates = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    return [page for page in candidates if BLOCK.search(page.read_text())]


def modules():
    found = [trainkit.__name__]
    for module in pkgutil.walk_packages(trainkit.__path__, "trainkit."):
        if not module.name.endswith("__main__"):
            found.append(module.name)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a page may write its pictures and runs where it stands
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": page.stem}
    text = page.read_text()
    with jax.numpy_dtype_promotion("standard"):  # what a reader has
        for match in BLOCK.finditer(text):
            line = text[: match.start(1)].count("\n")
            # Blank lines before the block keep the page's line numbers in a traceback.
            code = compile("\n" * line + match.group(1), str(page), "exec")
            exec(code, namespace)


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what a module itself imports
        module = importlib.import_module(name)
    with jax.numpy_dtype_promotion("standard"):
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
