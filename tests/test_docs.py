"""Every Python block in the README and the pages of docs/ runs, and so does every doctest."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import warnings

import jax
import pytest

import trainkit
from trainkit.cli.main import COMMANDS

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages():
    """The pages that hold Python blocks; a page's blocks run in order, as one program."""
    candidates = [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]
    return [page for page in candidates if BLOCK.search(page.read_text())]


def modules():
    found = [trainkit.__name__]
    for module in pkgutil.walk_packages(trainkit.__path__, "trainkit."):
        if not module.name.endswith("__main__"):
            found.append(module.name)
    return found


def program(page):
    """The blocks of a page as one program, each on its own lines."""
    text, code = page.read_text(), ""
    for match in BLOCK.finditer(text):
        code += "\n" * (text[: match.start(1)].count("\n") - code.count("\n")) + match.group(1)
    return code


def prelude(page):
    """What a page goes on from: those of how-to/ from the first program of the first run."""
    if page.parent.name != "how-to":
        return ""
    return BLOCK.search((DOCS / "tutorials" / "first-run.md").read_text()).group(1)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a page may write its pictures and runs where it stands
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": page.stem}
    with jax.numpy_dtype_promotion("standard"):  # what a reader has
        exec(compile(prelude(page), "<first-run>", "exec"), namespace)
        exec(compile(program(page), str(page), "exec"), namespace)


def test_the_commands_of_the_pages_are_there():
    blocks = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
    text = "".join(
        block for page in DOCS.rglob("*.md") for block in blocks.findall(page.read_text())
    )
    words = re.findall(r"(?:^|-- )trainkit (\S+)", text, re.MULTILINE)
    assert len(words) > 5
    assert set(words) <= set(COMMANDS)


def test_the_site_lists_every_page():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    made = {name for name in listed if name.startswith("reference/")}
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(listed) == pages | made | {"contributing.md", "experiments.md"}
    assert len(listed) == len(set(listed))
    packages = [n for n in trainkit.__all__ if inspect.ismodule(getattr(trainkit, n))]
    assert made == {f"reference/{name}.md" for name in ("trainkit", "command", *packages)}


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
