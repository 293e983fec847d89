"""What can go wrong in a measurement.

NotMeasurable   something that is needed is not here: the part is left out, and the report says why
WrongAnswers    what was measured is not what was meant: the run ends, there is nothing to report
"""


class NotMeasurable(Exception):
    """The message says what is missing, and where it comes from."""


class WrongAnswers(Exception):
    """The message says which answers came, and from where."""
