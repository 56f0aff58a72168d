"""Crashes of a rule: their place, their message, and a program that reproduces them."""

from __future__ import annotations

import traceback

from trainkit.laws.families.protocol.structure import ABSTRACT
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import first_line
from trainkit.laws.subject import Crash

# (file, line): crashes at one place have one cause, whatever shapes a law used and error it gave.
Place = tuple[str, int]
_NOT_THE_RULE = ("/jax/", "/jaxlib/", "/numpy/", "/flax/", "/trainkit/laws/", "/contextlib.py")
LONGEST = 600  # the maximum length of an error text in a message


def cause_of(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, Crash) else error


def place_of(error: BaseException) -> Place:
    """The innermost line in the rule's own code, or in a library that it uses."""
    frames = traceback.extract_tb(error.__traceback__)
    path = lambda frame: frame.filename.replace("\\", "/")
    own = [f for f in frames if not any(part in path(f) for part in _NOT_THE_RULE)]
    last = (own or frames or [traceback.FrameSummary("", 0, "")])[-1]
    return last.filename, last.lineno or 0


def crashed_as(error: BaseException, law: Law) -> Violation:
    where = error.where if isinstance(error, Crash) else law.name
    cause = cause_of(error)
    name, (file, line) = type(cause).__name__, place_of(cause)
    message = f"it crashed ({where}): {name}: {_words(cause)}"
    if file:
        message += f" ({file.replace(chr(92), '/').rpartition('/')[2]}, line {line})"
    example = {"cause": f"{name}: {first_line(cause)}",
               "params": "dicts of arrays, and a tuple of two"}  # fmt: skip
    if law.kind == "schedule":
        return Violation(message, example, _CRASH_SCHEDULE)
    kinds = _KINDS.get(law.name, "[('bfloat16', 'bfloat16'), ('float32', 'float32')]")
    script = _SCRIPTS.get(law.name) or _CRASH.format(kinds=kinds)
    if "64" in where or "64" in law.name:
        script = "jax.config.update('jax_enable_x64', True)\n" + script
    return Violation(message, example, script)


def _words(error: BaseException) -> str:
    """The text of an error without JAX's remarks on its traceback; later lines contain shapes."""
    text = str(error)
    for end in ("-" * 20, "For simplicity, JAX has removed", "The error occurred while"):
        text = text.split(end)[0]
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


_WRAPPED = (
    "params = {{'b': jnp.array([1.0, 2.0, 3.0]), 'w': jnp.ones((2, 3))}}\n"
    "for rule in ({rules}):\n    p, state = params, rule.init(params)\n    for _ in range(3):\n"
    "        u, state = rule.update(p, state, p)\n        p = optax.apply_updates(p, u)"
)
_GROUPS = "supplied(optax.partition({'one': bare, 'two': bare}, {'b': 'one', 'w': 'two'}))"
# A rule gets the loss of the whole tree, even if it sees only a part of the tree.
_BARE = (
    "bare, supplied = (bare, supplied) if 'supplied' in globals() else (tx, lambda rule: rule)\n"
)
# Programs of laws that use a rule in a special way.
_SCRIPTS = {
    "abstract parameters": ABSTRACT,
    "identity and associativity": _WRAPPED.format(
        rules="optax.chain(optax.identity(), tx), optax.chain(tx, optax.identity())"
    ),
    "masked and partitioned": _BARE
    + _WRAPPED.format(rules=f"supplied(optax.masked(bare, {{'b': True, 'w': True}})), {_GROUPS}"),
}
# The dtypes of parameters and gradients in a law.
_KINDS = {
    "mixed dtypes": "[('float32', 'bfloat16'), ('bfloat16', 'float32'), ('float32', 'float16')]",
    "float16": "[('float16', 'float16')]",
    "float64": "[('float64', 'float64'), ('float32', 'float32')]",
    "oracle in float64": "[('float64', 'float64')]",
}
_CRASH = (
    "bias, kernel = jnp.array([1.0, 2.0, 3.0]), jnp.ones((2, 3))\n"
    "def train(params):\n"
    "    state, update = tx.init(params), jax.jit(tx.update)\n    for _ in range(3):\n"
    "        updates, state = update(params, state, params)\n"
    "        params = optax.apply_updates(params, updates)\n"
    "    for params_dtype, grads_dtype in {kinds}:\n"
    "        p = jax.tree.map(lambda x: x.astype(params_dtype), params)\n"
    "        g = jax.tree.map(lambda x: jnp.stack([x, x]).astype(grads_dtype), params)\n"
    "        jax.eval_shape(lambda: tx.update(jax.tree.map(lambda x: x[0], g), tx.init(p), p))\n"
    "        if params_dtype == grads_dtype:\n"
    "            jax.lax.scan(lambda s, g: tx.update(g, s, p)[::-1], tx.init(p), g)\n"
    "train({{'b': bias, 'w': kernel}})\n"
    "train({{'dense': {{'bias': bias, 'kernel': kernel}}, 'twins': (bias, bias)}})"
)
_CRASH_SCHEDULE = (
    "print(schedule(0), schedule(1), schedule(2**31 - 1))\nprint(jax.jit(schedule)(jnp.array(1)))\n"
    "print(jax.vmap(schedule)(jnp.arange(4)))"
)
