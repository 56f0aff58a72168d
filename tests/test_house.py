"""The house: who may know whom, no cycles, no crowded rooms, and a map that names every room.

Read from the sources, nothing is imported. An import counts wherever it stands: at the top of a
module, inside a function, or for types alone.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "trainkit"

# Room -> the rooms that it may import from, beside itself. Imports go downward only: a room stands
# below every room that may know it. A module at the top of the package is a room of its own.
MAY_KNOW = {
    "_core": "",
    "packed": "_core",
    "cost": "_core",
    "distributed": "_core",
    "placement": "_core",
    "step": "_core placement",
    "adapters": "_core step",
    "sweep": "_core step loop report",
    "batch_noise": "_core step",
    "rate_finder": "_core step data transforms.state",
    "transforms": "_core",
    "transforms.state": "_core transforms",
    "transforms.optimizers": "_core transforms",
    "transforms.wrappers": "_core transforms transforms.state",
    "schedules": "_core",
    "regularise": "_core schedules transforms",
    "data": "_core",
    "report": "_core",
    "loggers": "_core",
    "loop.saved": "_core",
    "loop.transfer": "_core step loop.saved",
    "loop": "_core step transforms.wrappers data cost report loggers loop.saved loop.transfer",
    "hooks": "_core schedules transforms.state loop",
    "growth.errors": "",
    "growth.operators": "_core",
    "growth.ir": "_core growth.errors",
    "growth.axes": "_core growth.errors",
    "growth.plan": "_core packed growth.errors growth.operators growth.axes",
    "growth.analysis": "_core growth.errors growth.ir growth.axes growth.plan",
    "growth.rules": "_core growth.errors growth.ir growth.axes growth.analysis",
    "growth.depth": "_core growth.errors growth.ir growth.plan",
    "growth.maps": "_core packed growth.errors growth.axes growth.plan",
    "growth.opt_state": "_core packed growth.errors growth.plan growth.maps",
    "growth.views": "_core cost step growth.errors growth.ir growth.axes growth.plan "
    "growth.analysis growth.rules growth.maps growth.opt_state",
    "growth": "_core packed cost step adapters growth.errors growth.operators growth.ir "
    "growth.axes growth.plan growth.analysis growth.rules growth.depth growth.maps "
    "growth.opt_state growth.views",
    "pretrained.formats": "_core adapters loop loop.saved loop.transfer",
    "pretrained": "_core adapters growth growth.errors growth.operators growth.maps growth.views "
    "pretrained.formats",
    "progressive.stages": "_core cost placement step growth.operators",
    "progressive.transition": "_core cost placement step adapters growth growth.errors "
    "growth.operators growth.axes growth.plan growth.maps growth.opt_state growth.views "
    "progressive.stages",
    "progressive.advice": "_core data step progressive progressive.stages progressive.transition",
    "progressive": "_core cost data placement step adapters loop growth growth.errors "
    "growth.operators growth.views progressive.advice progressive.stages progressive.transition",
    "laws.problems": "_core",
    "laws.optional": "laws growth.errors growth.maps growth.opt_state",
    "laws.reproducers": "_core laws laws.problems",
    "laws.oracles": "_core laws",
    "laws.subject": "_core laws laws.problems laws.reproducers laws.oracles",
    "laws.families": "_core laws laws.optional laws.problems laws.reproducers laws.oracles "
    "laws.subject",
    "laws.schedules": "_core laws laws.oracles",
    "laws": "_core laws.optional laws.problems laws.reproducers laws.oracles laws.subject "
    "laws.families laws.schedules",
    "cli": "_core cost distributed data report loop loop.saved loop.transfer laws laws.oracles "
    "pretrained",
}
CROWDED = 15  # modules in one folder


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name):
    """The modules of this package that a module imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{a.name}" for a in node.names}
            found |= {x if x in SOURCES else node.module for x in inner}
    return {x for x in found if x in SOURCES} - {name}


IMPORTS = {name: imports_of(name) for name in SOURCES}


def room_of(name):
    inside = name.removeprefix("trainkit").removeprefix(".")
    rooms = [r for r in MAY_KNOW if inside == r or inside.startswith(r + ".")]
    return max(rooms, key=len, default=inside)


def facade(name):
    """Whether it only opens its own folder to others: the package itself, and `__init__` files."""
    return SOURCES[name].name in ("__init__.py", "__main__.py")


@pytest.mark.parametrize("room", sorted(MAY_KNOW))
def test_a_room_knows_only_those_below_it(room):
    allowed = {room, *MAY_KNOW[room].split()}
    wrong = {
        f"{name} imports {other}"
        for name in SOURCES
        if room_of(name) == room and not facade(name)
        for other in sorted(IMPORTS[name])
        if room_of(other) not in allowed
    }
    assert wrong == set()


def test_the_table_of_rooms_has_an_order():
    done = set()
    while len(done) < len(MAY_KNOW):
        # `laws.families` know `laws` (what a law is), and `laws` runs them: one storey.
        ready = {
            r
            for r, below in MAY_KNOW.items()
            if r not in done
            and {b for b in below.split() if b.split(".")[0] != r.split(".")[0]} <= done
        }
        assert ready, sorted(set(MAY_KNOW) - done)
        done |= ready


def test_every_module_is_in_a_room():
    assert [n for n in SOURCES if not facade(n) and room_of(n) not in MAY_KNOW] == []


def test_no_import_cycle():
    """Whole modules; the facades (`__init__`) import what is below them and are left out, but an
    import of a facade from inside its own folder is a cycle."""
    colour, stack = {}, []

    def visit(name):
        colour[name] = "open"
        stack.append(name)
        for other in sorted(IMPORTS[name]):
            if colour.get(other) == "open":
                raise AssertionError(" -> ".join([*stack[stack.index(other) :], other]))
            if other not in colour:
                visit(other)
        stack.pop()
        colour[name] = "done"

    for name in SOURCES:
        if name != "trainkit" and name not in colour:
            visit(name)


def test_no_folder_is_crowded():
    folders = {path.parent for path in SOURCES.values()}
    crowds = {str(f.relative_to(ROOT)): len(modules_in(f)) for f in folders}
    assert {f: n for f, n in crowds.items() if n > CROWDED} == {}


def modules_in(folder):
    return [p for p in folder.glob("*.py") if p.name != "__init__.py"]


def test_every_room_says_what_it_is():
    """In under ten lines: what it does, its input and output, and which file to read first."""
    wrong = []
    for name, path in SOURCES.items():
        if path.name == "__init__.py":
            words = ast.get_docstring(ast.parse(path.read_text())) or ""
            parts = name == "trainkit" or re.search(r"Input.*Read.*\sfirst\b", words, re.DOTALL)
            if not parts or len(words.splitlines()) >= 10:
                wrong.append(name)
    assert wrong == []


LONG_MODULE, LONG_FUNCTION = 300, 60
REASON = re.compile(r"^\s*# Over (300|60) lines: \S", re.MULTILINE)


def functions_of(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno + 1 - (words.count("\n") + 1 if words else 0)
            yield node, lines


def test_what_is_long_says_why():
    """`# Over 300 lines: …` stands at the top of such a module, `# Over 60 lines: …` in such a
    function (its docstring is not counted)."""
    wrong = []
    for name, path in SOURCES.items():
        text = path.read_text()
        lines = text.splitlines()
        if len(lines) > LONG_MODULE and not REASON.search("\n".join(lines[:20])):
            wrong.append(name.removeprefix("trainkit."))
        for node, length in functions_of(text):
            body = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if length > LONG_FUNCTION and not REASON.search(body):
                wrong.append(f"{name}.{node.name}".removeprefix("trainkit."))
    assert wrong == []


def rooms():
    """Every folder of the package, as the map names it: `growth/analysis/`."""
    folders = {path.parent for path in SOURCES.values()} - {PACKAGE}
    return {str(folder.relative_to(PACKAGE)) + "/" for folder in folders}


def test_the_map_names_every_room_and_no_other():
    text = (ROOT / "docs" / "design.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+)`", text))
    outside = {name for name in named if name.startswith(("tests/", "tools/"))}
    assert named - outside == rooms()
    files = set(re.findall(r"\b(?:[a-z_]+/)+[a-z_]+\.py\b", text))
    assert [f for f in sorted(files) if not any((at / f).exists() for at in (PACKAGE, ROOT))] == []
