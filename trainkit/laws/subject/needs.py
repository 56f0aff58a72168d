"""The extra arguments that the `update` of a rule requires."""

from __future__ import annotations

import contextlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws import losses
from trainkit.laws.problems import cases
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject


def find_needs(subject: Subject) -> None:
    """Finds the extra arguments that a rule requires, by calling it.

    Raises:
      TypeError: it requires an argument that was not passed and cannot be supplied.
    """
    flat = np.ones(sum(cases.sizes(cases.SHAPES)), np.float32)
    params = jax.tree.map(jnp.asarray, cases.tree(flat, cases.SHAPES))
    for _ in range(len(losses.NAMES) + 1):
        try:
            with ordinary():
                jax.eval_shape(lambda p: subject.update(p, subject.tx.init(p), p)[0], params)
            return
        except TypeError as error:
            missing = re.findall(
                r"missing \d+ required (?:keyword-only|positional) arguments?: (.*)", str(error)
            )
            names = re.findall(r"'(\w+)'", missing[0]) if missing else []
            new = [n for n in names if n not in subject.needs]
            unknown = [n for n in new if n not in losses.NAMES]
            own = set()
            with contextlib.suppress(ValueError, TypeError):
                own = set(inspect.signature(subject.tx.update).parameters)
            if unknown and ("update" in str(error) or own & set(unknown)):
                shown = ", ".join(f"'{n}': …" for n in unknown)
                raise TypeError(
                    f"the rule's update needs the extra argument {', '.join(unknown)}; pass "
                    f"extra_args={{{shown}}}, or extra_args=lambda params, grads: {{{shown}}}"
                ) from error
            if not new or unknown:
                return  # not about extra arguments: some law will report it
            subject.needs += tuple(new)
        except Exception as error:
            # Rules that look for it in **extra_args raise errors with their own texts.
            if not re.search(r"provide|requir|missing|need|expect", str(error)):
                return  # some law will report it, with its reproducer
            new = [n for n in re.findall(r"\w+", str(error)) if n in losses.NAMES]
            new = [n for n in new if n not in subject.needs]
            if not new:
                return
            subject.needs += tuple(new)
