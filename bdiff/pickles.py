"""Why a pickled file was refused. bdiff reads tensors only (safetensors, or torch's weights_only), never objects."""

import pickle
import re


def refusal(error: BaseException) -> str | None:
    """Return why a file is refused, as the end of a line, if reading its tensors ended in `error` over its pickle."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, pickle.UnpicklingError):
        link = link.__cause__ or link.__context__
    if link is None:
        return None
    named = re.search(r"GLOBAL (\S+)", str(link))
    what = f"it calls for {named[1]}, which could run code" if named else "it is damaged, or could run code"
    return f"does not hold tensors alone and is not unpickled ({what}): get the weights as safetensors, or anew"
