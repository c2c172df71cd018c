"""The errors that are told in one sentence, without a traceback."""


class UsageError(ValueError):
    """Wrong input of a user, told in one sentence that names the option, the rule and the value received.

    The command line prints the sentence and exits with status 2; library callers see an ordinary ``ValueError``.
    """


class RunError(RuntimeError):
    """A run that cannot go on although its input was right (too many clients failed, say), told in one sentence.

    The command line prints the sentence and exits with status 1; what was saved before stays whole.
    """
