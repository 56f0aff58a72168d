"""Schedules: warm-up and cosine, WSD, restarts, one cycle, joined."""

import jax.numpy as jnp

from tests.laws.strangers.cases import Cases, f32

CASES = Cases()


def schedule_cosine(bug=None):
    def factory(peak=0.3, warmup=10, total=100, end=0.01):
        def fn(step):
            step = jnp.asarray(step, f32)
            up = peak * (step + (1 if bug == "warmup_ahead" else 0)) / warmup
            length = total if bug == "total" else total - warmup
            x = jnp.clip((step - warmup) / length, 0, 1)
            if bug == "no_clip":
                x = (step - warmup) / length
            down = end + 0.5 * (peak - end) * (1 + jnp.cos(jnp.pi * x))
            if bug == "end":
                down = end + 0.5 * peak * (1 + jnp.cos(jnp.pi * x))
            return jnp.where(step < warmup, up, down)

        return fn

    return factory


CASES.add(
    "warmup_cosine",
    schedule_cosine,
    {
        "warmup_ahead": "warm-up one step ahead",
        "total": "the decay takes the warm-up's steps too",
        "no_clip": "rises again after the end",
        "end": "end value added twice",
    },
    like="warmup_cosine_decay_schedule",
    schedule=True,
    h={
        "init_value": 0.0,
        "peak_value": 0.3,
        "warmup_steps": 10,
        "decay_steps": 100,
        "end_value": 0.01,
    },
)


def wsd(bug=None):
    def factory(peak=1.0, warmup=10, stable=50, decay=20):
        def fn(step):
            step = jnp.asarray(step, f32)
            a = jnp.minimum(1.0, step / warmup)
            b = 1 - jnp.clip((step - warmup - stable) / decay, 0, 1)
            if bug == "jump":
                b = jnp.where(
                    step < warmup + stable,
                    1.0,
                    0.5 * (1 - jnp.clip((step - warmup - stable) / decay, 0, 1)),
                )
            if bug == "negative":
                b = jnp.minimum(1.0, 1 - (step - warmup - stable) / decay)
            if bug == "start":
                a = jnp.minimum(1.0, (step + 1) / warmup)
            return peak * a * b

        return fn

    return factory


CASES.add(
    "wsd",
    wsd,
    {
        "jump": "halves at the beginning of the decay",
        "negative": "below 0 after the end",
        "start": "does not begin at 0",
    },
    claims={"start": 0.0, "end": 0.0, "non-negative": True, "continuous": 0.11, "peak": (10, 1.0)},
    schedule=True,
)


def restarts(bug=None):
    def factory(peak=0.1, period=20):
        def fn(step):
            step = jnp.asarray(step)
            k = step // period
            inside = (step % period).astype(f32) / period
            if bug == "second":
                inside = jnp.where(k > 0, (step % (period + 1)).astype(f32) / period, inside)
            top = peak * 0.5 ** k.astype(f32)
            if bug == "decay_late":
                top = peak * 0.5 ** jnp.maximum(k - 1, 0).astype(f32)
            return jnp.where(
                step >= 3 * period,
                0.0,
                0.5 * top * (1 + jnp.cos(jnp.pi * jnp.minimum(inside, 1.0))),
            )

        return fn

    return factory


CASES.add(
    "restarts",
    restarts,
    {
        "second": "later periods are one step longer",
        "decay_late": "the peak falls only from the third period on",
    },
    like="sgdr_schedule",
    schedule=True,
    h={
        "cosine_kwargs": [
            {
                "init_value": 0.1 * 0.5**k,
                "peak_value": 0.1 * 0.5**k,
                "warmup_steps": 0,
                "decay_steps": 20,
                "end_value": 0.0,
            }
            for k in range(3)
        ]
    },
)


def onecycle(bug=None):
    def factory(steps=100, peak=1.0, pct=0.3, div=25.0, final=1e4):
        def fn(step):
            step = jnp.asarray(step, f32)
            cut = int(pct * steps)
            cos = lambda a, b, x: a + (b - a) * 0.5 * (1 - jnp.cos(jnp.pi * jnp.clip(x, 0, 1)))
            low = peak / div
            end = peak / (final if bug == "final" else div * final)
            up = cos(low, peak, step / cut)
            down = cos(peak, end, (step - cut) / (steps - cut))
            if bug == "linear":
                up = low + (peak - low) * jnp.clip(step / cut, 0, 1)
            return jnp.where(step < cut, up, down)

        return fn

    return factory


CASES.add(
    "onecycle",
    onecycle,
    {
        "final": "the last value is divided once",
        "linear": "rises on a line",
    },
    like="cosine_onecycle_schedule",
    schedule=True,
    h={"transition_steps": 100, "peak_value": 1.0},
)


def joined(bug=None):
    def factory():
        parts = [
            lambda c: jnp.minimum(1.0, 0.1 * c),
            lambda c: 0.9 ** jnp.asarray(c, f32),
            lambda c: jnp.asarray(0.05, f32) + 0.0 * c,
        ]
        edges = [10, 30]

        def fn(count):
            out = parts[0](count)
            for edge, part, before in zip(edges, parts[1:], [0, 10], strict=True):
                shift = before if bug == "shift" else edge
                here = count > edge if bug == "edge" else count >= edge
                out = jnp.where(here, part(count - shift), out)
            return out

        return fn

    return factory


CASES.add(
    "joined",
    joined,
    {
        "shift": "each part counts from the beginning of the one before",
        "edge": "each part begins one step late",
    },
    like="join_schedules",
    schedule=True,
    h={
        "schedules": [
            lambda c: jnp.minimum(1.0, 0.1 * c),
            lambda c: 0.9 ** jnp.asarray(c, f32),
            lambda c: jnp.asarray(0.05, f32) + 0.0 * c,
        ],
        "boundaries": [10, 30],
    },
)
