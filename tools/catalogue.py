"""Writes docs/catalogue.md and its pictures from the docstrings: python -m tools.catalogue"""

from __future__ import annotations

import builtins
import importlib
import inspect
import pathlib
import re
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trainkit.transforms as tt
from trainkit import packed, regularise, schedules, sweep

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
STEPS = 80

# Section -> name -> the rule for the picture: 80 steps on ½ (x² + 10 y²) from (3, 1).
RULES: dict[str, dict[str, Callable[[], Any]]] = {
    "Descent and momentum": {
        "sgd": lambda: tt.sgd(0.1),
        "momentum": lambda: tt.momentum(0.05, 0.8),
        "nesterov": lambda: tt.nesterov(0.05, 0.8),
        "dynamic_gd": lambda: tt.dynamic_gd(0.15),
    },
    "Adaptive rules": {
        "adagrad": lambda: tt.adagrad(0.5),
        "rmsprop": lambda: tt.rmsprop(0.05),
        "adam": lambda: tt.adam(0.15),
        "adamw": lambda: tt.adamw(0.15, weight_decay=0.1),
        "lion": lambda: tt.lion(0.05),
        "radam": lambda: tt.radam(0.15),
        "amsgrad": lambda: tt.amsgrad(0.15),
        "yogi": lambda: tt.yogi(0.15),
        "lars": lambda: tt.lars(0.05, trust_coefficient=0.3),
        "mars": lambda: tt.mars(0.15),
        "adam_mini": lambda: tt.adam_mini(0.15),
    },
    "Rules for matrices": {
        "muon": lambda: tt.muon(0.05),
        "adafactor": lambda: tt.adafactor(0.1),
        "soap": lambda: tt.soap(0.15),
        "scion": lambda: tt.scion(0.05, unconstrained=True),
        "normuon": lambda: tt.normuon(0.3),
        "shampoo": lambda: tt.shampoo(0.15),
        "dion": lambda: tt.dion(0.15),
        "kron": lambda: tt.kron(0.15),
    },
    "Averaging instead of a schedule": {
        "schedule_free": lambda: tt.schedule_free(0.1),
        "schedule_free_adamw": lambda: tt.schedule_free_adamw(0.3),
    },
    "The second order": {
        "sophia": lambda: tt.sophia(0.05, gamma=0.5),
        "lbfgs": lambda: tt.lbfgs(),
        "newton_cg": lambda: tt.newton_cg(0.3),
        "gauss_newton": lambda: tt.gauss_newton(0.3),
    },
    "Noise and sampling": {
        "gradient_noise": lambda: tt.chain(tt.gradient_noise(0.3, key=1), tt.sgd(0.1)),
        "sgld": lambda: tt.sgld(0.1, key=1),
    },
    "Penalties": {
        "l1": lambda: tt.chain(tt.l1(0.5), tt.sgd(0.1)),
        "l2": lambda: tt.chain(tt.l2(0.5), tt.sgd(0.1)),
        "soft_threshold": lambda: tt.chain(tt.sgd(0.1), tt.soft_threshold(0.1, 0.5)),
        "decoupled_weight_decay": lambda: tt.chain(
            tt.adam(0.15), tt.decoupled_weight_decay(0.15, 0.1)
        ),
    },
    "Clipping and centralisation": {
        "clip_by_value": lambda: tt.chain(tt.clip_by_value(1.0), tt.sgd(0.1)),
        "clip_by_norm": lambda: tt.chain(tt.clip_by_norm(1.0), tt.sgd(0.1)),
        "clip_by_global_norm": lambda: tt.chain(tt.clip_by_global_norm(1.0), tt.sgd(0.1)),
        "clip_adaptive": lambda: tt.chain(tt.clip_adaptive(0.5), tt.sgd(0.1)),
        "centralize": lambda: tt.chain(tt.centralize(), tt.sgd(0.1)),
    },
}

SCHEDULES: dict[str, Callable[[], Any]] = {
    "constant": lambda: schedules.constant(1.0),
    "exponential": lambda: schedules.exponential(1.0, 0.5, 20),
    "step": lambda: schedules.step(1.0, 0.5, every=25),
    "multi_step": lambda: schedules.multi_step(1.0, [40, 70], 0.3),
    "piecewise_constant": lambda: schedules.piecewise_constant([20, 60], [0.4, 1.0, 0.2]),
    "polynomial": lambda: schedules.polynomial(1.0, 0.1, 80, power=2.0),
    "linear": lambda: schedules.linear(1.0, 0.0, 80),
    "inverse_time": lambda: schedules.inverse_time(1.0, 20),
    "inverse_sqrt": lambda: schedules.inverse_sqrt(1.0, 10),
    "dynamic": lambda: schedules.dynamic(1.0),
    "cosine": lambda: schedules.cosine(1.0, 80),
    "cosine_restarts": lambda: schedules.cosine_restarts(1.0, 15, growth=2, factor=0.8),
    "warmup": lambda: schedules.warmup(schedules.inverse_sqrt(1.0, 20), 20),
    "wsd": lambda: schedules.wsd(1.0, warmup=10, decay=20, decay_start=75, shape="sqrt"),
    "one_cycle": lambda: schedules.one_cycle(1.0, 100),
    "join": lambda: schedules.join(
        [schedules.linear(0, 1, 20), 1.0, schedules.cosine(1, 30)], [20, 60]
    ),
    "scale": lambda: schedules.scale(schedules.cosine(1.0, 80), 0.5),
}

# Entries without a picture: section -> module and names.
OTHERS: dict[str, tuple[Any, list[str]]] = {
    "Schedules driven by a metric": (schedules, ["reduce_on_plateau", "early_stopping"]),
    "Names and live hyper-parameters": (tt, ["named", "get", "set", "inject"]),
    "Parameter groups": (
        tt,
        [
            "groups",
            "assign",
            "freeze",
            "stop_frozen",
            "scale_by_path",
            "layerwise_decay",
            "decay_mask",
            "decay_table",
            "unfreeze_at",
            "gradual_unfreezing",
        ],
    ),
    "Around a rule": (
        tt,
        [
            "accumulate",
            "skip_nonfinite",
            "check_guard",
            "average_params",
            "averaged",
            "swap",
            "cautious",
            "lookahead",
            "stochastic_rounding",
            "stochastic_round",
            "quantise_moments",
            "quantise",
            "edit_state",
            "reset_state",
            "schedule_free_params",
        ],
    ),
    "Products with curvature": (tt, ["hvp", "gnvp", "linearised", "conjugate_gradient"]),
    "Norms": (tt, ["safe_norm"]),
    "Packed state and sweeps": (packed, ["Packed", "unpack_all", "pack_all"]),
    "Many runs in one program": (sweep, ["sweep", "sweep_training"]),
    "Regularisation and transfer": (
        regularise,
        [
            "label_smoothing",
            "mixup",
            "distillation_loss",
            "sparsity_schedule",
            "magnitude_masks",
            "apply_masks",
            "prune",
            "ensemble_init",
            "ensemble_loss",
            "hard_examples",
            "importance_sample",
            "gradient_norms",
        ],
    ),
}

# Schedules driven by a metric: the field of their state that is drawn over the metric.
DRIVEN: dict[str, tuple[Any, str]] = {
    "reduce_on_plateau": (schedules.reduce_on_plateau(0.5, patience=5, min_delta=0.01), "scale"),
    "early_stopping": (schedules.early_stopping(patience=10, min_delta=0.01), "stop"),
}

# Optax's rules with this package's checks and dtypes: name -> description, rule for the picture.
AS_THEY_ARE: dict[str, tuple[str, Callable[[], Any] | None]] = {
    "adabelief": (
        "Adam whose second moment is that of g − μ: ν ← β₂ ν + (1 − β₂) (g − μ)² + ε̄. "
        "Zhuang et al., 2020.",
        lambda: tt.adabelief(0.15),
    ),
    "adadelta": (
        "u = g √(E[u²] + ε)/√(E[g²] + ε), E[·] with decay ρ, u² averaged after the step; "
        "θ ← θ − η u. Zeiler, 2012.",
        lambda: tt.adadelta(2.0, eps=1e-3),
    ),
    "adamax": (
        "Adam with ν ← max(β₂ ν, |g| + ε) for √ν̂ + ε, uncorrected (the paper has no ε: it is there "
        "against 0/0, with Optax's and PyTorch's place). Kingma and Ba, 2015.",
        lambda: tt.adamax(0.15),
    ),
    "lamb": (
        "u = μ̂/(√ν̂ + ε) + λ θ; θ ← θ − η (‖θ‖/‖u‖) u for each leaf (the ratio is 1 where one of "
        "them is 0). You et al., 2020.",
        lambda: tt.lamb(0.05),
    ),
    "nadam": (
        "Adam with β₁ μ/(1 − β₁ᵗ⁺¹) + (1 − β₁) g/(1 − β₁ᵗ) for μ̂: Nesterov's look ahead, with the "
        "same β₁ at every step, where the paper allows a sequence. "
        "Dozat, 2016.",
        lambda: tt.nadam(0.15),
    ),
    "nadamw": (
        "`nadam` with decoupled decay, θ ← θ − η (… + λ θ).",
        lambda: tt.nadamw(0.15, weight_decay=0.1),
    ),
    "novograd": (
        "ν ← β₂ ν + (1 − β₂) ‖g‖² for each leaf, ν₁ = ‖g‖²; μ ← β₁ μ + g/(√ν + ε) + λ θ; "
        "θ ← θ − η μ. Ginsburg et al., 2019.",
        lambda: tt.novograd(0.02),
    ),
    "add_decayed_weights": (
        "g ← g + λ θ; before a rule this is `l2`, after the scaling by moments decoupled decay.",
        None,
    ),
    "scale": ("g ← c g.", None),
    "scale_by_learning_rate": ("g ← −η g, η a number or a schedule.", None),
}

EXAMPLE = """\
```python
import jax.numpy as jnp
from trainkit.transforms import {name}

tx, params = {name}(0.1), jnp.ones(2)
updates, state = tx.update(params, tx.init(params), params)
```"""

HEAD = """\
# The catalogue

Every rule and schedule: its formula, its name in Optax, common errors in texts, a picture, and an
example that runs. The page is generated from the docstrings by `python -m tools.catalogue`.

g is the gradient, θ the parameters, η the learning rate, and t the number of previous updates.
Rules return updates that are *added* to the parameters. All of them

- check their hyper-parameters when they are made, and that trees match when they are used,
- compute in float32 or wider, and return updates in the dtypes of the gradients,
- keep the structure, shapes and dtypes of their state, in separate buffers.

The pictures of rules show {steps} steps on ½ (x² + 10 y²) from the dot towards the star. Those of
schedules show the first 100 steps.
"""


def text_and_example(thing: Any) -> tuple[str, str, str]:
    """A docstring in three parts: before its example, the example, and after it."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    code = [i for i, line in enumerate(lines) if line.startswith(">>>")]
    if not code:
        return "\n".join(lines), "", ""
    end = code[0]
    while end < len(lines) and lines[end].strip():
        end += 1
    example = []
    for line in lines[code[0] : end]:
        if line.startswith((">>> ", "... ")):
            example.append(line[4:])
        elif line.strip() not in (">>>", "..."):
            example.append(f"# → {line}")
    return "\n".join(lines[: code[0]]).strip(), "\n".join(example), "\n".join(lines[end:]).strip()


def public(module: Any, word: str) -> bool:
    """Whether the word is a public name of the module."""
    return not hasattr(builtins, word) and hasattr(module, word) and not word.startswith("_")


def sections(text: str) -> str:
    """The Args, Returns and Raises of a docstring as lists."""
    out = []
    for line in text.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Attributes):", line)
        if heading:
            out += [f"*{heading[1]}*", ""]
        elif re.match(r"  \S", line):
            out.append("- " + line.strip())
        elif re.match(r"    \S", line):
            out.append("  " + line.strip())
        else:
            out.append(line)
    return "\n".join(out)


def entry(name: str, thing: Any, module: str, picture: bool) -> str:
    """One entry of the page."""
    text, example, after = text_and_example(thing)
    parts = [f"### `{name}`"]
    if picture:
        parts.append(f"![{name}](img/{name}.png)")
    parts.append(sections(text))
    if after:
        parts.append(f"*{sections(after)}*" if "\n*" not in sections(after) else sections(after))
    if example:
        # On the page, an example needs imports; in its module, a docstring does not.
        home = importlib.import_module(module)
        used = set(re.findall(r"(?<![\w.\"'])([A-Za-z_]\w*)\(|\b(Packed)\b", example))
        names = sorted({w for pair in used for w in pair if w and public(home, w)})
        lines = [f"from {module} import {', '.join(names)}"] if names else []
        parts.append("```python\n" + "\n".join([*lines, example]) + "\n```")
    return "\n\n".join(parts)


def page() -> str:
    """The whole page."""
    out = []
    for section, rules in RULES.items():
        out.append(f"## {section}")
        out += [entry(n, getattr(tt, n), "trainkit.transforms", True) for n in rules]
    out.append("## Optax's, with this package's checks and dtypes")
    out.append(
        "Under Optax's names and arguments. By Optax's names too: `clip` is `clip_by_value`, "
        "`adaptive_grad_clip` is "
        "`clip_adaptive`, `add_noise` is `gradient_noise`. From Optax as they are: "
        "`chain`, `identity`, `scale_by_schedule`, `set_to_zero`, `apply_updates`."
    )
    for name, (formula, draws) in AS_THEY_ARE.items():
        picture = [] if draws is None else [f"![{name}](img/{name}.png)"]
        words = f"{formula} Optax: `optax.{name}`."
        lines = textwrap.wrap(words, 100, break_on_hyphens=False)
        out += [f"### `{name}`", *picture, "\n".join(lines), EXAMPLE.format(name=name)]
    out.append("## Schedules")
    out.append(
        "A schedule is a function of an integer step; `trainkit.schedules.plot` draws any of them."
    )
    out += [entry(n, getattr(schedules, n), "trainkit.schedules", True) for n in SCHEDULES]
    out.append(entry("plot", schedules.plot, "trainkit.schedules", False))
    for section, (module, names) in OTHERS.items():
        out.append(f"## {section}")
        out += [entry(n, getattr(module, n), module.__name__, n in DRIVEN) for n in names]
    return "\n\n".join([HEAD.format(steps=STEPS), contents(out), *out]) + "\n"


def contents(parts: list[str]) -> str:
    """The sections as links, one line each."""
    found = [part.removeprefix("## ") for part in parts if part.startswith("## ")]
    slugs = [re.sub(r"[^\w -]", "", section).lower().replace(" ", "-") for section in found]
    return "\n".join(f"- [{a}](#{b})" for a, b in zip(found, slugs, strict=True))


def valley(p: jax.Array) -> jax.Array:
    x, y = p.ravel()
    return 0.5 * (x**2 + 10 * y**2)


def path(tx: Any, flat: bool) -> np.ndarray:
    """The points that a rule visits, [steps + 1, 2]."""
    p = jnp.array([3.0, 1.0]) if flat else jnp.array([[3.0], [1.0]])
    state, points = tx.init(p), [np.asarray(p).ravel()]
    residuals = lambda p: p.ravel() * jnp.array([1.0, 10.0**0.5])

    @jax.jit
    def step(p: jax.Array, state: Any) -> Any:
        value, grad = jax.value_and_grad(valley)(p)
        extra = {"value": value, "grad": grad, "value_fn": valley, "residual_fn": residuals}
        if not isinstance(tx, tt.Rule):
            extra = {}
        updates, state = tx.update(grad, state, p, **extra)
        return p + updates, state

    for _ in range(STEPS):
        p, state = step(p, state)
        points.append(np.asarray(p).ravel())
    return np.array(points)


def figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    made = Figure(figsize=(3.2, 1.6), layout="constrained")
    ax = made.add_subplot()
    ax.tick_params(labelsize=6)
    return made, ax


def draw(folder: pathlib.Path) -> None:
    """Draws all pictures."""
    x, y = np.meshgrid(np.linspace(-3.5, 4, 120), np.linspace(-1.7, 1.7, 80))
    height = 0.5 * (x**2 + 10 * y**2)
    theirs = {name: make for name, (_, make) in AS_THEY_ARE.items() if make is not None}
    for rules in (*RULES.values(), theirs):
        for name, make in rules.items():
            # Rules for matrices get a matrix with one column.
            points = path(
                make(),
                flat=name
                not in (
                    "muon",
                    "soap",
                    "scion",
                    "normuon",
                    "shampoo",
                    "dion",
                    "kron",
                    "kron",
                    "centralize",
                ),
            )
            made, ax = figure()
            ax.contour(x, y, np.sqrt(height), 9, colors="0.85", linewidths=0.6)
            ax.plot(points[:, 0], points[:, 1], ".-", ms=2.5, lw=0.8, color="tab:blue")
            ax.plot(3, 1, "ko", ms=3.5)
            ax.plot(0, 0, "k*", ms=6)
            ax.set(xlim=(-3.5, 4), ylim=(-1.7, 1.7))
            made.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
    for name, make in SCHEDULES.items():
        made, ax = figure()
        schedules.plot(make(), 100, ax=ax)
        ax.set(xlabel="", ylabel="", ylim=(-0.05, 1.1))
        made.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
    for name, (driven, field) in DRIVEN.items():
        made, ax = figure()
        steps = np.arange(60)
        metric = 0.2 + 0.8 * np.exp(-steps / 8) + 0.02 * np.sin(steps * 2.0)
        state, seen = driven.init(), []
        for value in metric:
            state = driven.update(state, value)
            seen.append(float(getattr(state, field)))
        ax.plot(steps, metric, ".", ms=2.5, color="0.6", label="metric")
        ax.step(steps, seen, where="post", label=field)
        ax.set(ylim=(-0.05, 1.1))
        ax.legend(fontsize=6, frameon=False, loc="center right")
        made.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    (DOCS / "img").mkdir(exist_ok=True)
    (DOCS / "catalogue.md").write_text(page())
    draw(DOCS / "img")
