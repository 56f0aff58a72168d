"""The pages of the site that are made when it is built: hooks of mkdocs.

The reference has a page for every public package, with every name in its `__all__`, or every public
name defined in it. Pages that lie elsewhere in the repository are taken as they are.
"""

from __future__ import annotations

import ast
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "trainkit"
# Page of the site -> where it lies; links to the one become links to the other.
ELSEWHERE = {"contributing.md": "CONTRIBUTING.md", "experiments.md": "experiments/README.md"}
# What a page of how-to/ says first; the tests run it as its program goes on from that one.
GOES_ON = "*Goes on from the first program of [A first run](../tutorials/first-run.md).*"
CHECKPOINT = PACKAGE / "loop" / "checkpoint.py"


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds them."""
    pages = {page: (ROOT / path).read_text() for page, path in ELSEWHERE.items()}
    pages |= {f"reference/{name}.md": reference(name, path) for name, path in sources().items()}
    pages["reference/command.md"] = command()
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and the files elsewhere, and what GitHub's Markdown reads otherwise."""
    for name, path in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{path})", f"]({name})")
    if page.file.src_uri in ELSEWHERE:
        markdown = re.sub(r"\]\((?:\.\./)?docs/", "](", markdown)
    if page.file.src_uri.startswith("how-to/"):
        markdown = markdown.replace("\n", f"\n\n{GOES_ON}\n", 1)
    # The name of a leaf in a table, such as [1][0].mu, is no reference.
    markdown = re.sub(r"^\|.*", lambda row: row[0].replace("][", "]\\["), markdown, flags=re.M)
    return markdown.replace("<details>", '<details markdown="1">')


def sources() -> dict[str, pathlib.Path]:
    """Name of a page -> the file that says what is public there."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    found = {"trainkit": PACKAGE / "__init__.py"}
    for name in exported(tree):
        for path in (PACKAGE / f"{name}.py", PACKAGE / name / "__init__.py"):
            if path.is_file():
                found[name] = path
    return found | {"checkpoint": CHECKPOINT}


def exported(tree: ast.Module) -> list[str]:
    """The names in `__all__`, else the public functions and classes."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    kinds = ast.FunctionDef | ast.ClassDef
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


def reference(name: str, path: pathlib.Path) -> str:
    """A page of the reference."""
    tree = ast.parse(path.read_text())
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    theirs = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("trainkit")
        for alias in node.names
    }
    shown = module if name != "checkpoint" else "trainkit.checkpoint"
    out = [f"# {shown}", ast.get_docstring(tree) or ""]
    packages = [] if name != "trainkit" else [n for n in sources() if n != "trainkit"]
    if packages:
        out.append("Its packages: " + ", ".join(f"[{n}]({n}.md)" for n in packages) + ".")
    names = [n for n in exported(tree) if n not in packages and not n.startswith("__")]
    if optax := [n for n in names if n in theirs]:
        out.append("From Optax as they are: " + ", ".join(f"`{n}`" for n in optax) + ".")
    out += [f"::: {module}.{n}" for n in names if n not in optax]
    return "\n\n".join(out) + "\n"


def command() -> str:
    """What `trainkit --help` and its subcommands say."""
    out = ["# The command"]
    first = said()
    commands = re.findall(r"^  (\w+) ", first.partition("begin with")[0], re.MULTILINE)
    for word in ("", *commands):
        text = said(word) if word else first
        out += [f"## trainkit {word}".rstrip(), f"```text\n{text.strip()}\n```"]
    return "\n\n".join(out) + "\n"


def said(*words: str) -> str:
    """The help of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "trainkit", *words, "--help"],
        cwd=ROOT, env=os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout
