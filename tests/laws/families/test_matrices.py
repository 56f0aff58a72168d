"""Laws of matrix rules: rules that obey them, and the laws that see each fault."""

import jax
import optax
import pytest

import trainkit.transforms as tt
from tests.laws.matrix_rules import muon, soap, soap_claims
from tests.laws.strangers import preconditioners
from tests.transforms.cases import first_factor
from trainkit import laws

STRUCTURAL = [
    law.name
    for law in laws.TRANSFORMATION_LAWS
    if law.group == "matrices" and law.name not in ("scope", "fused projections")
]
RATE = {"learning_rate": 1e-2}
JORDAN = {
    "shape factor": "sqrt(max(1, out/in))",
    "orthogonal": True,
    "transposes": True,
    "singular values": (0.0099, 0.0101),
}


def check(make, claims=None, names=STRUCTURAL, **more):
    return laws.check(make, claims=claims, laws=names, examples=1, **more)


def asked(claims, like_laws=()):
    """The laws of these claims; naming a law would claim it."""
    return [
        law.name
        for law in laws.TRANSFORMATION_LAWS
        if law.group == "matrices" and (law.claim in claims or law.name in like_laws)
    ]


def fails_by_itself(failure):
    with jax.numpy_dtype_promotion("standard"), pytest.raises(AssertionError):
        exec(failure.reproducer, {"__name__": "__main__"})


OF_MUON = ("orthogonal maps", "transposition", "shape factor", "singular values")
RIGHT = {
    "optax.contrib.muon": (lambda: optax.contrib.muon(1e-2), "optax.muon", RATE, OF_MUON),
    "muon": (lambda: tt.muon(1e-2), "optax.muon", RATE, OF_MUON),
    "muon of consistent rms": (lambda: tt.muon(1e-2, consistent_rms=0.2), "optax.muon",
                               RATE | {"consistent_rms": 0.2}, OF_MUON[:3]),
    "scion": (lambda: tt.scion(1e-2), "scion", RATE, OF_MUON),
    "normuon": (lambda: tt.normuon(1e-2), "normuon", RATE, ("shape factor",)),
    "dion": (lambda: tt.dion(1e-2), "dion", RATE | {"first": first_factor}, ("shape factor",)),
    "shampoo": (lambda: tt.shampoo(1e-2, 0.0, eps=1e-4, sums=True, graft=None), "shampoo",
                RATE | {"every": 10}, ("orthogonal maps", "transposition")),
    "optax.adafactor": (lambda: optax.adafactor(1e-2), "optax.adafactor", RATE,
                        ("transposition", "oracle above the threshold")),
    "adafactor": (lambda: tt.adafactor(1e-2), "adafactor", RATE,
                  ("transposition", "oracle above the threshold")),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n == "scion" else pytest.param(n, marks=pytest.mark.slow) for n in RIGHT]
)
def test_rules_obey_what_their_names_imply(name):
    make, like, hyperparams, names = RIGHT[name]
    report = check(make, names=names, like=like, hyperparams=hyperparams)
    report.raise_for_failures()
    assert [r.outcome for r in report.results] == ["holds"] * len(names)


def test_soap_obeys_the_laws_of_a_basis():
    make = lambda every=10: tt.soap(1e-2, precondition_frequency=every)
    claims = soap_claims() | {"stale": make}
    check(make, claims, asked(claims)).raise_for_failures()


def test_a_rule_by_hand_obeys_them():
    check(muon, JORDAN, asked(JORDAN)).raise_for_failures()
    check(soap, soap_claims(), asked(soap_claims())).raise_for_failures()


FAULTS = {
    "transposed shape factor": ("shape factor", "the factor is transposed"),
    "no shape factor": ("shape factor", "That is 1"),
    "keeps the singular values": ("singular values", "go from"),
    "one map too many": ("orthogonal maps", "from the right it holds"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_muon_is_found_and_named(fault):
    law, words = FAULTS[fault]
    report = check(lambda: muon(fault=fault), JORDAN, [law])
    (failure,) = report.failures
    assert words in failure.message
    fails_by_itself(failure)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("statistics of refreshes only", "staleness"),
        ("basis drifts", "the basis stays orthogonal"),
        ("momentum stays in the old basis", "the basis is left again"),
        ("out of one side", "the basis is left again"),
    ],
)
def test_a_fault_of_a_preconditioner_is_found(fault, law):
    report = check(lambda: soap(fault=fault), soap_claims(fault), [law])
    (failure,) = report.failures
    fails_by_itself(failure)


@pytest.mark.parametrize("fault", [None, "period", "third_period"])
def test_a_preconditioner_is_refreshed_in_every_period(fault):
    make = preconditioners.soap if fault == "third_period" else preconditioners.shampoo
    claims = {"stale": lambda every: make(fault)(every=every)}
    report = check(make(fault), claims, ["refreshed on time"])
    assert [f.law for f in report.failures] == ["refreshed on time"] * (fault is not None)
    for failure in report.failures:
        assert "refreshed every 3 steps, the state's" in failure.message
        fails_by_itself(failure)


@pytest.mark.parametrize("decay", [0.8, 0.5])
def test_a_stack_of_matrices_may_be_left_whole(decay):
    """Adafactor's paper has matrices only; a fault of the rule for whole leaves is still one."""

    def make():
        kinds = {
            "matrix": optax.adafactor(1e-2, min_dim_size_to_factor=8),
            "tensor": optax.adafactor(1e-2, factored=False, decay_rate=decay),
        }
        kind = lambda params: jax.tree.map(lambda x: ("matrix", "tensor")[x.ndim > 2], params)
        return optax.partition(kinds, kind)

    known = {"like": "adafactor", "hyperparams": {**RATE, "min_dim_size_to_factor": 8}}
    report = check(make, names=["oracle above the threshold"], **known)
    assert [f.counterexample["shape"] for f in report.failures] == [(2, 8, 9)] * (decay != 0.8)


def test_a_fault_above_the_factoring_threshold_is_found():
    make = lambda: optax.adafactor(1e-2, min_dim_size_to_factor=256)
    report = check(make, names=["oracle above the threshold"], like="adafactor", hyperparams=RATE)
    (failure,) = report.failures
    assert "large enough to be factored" in failure.message
    assert len(failure.reproducer) < 4000
    fails_by_itself(failure)


def halves():
    label = lambda p: jax.tree.map(lambda x: "muon" if x.ndim == 2 else "sgd", p)
    return optax.partition({"muon": muon(), "sgd": optax.sgd(0.1)}, label)


def test_what_a_scope_covers_is_printed_and_claimed():
    text = str(laws.scope(halves, {"muon": muon, "sgd": optax.sgd(0.1)}))
    assert "matrix  muon" in text
    assert "stack   sgd" in text
    claim = {"scope": {"matrix|row": muon, "": optax.sgd(0.1)}}
    check(halves, claim, ["scope"]).raise_for_failures()
    (failure,) = check(halves, {"scope": {"matrix": muon, "": optax.sgd(0.1)}}, ["scope"]).failures
    assert "'row'" in failure.message
    assert "rule of 'matrix'" in failure.message
    fails_by_itself(failure)


def in_parts(parts):
    """Muon that takes a leaf called qkv for so many matrices."""

    def split(path, x):
        parted = path and path[-1].key == "qkv"
        return list(jax.numpy.split(x, parts, axis=1)) if parted else [x]

    def update(g, s, p=None):
        u, s = muon().update(jax.tree_util.tree_map_with_path(split, g), s)
        join = lambda xs: jax.numpy.concatenate(xs, axis=1) if len(xs) > 1 else xs[0]
        return jax.tree.map(join, u, is_leaf=lambda x: isinstance(x, list)), s

    init = lambda p: muon().init(jax.tree_util.tree_map_with_path(split, p))
    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize(
    ("parts", "claimed", "found"), [(1, 3, "one matrix"), (3, 1, "3 matrices")]
)
def test_a_fused_projection_is_one_matrix_or_several(parts, claimed, found):
    make = lambda n: lambda: in_parts(n)
    check(make(3), {"fused": {"qkv": 3}}, ["fused projections"]).raise_for_failures()
    check(make(1), {"fused": {"qkv": 1}}, ["fused projections"]).raise_for_failures()
    wrong = check(lambda: in_parts(parts), {"fused": {"qkv": claimed}}, ["fused projections"])
    (failure,) = wrong.failures
    assert f"move as {found}" in failure.message
    fails_by_itself(failure)


def test_a_claim_says_what_is_missing():
    claims = {"stale": True, "scope": True, "fused": True}
    report = check(muon, claims, ["staleness", "scope", "fused projections"])
    assert [r.outcome for r in report.results] == ["not applicable"] * 3
    assert "lambda every" in report.results[0].note
    with pytest.raises(ValueError, match="out/in"):
        laws.check(muon, claims={"shape factor": "sqrt(out / in)"})
