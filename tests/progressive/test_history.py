"""What happened and what it cost, written down."""

from trainkit.progressive.background import Background
from trainkit.progressive.history import History


def test_certificates_that_are_made_together_come_to_their_own_growths():
    # As in a run that goes on after it was killed while several were being made.
    for enabled in (True, False):
        with Background(enabled) as background:
            history = History(background)
            history.events = [{"stage": stage, "certificate": {}} for stage in range(2)]
            for event in history.events:
                history.certify_later(event, lambda stage=event["stage"]: {"of": stage})()
            history.settle()
            assert [event["certificate"]["of"] for event in history.events] == [0, 1]
            history.collect_certificates()  # nothing is left
