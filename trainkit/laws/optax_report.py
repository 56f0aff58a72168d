"""`python -m trainkit.laws.optax_report`: every rule and schedule of Optax against every law.

It goes through the installed Optax by its public names, contrib included, checks each at the strict
level in a process of its own (thousands of compilations in one process exhaust its memory maps),
keeps each outcome in a folder, so that an interrupted run goes on where it was, and writes
docs/laws-of-optax.md. What a violation is (a bug, a documented limitation, a law that the rule does
not claim) stands in docs/laws-of-optax.toml with its reason; what does not stand there is shown as
unclassified.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUTCOMES = Path("build/laws-of-optax")
CLASSES = Path("docs/laws-of-optax.toml")
PAGE = Path("docs/laws-of-optax.md")
TIMEOUT = 600  # seconds for one rule

# How to call what has no defaults; the rest gets the learning rate alone, or nothing.
RATE = "learning_rate=1e-2"
SGD = "optax.sgd(1e-2)"
WRAPPED = ".gradient_transformation()"
CALLS: dict[str, str] = {
    "adadelta": RATE,
    "adafactor": RATE,
    "adaptive_grad_clip": "clipping=0.01",
    "add_decayed_weights": "weight_decay=0.1",
    "add_noise": "eta=0.01, gamma=0.55, key=0",
    "apply_every": "k=3",
    "apply_if_finite": "inner=optax.adam(1e-2), max_consecutive_errors=3",
    "chain": "optax.clip(1.0), optax.adam(1e-2)",
    "clip": "max_delta=0.5",
    "clip_by_block_rms": "threshold=0.5",
    "clip_by_global_norm": "max_norm=1.0",
    "conditionally_mask": f"inner={SGD}, should_transform_fn=lambda step: step < 5",
    "conditionally_transform": f"inner={SGD}, should_transform_fn=lambda step: step < 5",
    "contrib.differentially_private_aggregate": "l2_norm_clip=1.0, noise_multiplier=0.0, key=0",
    "contrib.dpsgd": "learning_rate=1e-2, l2_norm_clip=1.0, noise_multiplier=0.0, seed=0",
    "contrib.mechanize": f"base_optimizer={SGD}",
    "contrib.momo": RATE,
    "contrib.reduce_on_plateau": "patience=3",
    "contrib.sam": f"optimizer={SGD}, "
    "adv_optimizer=optax.chain(optax.contrib.normalize(), optax.sgd(0.05))",
    "contrib.schedule_free": f"base_optimizer={SGD}, learning_rate=1e-2",
    "contrib.split_real_and_imaginary": "inner=optax.adam(1e-2)",
    "ema": "decay=0.9",
    "flatten": "inner=optax.adam(1e-2)",
    "freeze": "mask=False",
    "inject_hyperparams": "optax.adam)(learning_rate=1e-2",
    "inject_stateful_hyperparams": "optax.adam)(learning_rate=1e-2",
    "masked": "inner=optax.adam(1e-2), "
    "mask=lambda p: __import__('jax').tree.map(lambda x: x.ndim > 1, p)",
    "measure_with_ema": "lambda updates, *_, **__: optax.global_norm(updates), 0.9",
    "monitor": "{'norm': lambda updates, *_, **__: optax.global_norm(updates)}",
    "named_chain": "('clip', optax.clip(1.0)), ('adam', optax.adam(1e-2))",
    "noisy_sgd": "learning_rate=1e-2, key=0",
    "partition": "transforms={'one': optax.adam(1e-2), 'two': optax.sgd(1e-2)}, param_labels="
    "lambda p: __import__('jax').tree.map(lambda x: 'one' if x.ndim > 1 else 'two', p)",
    "polyak_sgd": "",
    "scale": "step_size=-0.1",
    "scale_by_learning_rate": RATE,
    "scale_by_schedule": "step_size_fn=optax.linear_schedule(-1.0, -0.1, 20)",
    "scale_by_rprop": RATE,
    "scale_by_backtracking_linesearch": "max_backtracking_steps=5",
    "scale_by_zoom_linesearch": "max_linesearch_steps=5",
    "selective_transform": f"optimizer={SGD}, freeze_mask=False",
    "snapshot": "'norm', lambda updates, *_, **__: optax.global_norm(updates)",
    "trace": "decay=0.9",
    # Schedules.
    "constant_schedule": "value=0.1",
    "cosine_decay_schedule": "init_value=1.0, decay_steps=100, alpha=0.1",
    "cosine_onecycle_schedule": "transition_steps=100, peak_value=1.0",
    "exponential_decay": "init_value=1.0, transition_steps=10, decay_rate=0.9",
    "join_schedules": "schedules=[optax.linear_schedule(0.0, 1.0, 10), optax.constant_schedule(1.0)"
    "], boundaries=[10]",
    "linear_onecycle_schedule": "transition_steps=100, peak_value=1.0",
    "linear_schedule": "init_value=1.0, end_value=0.1, transition_steps=100",
    "piecewise_constant_schedule": "init_value=1.0, boundaries_and_scales={20: 0.5, 50: 0.1}",
    "piecewise_interpolate_schedule": "interpolate_type='cosine', init_value=1.0, "
    "boundaries_and_scales={20: 0.5, 50: 0.1}",
    "polynomial_schedule": "init_value=1.0, end_value=0.1, power=0.5, transition_steps=100",
    "sgdr_schedule": "cosine_kwargs=[dict(init_value=0.0, peak_value=1.0, warmup_steps=5, "
    "decay_steps=50), dict(init_value=0.0, peak_value=0.5, warmup_steps=5, decay_steps=50)]",
    "warmup_constant_schedule": "init_value=0.0, peak_value=1.0, warmup_steps=10",
    "warmup_cosine_decay_schedule": "init_value=0.0, peak_value=1.0, warmup_steps=10, "
    "decay_steps=100, end_value=0.1",
    "warmup_exponential_decay_schedule": "init_value=0.0, peak_value=1.0, warmup_steps=10, "
    "transition_steps=20, decay_rate=0.5",
}
# A second way to call a rule whose other branch is another rule.
VARIANTS: dict[str, str] = {
    "adam, nesterov": "optax.adam(learning_rate=1e-2, nesterov=True)",
    "rmsprop, centred, momentum": "optax.rmsprop(learning_rate=1e-2, centered=True, momentum=0.9)",
    "sgd, momentum": "optax.sgd(learning_rate=1e-2, momentum=0.9)",
    "sgd, nesterov": "optax.sgd(learning_rate=1e-2, momentum=0.9, nesterov=True)",
    "MultiSteps": f"optax.MultiSteps(opt={SGD}, every_k_schedule=3){WRAPPED}",
    "MultiSteps, adam": f"optax.MultiSteps(opt=optax.adam(1e-2), every_k_schedule=3){WRAPPED}",
    "cosine_decay_schedule, exponent": "optax.cosine_decay_schedule(init_value=1.0, "
    "decay_steps=100, exponent=0.5)",
    "cosine_decay_schedule, one step": "optax.cosine_decay_schedule(init_value=1.0, decay_steps=1)",
    "linear_schedule, no steps": "optax.linear_schedule(init_value=1.0, end_value=0.1, "
    "transition_steps=0)",
    "warmup_cosine_decay_schedule, no warm-up": "optax.warmup_cosine_decay_schedule("
    "init_value=0.0, peak_value=1.0, warmup_steps=0, decay_steps=100)",
    "linear_onecycle_schedule, fraction 0": "optax.linear_onecycle_schedule(transition_steps=100, "
    "peak_value=1.0, pct_start=0.0)",
    "exponential_decay, growing": "optax.exponential_decay(init_value=1.0, transition_steps=10, "
    "decay_rate=1.1)",
}
# Public names that make or transform something else, with the reason they have no row.
OTHER: dict[str, str] = {
    "init_empty_state": "an init function, part of other rules",
    "lookahead": "wraps parameters in pairs of fast and slow ones, so it has no tree of its own",
    "stateless": "makes a rule from a function",
    "stateless_with_tree_map": "makes a rule from a function",
    "with_extra_args_support": "changes a type, not a rule",
    "WrappedSchedule": "the class behind inject_stateful_hyperparams",
    "multi_transform": "another name of partition",
    "microbatch": "transforms a function, not gradients",
}


def constructions() -> dict[str, str]:
    """A name for every row, and the expression that makes it."""
    import optax

    rows: dict[str, str] = {}
    for prefix, home in (("", optax), ("contrib.", optax.contrib)):
        for name in sorted(n for n in dir(home) if not n.startswith("_")):
            full = prefix + name
            made = getattr(home, name)
            if (
                full in OTHER
                or inspect.isclass(made)
                or not callable(made)
                or not _makes(made, full)
            ):
                continue
            call = CALLS.get(full)
            if call is None:
                parameters = inspect.signature(made).parameters
                call = RATE if "learning_rate" in parameters else ""
            rows[full] = f"optax.{full}({call})"
    return rows | VARIANTS


def _makes(made: Any, name: str) -> bool:
    if name in CALLS:
        return True
    try:
        result = str(inspect.signature(made).return_annotation)
    except (TypeError, ValueError):
        return False
    unannotated = ("nadam", "nadamw", "scale_by_factored_rms", "contrib.dog", "contrib.dowg")
    return name in unannotated or bool(re.search(r"GradientTransformation|Schedule\b", result))


def check_one(row: str, expression: str, quick: bool = False) -> dict[str, Any]:
    """The outcome of one row, as JSON can hold it."""
    import functools

    import optax

    from trainkit import laws
    from trainkit.laws import shrink
    from trainkit.laws.oracles.catalogue import bind, function, plain_name
    from trainkit.laws.subject import is_transformation, ordinary

    shrink.BUDGET = 2.0
    name = row.split(",")[0]
    like = plain_name(name)
    reference: str | None = like
    space = {"optax": optax}
    hyperparams = None
    made: Any = None
    ending = re.escape(WRAPPED) if like == "MultiSteps" else ""
    call = re.fullmatch(rf"optax\.{re.escape(name)}\((.*)\){ending}", expression, re.S)
    with ordinary():
        if call and (like in laws.RULES or like in laws.SCHEDULES):
            hyperparams = eval(f"dict({call[1]})", space)
            _, missing = bind(like, hyperparams)
            assert not missing, (row, missing)
            made = functools.partial(function(like), **hyperparams)
            if like == "MultiSteps":
                made = eval(f"lambda: {expression}", space)
        else:
            reference, made = None, eval(f"lambda: {expression}", space)
        built = made()
    if is_transformation(built):
        report = laws.check(
            made,
            like=reference,
            hyperparams=hyperparams,
            level="strict",
            examples=5,
            laws=[x for x in QUICK if reference or x != "oracle"] if quick else None,
        )
    else:
        report = laws.check_schedule(built, like=reference, hyperparams=hyperparams, level="strict")
    return {
        "row": row,
        "expression": expression,
        "kind": "rule" if is_transformation(built) else "schedule",
        "like": reference,
        "quick": quick and is_transformation(built),
        "optax": optax.__version__,
        "results": [[r.law, r.level, r.outcome, r.note] for r in report.results],
        "failures": [
            {"law": f.law, "level": f.level, "message": f.message, "reproducer": f.reproducer}
            for f in report.failures
        ],
        "notes": list(report.notes),
    }


# Where most violations are, for a first pass; a run without --quick does the rest.
QUICK = ("structure", "no promotion", "state fixpoint", "donation", "oracle", "bfloat16",
         "zero gradients", "mixed dtypes", "extremes", "counts")  # fmt: skip
CHUNK = 40  # rows that one process checks before it makes way for a fresh one


def _path(row: str) -> Path:
    return OUTCOMES / (re.sub(r"[^\w.]+", "_", row) + ".json")


class Late(BaseException):
    """Not an Exception: those of a rule are failures, and this is none."""


def work(rows: dict[str, str], quick: bool = False) -> None:
    """Checks rows in this process and keeps each outcome."""
    import jax

    def late(*_: Any) -> None:
        raise Late(f"it takes more than {TIMEOUT} s")

    signal.signal(signal.SIGALRM, late)
    for row, expression in rows.items():
        if quick and _path(row).exists():
            continue  # another process has been here
        start = time.process_time()
        # Kept first: where the process dies, this is what is left.
        outcome: dict[str, Any] = {"row": row, "expression": expression, "error": "it died"}
        _path(row).write_text(json.dumps(outcome))
        signal.alarm(TIMEOUT)
        try:
            outcome = check_one(row, expression, quick)
        except (Exception, Late) as error:
            outcome["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        signal.alarm(0)
        _path(row).write_text(json.dumps(outcome))
        spent = time.process_time() - start
        print(f"{spent:6.1f} s  {row}  {outcome.get('error', '')}", flush=True)
        # Rows share the programs of the laws themselves, which is half of their cost.
        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
            jax.clear_caches()


def _complete(row: str, quick: bool) -> bool:
    """Whether nothing is left to do: a quick outcome is enough for a quick run only."""
    if not _path(row).exists():
        return False
    outcome = json.loads(_path(row).read_text())
    return "results" in outcome and (quick or not outcome.get("quick", False))


def run(wanted: list[str], again: bool, deadline: float, quick: bool, reverse: bool) -> None:
    """Checks what has no outcome yet, some rows a process, each process with a time limit."""
    OUTCOMES.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    rows = {r: e for r, e in constructions().items() if not wanted or r in wanted}
    if reverse:
        rows = dict(reversed(rows.items()))
    if again:
        for row in rows:
            _path(row).unlink(missing_ok=True)
    done: set[str] = set()
    while pending := [r for r in rows if r not in done and not _complete(r, quick)]:
        left = deadline - (time.monotonic() - began)
        if left <= 0:
            print("out of time; run it again to go on", flush=True)
            return
        code = (
            "import sys, json; from trainkit.laws import optax_report as r; "
            f"r.work(json.loads(sys.argv[1]), {quick})"
        )
        flag = "--xla_force_host_platform_device_count=2"  # replicas can part on two as well
        env = os.environ | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}",
            "JAX_PLATFORMS": "cpu",
            # A second run, after a law was mended, finds most programs compiled.
            "JAX_COMPILATION_CACHE_DIR": str((OUTCOMES / "programs").absolute()),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        some = {row: rows[row] for row in pending[:CHUNK]}
        done |= set(some)
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [sys.executable, "-c", code, json.dumps(some)],
                env=env, check=False, timeout=min(TIMEOUT * CHUNK, max(left, TIMEOUT)),
            )  # fmt: skip


def classify(classes: dict[str, Any], row: str, failure: dict[str, str]) -> tuple[str, str]:
    """(class, reason): the first entry whose rule, law and pattern fit."""
    name = row.split(",")[0]
    for entry in classes.get("violation", []):
        if (
            re.fullmatch(entry.get("rule", ".*"), name)
            and re.fullmatch(entry.get("law", ".*"), failure["law"])
            and re.search(entry.get("message", ""), failure["message"])
        ):
            return entry["class"], entry["reason"]
    return "unclassified", "nobody has looked at it yet"


def render() -> str:
    classes = tomllib.loads(CLASSES.read_text()) if CLASSES.exists() else {}
    rows = constructions()
    outcomes = {}
    for path in sorted(OUTCOMES.glob("*.json")):
        outcome = json.loads(path.read_text())
        outcomes[outcome["row"]] = outcome
    return "\n".join(_page(classes, rows, outcomes)) + "\n"


def _page(classes: Any, rows: dict[str, str], outcomes: dict[str, Any]) -> Iterator[str]:
    import optax

    done = {row: o for row, o in outcomes.items() if row in rows and "results" in o}
    found = [(row, f, *classify(classes, row, f)) for row, o in done.items() for f in o["failures"]]
    kinds = ("bug", "documented limitation", "law not claimed", "unclassified")
    tally = {kind: sum(c == kind for _, _, c, _ in found) for kind in kinds}
    checked = sum(r[2] in ("holds", "broken") for o in done.values() for r in o["results"])
    yield "# The laws of Optax\n"
    yield (
        "Written by `python -m trainkit.laws.optax_report`; edit "
        "`docs/laws-of-optax.toml` and run it again, not this page.\n"
    )
    yield (
        f"Optax {optax.__version__}: {len(done)} of {len(rows)} constructions of its public rules, "
        f"pieces and schedules (contrib included) were checked at the strict level"
        f"{_so_far(done, rows)}: {checked} "
        f"checks, {len(found)} violations. "
        + ", ".join(f"{n} {k}" for k, n in tally.items())
        + ".\n"
    )
    yield (
        "A **bug** is a result that the documentation does not prepare for. A **documented "
        "limitation** is one that the documentation, or the precision that was asked for, does. A "
        "**law not claimed** is universal in this kit but nothing that this rule promises. "
        "Standard is ordinary use; strict adds float16, mixed dtypes, x64, 1e±30 and saturated "
        "counts.\n"
    )
    yield "## Every construction\n"
    yield "| construction | laws that hold | broken, standard | broken, strict |"
    yield "|---|---|---|---|"
    for row, expression in rows.items():
        o = outcomes.get(row)
        if o is None or "results" not in o:
            why = o["error"] if o else "not run yet"
            yield f"| `{_cell(expression)}` | not checked: {_cell(why)} | | |"
            continue
        held: Any = sum(r[2] == "holds" for r in o["results"])
        if o.get("quick"):
            held = f"{held} (of {len(QUICK)} tried)"
        by = {
            level: ", ".join(sorted({f["law"] for f in o["failures"] if f["level"] == level}))
            for level in ("standard", "strict")
        }
        yield f"| `{_cell(expression)}` | {held} | {by['standard']} | {by['strict']} |"
    yield "\n## Names without a row\n"
    for name, why in OTHER.items():
        yield f"- `{name}`: {why}."
    yield "\nSchedules and rules are found by their return types; losses, projections, tree "
    yield "utilities and assignment algorithms are neither.\n"
    for kind in kinds:
        these = [x for x in found if x[2] == kind]
        yield f"## {kind.capitalize()}: {len(these)}\n"
        groups: dict[tuple[str, str], list[Any]] = {}
        for row, failure, _, reason in these:
            # A row that was made by an expression has that for its source.
            made = f"\\1 = {rows[row]}".replace("\\", "\\\\").replace("\\\\1", "\\1", 1)
            failure["reproducer"] = re.sub(
                r"# The source of the rule .*\n(tx|schedule) = \.\.\.", made, failure["reproducer"]
            )
            groups.setdefault((failure["law"], reason), []).append((row, failure))
        for (law, reason), members in groups.items():
            yield f"### {law}: {', '.join(sorted({row for row, _ in members}))}\n"
            yield f"{reason}\n"
            for row, failure in members:
                yield f"- {row} ({failure['level']}): {_cell(failure['message'])}"
            row, failure = min(members, key=lambda m: len(m[1]["reproducer"]) or 10**9)
            if failure["reproducer"]:
                yield f"\n<details><summary>Reproducer ({row})</summary>\n"
                yield f"```text\n{failure['reproducer'].strip()}\n```\n\n</details>\n"
            else:
                yield "\nReproducer: the check itself, "
                yield f'`trainkit.laws.check({rows[row]}, laws=[{law!r}], level="strict")`.\n'
    yield "## Exceptions and inapplicable laws\n"
    reasons: dict[tuple[str, str], list[str]] = {}
    for row, o in done.items():
        for law, _, outcome, note in o["results"]:
            if outcome in ("excepted", "not applicable"):
                reasons.setdefault((law, note), []).append(row)
    for (law, note), which in sorted(reasons.items()):
        shown = ", ".join(which[:6]) + (f" and {len(which) - 6} more" if len(which) > 6 else "")
        yield f"- {law}: {_cell(note)} ({shown})"


def _so_far(done: dict[str, Any], rows: dict[str, str]) -> str:
    quick = sum(bool(o.get("quick")) for o in done.values())
    if quick == 0:
        return ""
    return f" ({quick} of them so far only against the {len(QUICK)} laws broken most often)"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainkit.laws.optax_report")
    parser.add_argument("rows", nargs="*", help="only these rows")
    parser.add_argument("--again", action="store_true", help="forget earlier outcomes")
    parser.add_argument("--render", action="store_true", help="only write the page")
    parser.add_argument("--minutes", type=float, default=600, help="stop starting rows after this")
    parser.add_argument("--quick", action="store_true", help="only the laws broken most often")
    parser.add_argument("--reverse", action="store_true", help="from the end")
    options = parser.parse_args(argv)
    if not options.render:
        seconds = options.minutes * 60
        run(options.rows, options.again, seconds, options.quick, options.reverse)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render())
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
