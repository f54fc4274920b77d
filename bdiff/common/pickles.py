"""Why a pickled file was refused. bdiff reads tensors only (safetensors, or torch's weights_only), never objects."""

import pickle
import re


def refusal(error: BaseException) -> str | None:
    """Return why a file is refused, as the end of a line, if reading its tensors ended in `error` over its pickle."""
    if unpickling(error) is None:
        return None
    named = called(error)
    what = f"it calls for {named}, which could run code" if named else "it is damaged, or could run code"
    return f"is not unpickled, as it does not hold only tensors ({what}): get it as safetensors, or download it again"


def called(error: BaseException) -> str | None:
    """Return the function that a file's pickle would have called, if that caused `error`: damage cannot."""
    named = re.search(r"GLOBAL (\S+)", str(unpickling(error) or ""))
    return named[1] if named else None


def unpickling(error: BaseException) -> pickle.UnpicklingError | None:
    """Return the pickle error that is `error` itself or its cause."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, pickle.UnpicklingError):
        link = link.__cause__ or link.__context__
    return link


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
