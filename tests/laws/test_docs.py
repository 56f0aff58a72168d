"""The page that teaches the kit: its code runs, and its example catches the planted bug."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 6
    names: dict = {"__name__": "docs"}
    # One program, from a file, so that the kit can read the source of the rules in it.
    for i, block in enumerate(blocks):
        import linecache

        name = f"<docs/laws.md block {i}>"
        linecache.cache[name] = (len(block), None, block.splitlines(True), name)
        exec(compile(block, name, "exec"), names)
    assert not names["report"].ok
