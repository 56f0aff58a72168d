"""Docstrings as the site shows them: an extension of griffe."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# A doctest begins with its prompt and ends before an empty line.
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
# Several arguments or attributes with one description.
NAMES = re.compile(r"^ +\*{0,2}\w+(?:, \*{0,2}\w+)+: ", re.MULTILINE)


class Examples(Extension):
    """Puts fences around every doctest, whose prompts Markdown would take for quotations.

    Names that share a description are kept together by spaces that do not break.
    """

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            joined = NAMES.sub(lambda names: names[0].replace(", ", ",\N{NO-BREAK SPACE}"), text)
            obj.docstring.value = joined
