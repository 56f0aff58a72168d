"""The page: well formed, whole in itself, and with everything a reader asks for."""

import json
import re
from html.parser import HTMLParser

from trainkit.loop.metrics_log import MetricsLog
from trainkit.report import RunData, read_run, report_html, write_report
from trainkit.report.plots import COLOURS

VOID = {"meta", "br", "img", "hr", "input"}


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
    "outcome": "finished",
    "budget": {"epochs": 2.0},
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


def test_loss_and_accuracy_are_drawn_once_then_rate_and_norms():
    # Steps, examples, FLOPs and seconds go up together here: one picture says it all.
    page = Page(report_html([RunData("mine", rows(), {}, SUMMARY)], title="Mine"))
    for title in ("Loss", "Accuracy", "Gradient norm"):
        assert page.words.count(title) == 1
    assert page.seen.count("svg") == 3
    assert "input" not in page.seen
    assert not any("kipped" in word for word in page.words)  # none was


def test_a_legend_names_what_is_drawn_under_it():
    """Validation has no learning rate; of several runs, only those with the metric are named."""
    norms = rows()
    without = [{k: v for k, v in row.items() if k != "grad_norm"} for row in norms]
    legends = lambda *runs: re.findall(r'<p class="legend">(.*?)</p>', report_html(runs, title="T"))
    first, second = legends(RunData("mine", norms))
    assert "validation" in first
    assert "training" in second
    assert "validation" not in second
    first, second = legends(RunData("mine", norms), RunData("theirs", without))
    assert "theirs" in first
    assert "theirs" not in second


def test_axes_that_tell_something_else_can_be_chosen_without_a_script():
    slow = [row | {"seconds": row["step"] ** 3} for row in rows()]
    page = Page(report_html([RunData("mine", slow, {}, SUMMARY)], title="Mine"))
    assert [word for word in page.words if word.startswith("against")] == [
        "against steps",
        "against time",
    ]
    assert page.seen.count("svg") == 2 * 2 + 1


def test_time_is_in_units_that_read():
    for scale, unit in ((1.0, "seconds"), (100.0, "minutes"), (9000.0, "hours")):
        slow = [row | {"seconds": scale * row["step"] ** 2} for row in rows()]
        assert unit in Page(report_html([RunData("mine", slow)], title="T")).words


def test_what_never_changes_is_a_number_and_no_picture():
    words = Page(report_html([RunData("mine", rows(), {}, SUMMARY)], title="Mine")).words
    at = words.index("Learning rate")
    assert words[at - 1 : at + 2] == ["Constant throughout", "Learning rate", "0.001"]
    assert words.count("Learning rate") == 1


def test_numbers_options_versions_device_and_command():
    speeds = [{"examples_per_second": 79.0 if n == 8 else 40.0} for n in range(10)]
    measured = [a | b if a["kind"] == "train" else a for a, b in zip(rows(), speeds, strict=True)]
    run = RunData("mine", measured, {"width": 64, "mode": "<i>"}, SUMMARY)
    text = report_html([run], title="A < B", headline={"test accuracy": "98.76%"})
    words = Page(text).words
    for shown in (
        *("A < B", "98.76%", "test accuracy", "1,234", "9,872", "1.5 T", "2 min 05 s"),
        # Of all rows, not of the last: 32 examples at 40 a second and 8 at 79.
        *("examples per second", "44"),
        *("width", "64", "<i>", "jax", "1.2.3", "trainkit train thing --name '<b>'", "8 × cpu"),
    ):
        assert shown in words, shown
    assert "<i>" not in text
    assert "<b>'" not in text


def test_the_verdict_is_the_first_thing_on_the_page():
    own = Page(report_html([RunData("mine", rows(), {}, SUMMARY)], title="Mine")).words
    said = "Finished after 5 steps: epochs=2 reached. Validation loss 0.2200, accuracy 0.5000"
    assert next(word for word in own if word not in ("", "Mine")).startswith(said)
    given = report_html([RunData("mine", rows(), {}, SUMMARY)], title="Mine", lead="It pays.")
    assert given.index("It pays.") < given.index("Finished after") < given.index("<svg")


def test_several_runs_share_their_plots_and_a_table():
    runs = [
        RunData("scratch", rows(scale=3.0), {"rate": 0.3, "seed": 1}, SUMMARY),
        RunData("grown", rows(), {"rate": 0.1, "seed": 1}, SUMMARY),
    ]
    text = report_html(runs, title="Both")
    words = Page(text).words
    assert words.count("Loss") == 1
    at = words.index("run")
    assert words[at : at + 4] == ["run", "rate", "validation loss", "validation accuracy"]
    assert words.index("grown") < words.index("scratch")  # the lower loss first
    assert {"0.1", "0.3"} <= set(words)
    assert words[words.index("Options that all have") + 1 :][:2] == ["seed", "1"]
    assert "grown has the lowest validation loss, 0.2200, before scratch with 0.6600." in words


def test_events_are_numbered_and_carry_the_colour_of_their_run():
    event = {"step": 3, "kind": "event", "examples": 24, "flops": 3e6, "seconds": 0.3}
    event |= {"event": "grown to 128", "reason": "flat", "heads": 1200}
    runs = [RunData("mine", rows(), {}), RunData("other", [*rows(scale=2.0), event])]
    text = report_html(runs, title="E")
    assert text.count(f"stroke: {COLOURS[1]}; stroke-width: 0.9") == 3  # of every plot
    words = Page(text).words
    assert words.count("1: grown to 128") == 2  # in the legends
    at = words.index("Events")
    row = ["1", "other", "grown to 128", "3", "3 M", "0.3 s", "flat", "heads 1,200"]
    assert words[at + 9 : at + 17] == row


def test_a_page_loads_itself_anew_only_where_it_is_asked_to():
    run = RunData("mine", rows(), {}, SUMMARY)
    assert '<meta http-equiv="refresh" content="5">' in report_html([run], title="T", refresh=5)
    assert "http-equiv" not in report_html([run], title="T")


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
