"""The one error that growth raises when it will not do what was asked."""


class GrowthError(ValueError):
    """A growth that cannot be done exactly, or not at all; the message says what to do instead.

    >>> raise GrowthError("axis 1 of 'rope' changes its frequencies")
    Traceback (most recent call last):
    ...
    trainkit.growth.errors.GrowthError: axis 1 of 'rope' changes its frequencies
    """
