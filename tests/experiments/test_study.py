"""The study of when growing pays: one command for all of its settings."""

import pytest

from experiments.progressive_lm import train as progressive_lm
from experiments.study import train


def test_every_setting_is_one_that_the_experiment_takes():
    for options in train.SETTINGS.values():
        config = progressive_lm.Config(**options)
        assert not config.is_tuned  # so that every method's best of the same rates is taken


def test_all_settings_asked_for_are_run_and_their_verdicts_said(tmp_path, monkeypatch, capsys):
    ran = []

    def run(config):
        ran.append(config)
        return {"verdict": {"adamw": {"sentence": f"{config.task} at {config.steps} steps."}}}

    monkeypatch.setattr(train.train, "run", run)
    found = train.run(train.Config(only=("topics", "640"), out=str(tmp_path)))
    assert list(found) == ["topics, AdamW", "shared core, Muon, 640 steps"]
    assert [config.task for config in ran] == ["topics", "text"]
    assert len({config.out for config in ran}) == 2
    assert "topics, AdamW: topics at 320 steps." in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"'none'.*text, AdamW; text, Muon"):
        train.Config(only=("none",))
