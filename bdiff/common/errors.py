"""The two ways a run can end badly, told apart by their exit codes."""


class RequestError(Exception):
    """The request was wrong and nothing was started (exit 2). Holds every problem found, one line each."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class RunError(Exception):
    """The run started and failed (exit 1). The message is one line: what happened, and how to mend it."""


def one_line(error: BaseException) -> str:
    """Return what an error says, without what Hydra and OmegaConf add about their insides."""
    text = str(error).partition("Config search path")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type")))
