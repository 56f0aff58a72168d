"""The experiment that `make run` runs, and what it may claim."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from experiments.progressive_lm import train
from experiments.progressive_lm.config import TRIED, TUNED, transformation
from experiments.progressive_lm.frontier import baselines, summary, trend, verdict_of
from experiments.progressive_lm.grid import Corpus, Grid
from experiments.progressive_lm.methods import Methods, Rates, best_rate
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.page import scales
from experiments.progressive_lm.tasks import TASKS
from trainkit.loop.run_folder import OutputError

TINY = train.Config(
    small=(8, 0), large=(8, 2), steps=40, budgets=(0.5, 1.0), grow_at=(0.25,), length=8,
    batch_size=2, seeds=2, rates=(0.003, 0.01, 0.03),
)  # fmt: skip
NAMES = ["no block", "1 block", "2 blocks", "no block → 2 blocks"]


def row(name, flops, losses, **more):
    grows = "→" in name
    return {
        "optimizer": "adamw", "name": name, "method": name, "flops": flops, "losses": losses,
        "growths": int(grows), "grow_at": 0.1 * grows, "rate": 2.0, "tried": [1.0, 2.0, 4.0],
    } | more  # fmt: skip


ROWS = [
    row("2 blocks", 1.0, [3.0, 3.1, 3.2]),
    row("2 blocks", 2.0, [2.0, 2.1, 2.2]),
    row("a → b", 1.0, [2.5, 2.6, 2.71]),
    row("a → b", 2.0, [1.5, 1.6, 1.71]),
]


def changed(number, **changes):
    return [one | changes if at == number else one for at, one in enumerate(ROWS)]


def test_savings_are_told_where_growing_and_a_tuned_baseline_can_be_compared():
    found = summary(ROWS)[2]
    # Half way between the two budgets, in the logarithm: 1 / sqrt(2) of theirs, for two seeds.
    assert found["saved"]["2 blocks"].mean == pytest.approx(1 - 0.5**0.5, abs=0.01)
    assert found["below"][0] == pytest.approx(0.497, abs=1e-3)
    assert verdict_of(ROWS, "adamw", True)["pays"]
    assert not summary(ROWS)[3]["saved"]["2 blocks"].tells  # nothing is known beyond


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        (changed(1, losses=[2.0, np.nan, 2.2]), "below"),  # another budget of the baseline's
        (changed(2, losses=[2.5, np.nan, 2.7]), "below"),
        (changed(2, growths=0), "below"),
        (changed(0, tried=[2.0]), "below"),
        ([one | {"losses": one["losses"][:1]} for one in ROWS], "below"),
    ],
)
def test_no_savings_are_told_otherwise(rows, key):
    assert key not in summary(rows)[2]
    assert not summary(rows)[2].get("saved")


def test_no_savings_are_told_against_a_baseline_that_may_be_better_than_its_curve():
    assert summary(changed(1, rate=4.0))[2]["saved"] == {}
    assert "2 blocks is at the edge" in verdict_of(changed(1, rate=4.0), "adamw", True)["sentence"]
    # Of its smallest budget only, the rest of the curve serves.
    assert summary(changed(0, rate=4.0))[2]["saved"]["2 blocks"].bound == "<"


def test_nothing_is_said_to_lie_below_baselines_that_spent_less():
    assert "below" not in summary(changed(3, flops=2.2))[3]
    assert "not equal" in verdict_of(changed(3, flops=2.2), "adamw", True)["sentence"]


def test_the_trend_of_savings_has_the_slope_and_the_error_of_its_seeds():
    # The baseline loses 1 for ten times the FLOPs; seed 2 saves more, and more at larger budgets.
    flops = [1.0, 10.0, 100.0, 1000.0]
    loss = lambda spent: 4.0 - np.log10(spent)
    rows = [row("2 blocks", f, [loss(f), loss(f)]) for f in flops]
    saves = {10.0: (0.5, 0.6), 20.0: (0.5, 0.7), 40.0: (0.5, 0.8)}
    rows += [row("a → b", f, [loss(f / (1 - s)) for s in two]) for f, two in saves.items()]
    rows += [row("a → b", 900.0, [-1.0, -1.0])]  # beyond what is known, so not in the line
    growing = [r for r in rows if r["grow_at"]]
    curves = list(baselines(rows, "adamw").values())
    found = trend(growing, curves)
    slope = 0.1 / np.log10(2)
    assert [share for _, share, _ in found.budgets] == pytest.approx([0.55, 0.6, 0.65])
    assert found.slope == pytest.approx((slope / 2, slope / 2))
    assert found.ahead == pytest.approx((0.65 + slope / 2, 0.15 + slope / 2))
    # The cheapest baseline counts, and one that does not get there is not it.
    dear = [row("3 blocks", 10 * c["flops"], c["losses"]) for c in curves[0][:3]]
    assert trend(growing, [*curves, dear]) == found
    assert trend(growing[:2], curves) is None
    assert trend(growing, [curves[0][2:]]) is None  # its smallest budget is better already
    assert any("saves 55% ± 5%" in line for line in scales(rows))
    assert scales(ROWS) == []  # two budgets are no trend


def test_no_verdict_before_all_is_trained():
    assert verdict_of(ROWS, "adamw", False)["pays"] is None
    assert verdict_of(ROWS[:2], "adamw", True)["pays"] is None


def test_a_rate_that_diverged_is_not_the_best():
    losses = np.array([[np.nan, 1.0], [3.0, 3.0]])
    assert best_rate(losses, Rates((1.0, 2.0), None, (1.0, 2.0)), 0) == 1
    assert best_rate(losses, Rates((1.0, 2.0), (1.0, 2.0), (1.0, 2.0)), 0) == 0


def test_it_goes_on_after_what_is_finished_and_says_the_same_again(tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(TINY, out=str(tmp_path / "run"))
    trained, own = [], Methods.train

    def until(last):
        def train(self, way, watch=None):
            if len(trained) == last:
                raise KeyboardInterrupt
            trained.append(way.name)
            return own(self, way, watch)

        monkeypatch.setattr(Methods, "train", train)

    until(2)
    with pytest.raises(SystemExit):
        train.run(config)
    report = (tmp_path / "run" / "report.html").read_text()
    assert '<body><p class="lead">No verdict: not all methods have been trained yet.' in report
    assert "The same command goes on" in capsys.readouterr().out
    until(None)
    content = train.run(config)
    assert trained == NAMES
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:-2])) < 80
    assert [r["name"] for r in content["rows"]] == [name for name in NAMES for _ in range(2)]
    sentence = content["verdict"]["adamw"]["sentence"]
    assert sentence in out
    assert f'<body><p class="lead">{sentence}</p>' in (tmp_path / "run/report.html").read_text()
    # FLOPs are equal by construction, and curves end where the runs do.
    last = content["rows"][1::2]
    assert np.ptp([r["flops"] for r in last]) < 0.1 * last[0]["flops"]
    for r in content["rows"]:
        assert r["curve"][-1][0] == pytest.approx(r["flops"])
        assert np.all(np.diff([flops for flops, _ in r["curve"]]) > 0)
    until(4)  # trains no more
    again = train.run(config)
    assert again == json.loads(json.dumps(content))
    assert re.sub(r"(?s).*(?= Validation)", "", capsys.readouterr().out) in out
    with pytest.raises(OutputError, match="steps: 40 there, 80 now"):
        train.run(dataclasses.replace(config, steps=80))


def test_a_setting_in_which_nothing_would_grow_is_refused():
    with pytest.raises(ValueError, match="nothing would grow"):
        train.Config(small=(32, 2))
    with pytest.raises(ValueError, match=r"before the first decay, at 0\.4"):
        train.Config(grow_at=(0.4,))


def test_the_known_rates_are_those_of_the_defaults_only():
    assert train.Config().rates_of("adamw", "large").taken == TUNED["large"]
    for other in ({"steps": 640}, {"rates": (0.01,)}, {"batch_size": 8}, {"large": (32, 3)}):
        assert train.Config(**other).rates_of("adamw", "large").taken is None
    assert train.Config().rates_of("muon", "large").taken is None
    for rates in TUNED.values():
        assert len(rates) == len(train.Config().budgets)
        assert all(min(TRIED) < rate < max(TRIED) for rate in rates)


@pytest.mark.slow
def test_growing_pays_over_the_seeds_and_any_three_of_them(tmp_path):
    content = train.run(train.Config(out=str(tmp_path / "run")))
    found = content["verdict"]["adamw"]
    assert found["pays"] is True
    assert found["below"] > found["margin"] > 0
    for three in itertools.combinations(range(4), 3):
        rows = [r | {"losses": [r["losses"][k] for k in three]} for r in content["rows"]]
        assert verdict_of(rows, "adamw", True)["below"] > 0


@pytest.mark.slow
def test_the_verdict_holds_on_three_other_seeds(tmp_path):
    # Neither those of the defaults nor those on which the rates were found (100 to 102).
    rows = train.run(train.Config(seed=200, seeds=3, out=str(tmp_path / "run")))["rows"]
    ends = {r["name"]: r["losses"] for r in rows}  # the largest budget comes last
    growing = ends.pop("no block → 2 blocks")
    assert list(ends) == ["no block", "1 block", "2 blocks"]
    for alone in ends.values():
        # For every seed: that a mean of three is lower would be chance too often.
        assert np.all(np.array(alone) > growing)


SHORTER = {"lengths": (2, 4), "lengths_until": (0.15, 0.3)}


def test_every_method_is_trained_from_shorter_examples_too(tmp_path):
    config = dataclasses.replace(
        TINY, **SHORTER, grow_at=(0.2,), budgets=(1.0,), steps=100, out=str(tmp_path / "run")
    )
    content = train.run(config)
    rows = {r["name"]: r for r in content["rows"]}
    shorter = [f"{name}, from length 2" for name in NAMES]
    assert list(rows) == [*shorter[:3], *NAMES[:3], shorter[3], NAMES[3]]
    budget = rows["2 blocks"]["flops"]
    for r in rows.values():
        assert r["flops"] == pytest.approx(budget, rel=0.1)
    assert rows[shorter[3]]["growths"] == 1
    assert rows[shorter[3]]["grow_at"] == pytest.approx(0.2 * budget, rel=0.1)
    assert abs(rows[shorter[3]]["jump"]) < 1e-5  # new blocks keep the function
    assert shorter[3] in content["verdict"]["adamw"]["sentence"] or (
        content["verdict"]["adamw"]["pays"] is None
    )


def test_shorter_examples_come_in_order_and_before_the_first_decay():
    for options, words in [
        ({"lengths": (8,)}, "1 lengths and --lengths-until 0 shares"),
        ({"lengths": (16, 8), "lengths_until": (0.1, 0.2)}, "--lengths has"),
        ({"lengths": (8, 32), "lengths_until": (0.1, 0.2)}, "below 32"),
        ({"lengths": (8, 16), "lengths_until": (0.1, 0.4)}, r"below 0\.4"),
    ]:
        with pytest.raises(ValueError, match=words):
            train.Config(**options)


def test_advice_compares_growing_from_shorter_examples(tmp_path):
    shorter = {"lengths": (4,), "lengths_until": (0.2,), "rates": (0.01,), "steps": 4000}
    config = dataclasses.replace(TINY, **shorter, out=str(tmp_path))
    advice = train.advise(config, share=0.9, progress=False)
    names = {one.choice.name.split(", uneven")[0] for one in advice.expected}
    assert "width 8, depth 2, length 4 → width 8, depth 2" in names
    assert "width 8, depth 0, length 4 → width 8, depth 2" in names
    assert "width 8, depth 0 → width 8, depth 2" in names


def test_runs_in_turn_are_those_side_by_side():
    corpus = Corpus.of(TASKS["text"](None), 8, 2)
    model = Transformer(corpus.vocabulary, 8, 1, 8)
    losses = []
    for in_turn in (False, True):
        grid = Grid(corpus, transformation("adamw"), (3, 4), in_turn=in_turn)
        sized = grid.sized(model)
        states = sized.train(grid.fresh(sized.prepared, (0.01, 0.03)), 20)
        losses.append(sized.measure(states))
    assert losses[0].shape == (2, 2)
    # float32 sums in another order, over 20 steps.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert len(set(losses[0].ravel())) == 4
