"""Exceptions of the benchmark.

NotMeasurable         a program is missing: the metric is skipped, and the report says why
UnexpectedResponses   the target does not do what is to be measured: the run fails
"""


class NotMeasurable(Exception):
    """The message says what is missing, and how to install it."""


class UnexpectedResponses(Exception):
    """The message says which responses came from which server."""
