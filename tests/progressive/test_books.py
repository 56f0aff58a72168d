"""What happened and what it cost, written down."""

from trainkit.progressive import Ahead
from trainkit.progressive.history import Books


def test_certificates_that_are_made_together_come_to_their_own_growths():
    # As in a run that goes on after it was killed while several were being made.
    for enabled in (True, False):
        with Ahead(enabled) as ahead:
            books = Books(ahead)
            books.history = [{"stage": stage, "certificate": {}} for stage in range(2)]
            for event in books.history:
                books.certify_later(event, lambda stage=event["stage"]: {"of": stage})()
            books.settle()
            assert [event["certificate"]["of"] for event in books.history] == [0, 1]
            books.take_in()  # nothing is left
