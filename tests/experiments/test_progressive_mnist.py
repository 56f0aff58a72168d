"""The growing digits: nothing is claimed of runs that cannot be compared."""

import os
import signal

import pytest

from experiments.progressive_mnist import train
from trainkit._core.units import si
from trainkit.data import mnist


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A hundredth of the digits."""
    parts = [{name: leaf[: len(leaf) // 100] for name, leaf in part.items()} for part in mnist()]
    monkeypatch.setattr(train, "mnist", lambda path: parts)


def test_nothing_is_claimed_where_nothing_grew(tmp_path, capsys):
    config = train.Config(passes=0.5, batch_size=32, seeds=1, out=str(tmp_path))
    content = train.run(config)
    assert content["verdict"]["pays"] is None
    out = capsys.readouterr().out
    assert "No verdict: nothing grew in 1 of the 1 runs that may grow." in out
    page = (tmp_path / "seed-0" / "progressive" / "report.html").read_text()
    assert '<p class="lead">No verdict: nothing grew in 1 of the 1 runs that may grow.</p>' in page
    for words in ("saved", "less than", "fewer"):
        assert words not in out + page, words
    # The table of the runs and the ledger say the same.
    flops = content["seed 0"]["progressive"]["flops"]
    for name in ("FLOPs", "total"):
        assert f'<td data-name="{name}" class="short">{si(flops)}</td>' in page


def test_nothing_is_compared_after_an_interruption(tmp_path, monkeypatch, capsys):
    own = train.progressive

    def interrupted(*args, **options):
        stop = lambda now: os.kill(os.getpid(), signal.SIGINT) if now.steps == 2 else None
        return own(*args, **options, hooks=[stop])

    monkeypatch.setattr(train, "progressive", interrupted)
    with pytest.raises(SystemExit):
        train.run(train.Config(passes=0.5, batch_size=32, out=str(tmp_path)))
    out = capsys.readouterr().out
    assert "No comparison: progressive is not finished (interrupted by SIGINT)." in out
    assert "small: 64" not in out


def test_rates_count_as_tuned_in_the_setting_of_the_tuning_only():
    assert train.Config().tuned
    assert train.Config(passes=6, seeds=1, seed=3).tuned
    for other in ({"passes": 0.5}, {"model": "cnn"}, {"batch_size": 64}, {"resume": "new data"}):
        assert not train.Config(**other).tuned
