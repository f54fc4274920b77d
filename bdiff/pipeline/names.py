"""Who and what the metrics of a run are called by, and how readers call them."""

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the tables: in words, and what its metrics begin with."""

    label: str
    purified: str
    certified: str


ROWS = {
    "none": Row("no shield", "no_shield", "certified_no_shield"),
    "clean": Row("shield with the clean model", "shield_clean_model", "certified_clean_model"),
    "suspect": Row("shield with the suspect", "shield", "certified"),
    "ensemble": Row("shield with both models", "shield_ensemble", "certified_ensemble"),
    "repaired": Row("shield with the suspect after the removal", "shield_repaired", "certified_repaired"),
}
#: kinds of input, as metrics and as readers call them
KINDS = {
    "clean": "clean",
    "adversarial": "adversarial",
    "triggered": "triggered",
    "triggered_adversarial": "triggered + adversarial",
    "adaptive": "adaptive",
}
