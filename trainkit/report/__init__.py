"""Reports on a run: a progress bar, plots, and an HTML page.

Input: the folder of a run, read as plain data (`run_data`). Output: text, SVG and `report.html`.
Read `html` first.
"""

from trainkit.report.html import report_html, write_report
from trainkit.report.plots import Curve, Event, plot
from trainkit.report.run_data import RunData, read_run

__all__ = ["Curve", "Event", "RunData", "plot", "read_run", "report_html", "write_report"]
