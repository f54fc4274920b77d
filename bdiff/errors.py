"""The two ways a run can end badly, told apart by their exit codes."""


class RequestError(Exception):
    """The request was wrong and nothing was started (exit 2). Holds every problem found, one line each."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class RunError(Exception):
    """The run started and failed (exit 1). The message is one line: what happened, and how to mend it."""
