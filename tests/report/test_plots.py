"""Pictures as text: whole, without addresses, in the page's own colours."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from trainkit.report.plots import COLOURS, Curve, Event, plot, running_mean, spans_decades

LOSS = Curve("loss", [1, 2, 3], [1.0, 0.5, 0.25])


def paths(svg):
    return re.findall(r'<path d="([^"]*)"', svg)


def test_a_plot_is_one_element_with_its_texts_as_text():
    svg = plot([LOSS, Curve("other", [1, 3], [2, 1])], title="Loss & more", x_label="steps")
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("aria-label") == "Loss & more"
    texts = {text.text for text in root.iter("text")}
    assert {"Loss & more", "steps", "loss", "other"} <= texts


def test_nothing_is_fetched_and_the_size_is_the_pages_to_choose():
    svg = plot([LOSS], title="Loss", x_label="steps")
    assert "http" not in svg
    assert "xmlns" not in svg
    head = svg[: svg.index(">")]
    assert "viewBox" in head
    assert " width=" not in head
    assert " height=" not in head


def test_axes_follow_the_page_and_no_placeholder_is_left():
    svg = plot([LOSS], title="Loss", x_label="steps")
    assert "var(--ink)" in svg
    assert "var(--faint)" in svg
    assert "#01020" not in svg
    assert "#ffffff" not in svg  # no white ground under it


def test_two_plots_of_a_page_share_no_ids():
    ids = [
        set(re.findall(r'id="([^"]*)"', plot([LOSS], title="Loss", x_label=x)))
        for x in ("steps", "examples")
    ]
    # Groups are numbered alike in all (figure_1, axes_1, ...), which nothing refers to.
    referred = set(
        re.findall(r'(?:url\(#|href="#)([^)"]*)', plot([LOSS], title="Loss", x_label="steps"))
    )
    assert referred
    assert not referred & ids[1]


def test_what_is_not_finite_is_left_out():
    gap = Curve("gap", [1, 2, 3, 4], [1.0, math.nan, math.inf, 0.5])
    plain = Curve("gap", [1, 4], [1.0, 0.5])
    assert paths(plot([gap], title="a", x_label="b")) == paths(
        plot([plain], title="a", x_label="b")
    )
    nothing = Curve("nothing", [1], [math.nan])
    assert plot([nothing], title="a", x_label="b", log_y=True).startswith("<svg")


def test_events_are_marked():
    svg = plot([LOSS], title="a", x_label="b", events=[Event(2, "wider: 64 → 128")])
    assert "wider: 64 → 128" in svg


def test_events_outside_of_the_curve_and_crowds_of_them_leave_room_for_it():
    one = Curve("loss", [5], [1.0])
    assert "early" in plot([one], title="a", x_label="b", events=[Event(3, "early")])
    crowd = [Event(2 + k / 1000, f"{k:03}") for k in range(40)]
    svg = plot([LOSS], title="a", x_label="b", events=crowd)
    shown = re.findall(r">(\d{3})<", svg)
    assert shown == ["000", "001", "002", "003"]
    assert svg.count("stroke-dasharray: 3.6,2.7") == 40


def test_matplotlibs_settings_stay_as_they_were():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plot([LOSS], title="a", x_label="b")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("reach", [0.0, 1.0, 2.5, 100.0])
def test_the_running_mean_is_the_mean_of_the_window(reach):
    rng = np.random.default_rng(0)
    x, values = np.cumsum(rng.integers(1, 3, 50)).astype(float), rng.normal(size=50)
    expected = [np.mean([v for u, v in zip(x, values, strict=True) if abs(u - at) <= reach])
                for at in x]  # fmt: skip
    np.testing.assert_allclose(running_mean(x, values, reach), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [15, 60, 90])
def test_the_same_values_are_the_same_curve_in_runs_of_any_length(count):
    """As far as the window of the last ones reaches over the end of the shorter run."""
    values = np.random.default_rng(1).normal(size=110)  # matplotlib thins out more
    steps = np.arange(10, 1110, 10)
    curves = [Curve(str(n), steps[:n], values[:n], smooth=True) for n in (110, count)]
    drawn = [lines[1] for lines in _lines_by_colour(plot(curves, title="Loss", x_label="steps"))]
    assert drawn[0][: count - 11] == drawn[1][: count - 11]
    assert len(drawn[1]) == count


def _lines_by_colour(svg):
    """The corners of the lines of the first two curves: the faint one, then the smooth one."""
    found = {colour: [] for colour in COLOURS[:2]}
    for d, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg):
        for colour, lines in found.items():
            if f"stroke: {colour}" in style and d.count("L") > 1:
                lines.append(re.findall(r"[ML] ([-\d. ]+)", d))
    return list(found.values())


def test_when_a_logarithmic_axis_shows_more():
    assert spans_decades([1.0, 0.01, -5.0, math.inf])
    assert not spans_decades([1.0, 0.5])
    assert not spans_decades([0.0, 0.0])
