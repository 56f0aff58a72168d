"""The page: well formed, whole in itself, and with everything a reader asks for."""

import json
import re
from html.parser import HTMLParser

import pytest

from trainkit.loop.metrics_log import MetricsLog
from trainkit.report import RunData, read_run, report_html, write_report

VOID = {"meta", "br", "img", "hr"}


class Page(HTMLParser):
    """Checks that elements close in order, and collects them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words, self.addresses = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data.strip())


def rows(count=5, scale=1.0):
    made = []
    for i in range(1, count + 1):
        spent = {"step": i, "epoch": i / 2, "examples": 8 * i, "flops": 1e6 * i, "seconds": 0.1 * i}
        train = {
            "loss": scale / i,
            "accuracy": 1 - 0.5 / i,
            "learning_rate": 1e-3,
            "grad_norm": 2 / i,
        }
        made.append({**spent, "kind": "train", **train, "skipped_steps": 0.0})
        made.append({**spent, "kind": "evaluation", "loss": scale * 1.1 / i, "accuracy": 0.5})
    return made


SUMMARY = {
    "stopped": "epochs=2 reached",
    "steps": 1234,
    "epochs": 2.0,
    "examples": 9872,
    "flops": 1.5e12,
    "seconds": 125.0,
    "metrics": {"loss": 0.2, "examples_per_second": 79.0, "compile_seconds": 1.5},
    "evaluation": {"loss": 0.22, "accuracy": None},
    "devices": "8 × cpu",
    "versions": {"jax": "1.2.3"},
    "command": "trainkit train thing --name '<b>'",
}


def test_the_page_needs_nothing_but_itself():
    text = report_html([RunData("mine", rows(), {"a": 1}, SUMMARY)], title="Mine")
    page = Page(text)
    assert not re.search(r"https?://|//[a-z]+\.", text)
    assert not {"link", "script", "iframe", "object"} & set(page.seen)
    assert all(address.startswith("#") for address in page.addresses)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_loss_and_accuracy_against_all_that_was_spent_then_rate_and_norms():
    page = Page(report_html([RunData("mine", rows(), {}, SUMMARY)], title="Mine"))
    for metric in ("Loss", "Accuracy"):
        for spent in ("steps", "examples", "FLOPs", "seconds"):
            assert f"{metric} against {spent}" in page.words
    for title in ("Learning rate", "Gradient norm"):
        assert title in page.words
    assert page.seen.count("svg") == 10
    assert not any("kipped" in word for word in page.words)  # none was


def test_numbers_options_versions_device_and_command():
    speeds = [{"examples_per_second": 79.0 if n == 8 else 40.0} for n in range(10)]
    measured = [a | b if a["kind"] == "train" else a for a, b in zip(rows(), speeds, strict=True)]
    run = RunData("mine", measured, {"width": 64, "mode": "<i>"}, SUMMARY)
    text = report_html([run], title="A < B", headline={"test accuracy": "98.76%"})
    words = Page(text).words
    for shown in (
        *("A < B", "98.76%", "test accuracy", "1,234", "9,872", "1.5 T", "2 min 05 s"),
        # Of all rows, not of the last: 32 examples at 40 a second and 8 at 79.
        *("examples per second, while training", "44"),
        *("FLOPs counted", "waited for compiling", "1.5 s"),
        *("width", "64", "<i>", "jax", "1.2.3", "trainkit train thing --name '<b>'"),
    ):
        assert shown in words, shown
    assert "8 × cpu · ended after 1,234 steps: epochs=2 reached" in words
    assert "<i>" not in text
    assert "<b>'" not in text


def test_several_runs_share_their_plots():
    runs = [RunData("grown", rows(), {}, SUMMARY), RunData("scratch", rows(scale=3.0))]
    words = Page(report_html(runs, title="Both")).words
    for label in ("grown, training", "scratch, validation"):
        assert label in words
    assert words.count("Loss against FLOPs") == 2 - 1


def test_events_are_marked_in_every_plot_of_what_was_spent():
    event = {"step": 3, "kind": "event", "examples": 24, "flops": 3e6, "event": "grown to 128"}
    words = Page(report_html([RunData("m", [*rows(), event])], title="E")).words
    assert words.count("grown to 128") == 8


def test_a_run_of_hardly_any_rows_still_has_a_page(tmp_path):
    for few in ([], rows(1)[:1], [{"step": 1, "kind": "train", "loss": float("nan")}]):
        Page(report_html([RunData("few", few)], title="Few"))


def test_it_is_written_into_the_runs_folder(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for row in rows(2):
            log.write(row)
    (tmp_path / "config.json").write_text(json.dumps({"width": 7}))
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    run = read_run(tmp_path)
    assert run.config == {"width": 7}
    assert run.series("train", "step", "loss") == ([1, 2], [1.0, 0.5])
    path = write_report(tmp_path, parts=["<p>My own part.</p>"])
    assert path == tmp_path / "report.html"
    words = Page(path.read_text()).words
    assert "My own part." in words
    assert tmp_path.name in words


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3.21, "3.2 s"), (59.9, "59.9 s"), (3600, "1 h 00 min"), (61, "1 min 01 s")],
)
def test_durations_read_well(seconds, shown):
    run = RunData("mine", [], {}, SUMMARY | {"seconds": seconds})
    assert shown in Page(report_html([run], title="T")).words
