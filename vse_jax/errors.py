"""Errors that are told to the user in one line instead of a stack trace."""


class ReportedError(Exception):
    """A failure that the user can mend.

    `main.py` prints its message on standard error behind `error: ` and exits with 2.
    The message is one line: it names the file or option, the record, what was expected
    and how to mend it.
    """


class InputError(ReportedError):
    """A file, a record or an option that cannot be used as it is."""


class TrainingError(ReportedError):
    """A run that cannot go on: the loss is not finite, a checkpoint cannot be saved."""
