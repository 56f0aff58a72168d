"""What a type checker sees of this package: every public name, and the programs of the pages."""

import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import trainkit
from tests.test_docs import ROOT, pages, prelude, program
from trainkit.loop.arguments.fit_options import FitOptions
from trainkit.loop.fit import fit

PACKAGES = [trainkit, *filter(inspect.ismodule, (getattr(trainkit, n) for n in trainkit.__all__))]
TYPOS = """
import trainkit, trainkit.transforms as tt
tt.adamw(1e-3, weight_dacay=0.1)
tt.muon(1e-3, stackd={"layers": 1})
def call(step: trainkit.TrainStep, state: trainkit.TrainState, loss: trainkit.LossFn) -> None:
    trainkit.fit(step, state, [], stesp=3)
    trainkit.make_train_step(loss, tt.adam(1e-3), microbatch=2)
    trainkit.progressive.progressive([], call, tt.sgd(0.1), [], [], log_evry=3)
    trainkit.laws.parametrize(tt.sgd, exmples=3)
    trainkit.data.staged([], 3, sead=1)
"""


def public():
    """`package.name` -> the thing, for everything that a reader may import."""
    found = {}
    for module in PACKAGES:
        own = lambda name, of=module: getattr(getattr(of, name), "__module__", "") == of.__name__
        names = getattr(module, "__all__", None) or filter(own, vars(module))
        found |= {f"{module.__name__}.{n}": getattr(module, n) for n in names if n[0] != "_"}
    return found


def from_optax(thing):
    """Optax's own functions, which have no types, also with our checks around them."""
    return getattr(inspect.unwrap(thing), "__module__", "").startswith("optax")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """File name -> lines of mypy's output, for all programs in one run (of some 15 s)."""
    folder = tmp_path_factory.mktemp("programs")
    for page in pages():
        name = page.relative_to(ROOT).with_suffix("").as_posix()
        code = "from prelude import *\n" * bool(prelude(page)) + program(page)
        (folder / f"{re.sub(r'[/-]', '_', name)}_page.py").write_text(code)
        if prelude(page):
            (folder / "prelude.py").write_text(prelude(page))
    lines = [f"import {package.__name__}" for package in PACKAGES]
    lines += [f"reveal_type({name})  # {name}" for name in public()]
    (folder / "public.py").write_text("\n".join(lines))
    (folder / "typos.py").write_text(TYPOS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--allow-redefinition", "--disable-error-code=no-redef",
         "--disable-error-code=assignment",  # a page uses a name anew, as a reader does
         "--no-error-summary", "--config-file", ROOT / "pyproject.toml",
         *sorted(folder.glob("*.py"))],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found = {}
    for line in done.stdout.splitlines():
        file, _, said = line.partition(":")
        found.setdefault(pathlib.Path(file).name, []).append(said)
    return found


def test_the_programs_of_the_pages_are_well_typed(checked):
    wrong = {
        f"{file}:{line}"
        for file, lines in checked.items()
        for line in lines
        # Flax says of every `apply` that it may return a pair of outputs and variables; a page may
        # write a module and import it.
        if file.endswith("_page.py")
        and "error:" in line
        and not re.search(r"FrozenDict\[str|\[import-not-found\]", line)
    }
    assert wrong == set()


def test_every_public_name_has_a_type(checked):
    names = list(public())
    revealed = [re.search(r'(\d+): note: Revealed type is "(.*)"', x) for x in checked["public.py"]]
    assert len([r for r in revealed if r]) == len(names)
    untyped = {
        names[int(r[1]) - len(PACKAGES) - 1] for r in revealed if r and r[2].startswith("Any")
    }
    assert {name for name in untyped if not from_optax(public()[name])} == set()


def test_a_wrong_option_is_a_type_error(checked):
    wrong = [line for line in checked["typos.py"] if "[call-arg]" in line]
    assert len(wrong) == TYPOS.count("\n    ") + TYPOS.count("\ntt."), checked["typos.py"]


def test_no_public_function_takes_any_keyword():
    taking = set()
    for name, thing in public().items():
        if inspect.isfunction(thing) and not from_optax(thing):
            for parameter in inspect.signature(thing).parameters.values():
                if parameter.kind is parameter.VAR_KEYWORD and "Unpack" not in str(
                    parameter.annotation
                ):
                    taking.add(name)
    # Whose keywords are the user's own names.
    assert taking == {
        "trainkit.sweep.sweep", "trainkit.sweep.sweep_training", "trainkit.transforms.named",
    }  # fmt: skip


def test_the_options_that_a_growing_run_hands_on_are_those_of_fit():
    own = inspect.signature(trainkit.progressive.progressive).parameters
    options = [
        p.name for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    passed_by_itself = {"evaluate", *own}
    assert set(FitOptions.__annotations__) == set(options) - passed_by_itself
