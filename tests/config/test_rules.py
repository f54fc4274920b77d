"""Rules: what each takes, and what it says of everything else."""

import pytest
from omegaconf import OmegaConf

from bdiff.config import rules

#: a rule, what it takes, what it does not, and what it says of that
ROWS = [
    (rules.at_least(2), [2, 2.5], [1, 1.9], "must be at least 2"),
    (rules.above(0), [1e-9, 3], [0, -1, float("nan")], "must be above 0"),
    (rules.fraction, [0, 1, 0.5], [-0.1, 1.1], "is not a fraction: choose a value from 0 to 1"),
    (rules.open_fraction, [0.5], [0, 1, float("nan")], "must lie between 0 and 1"),
    (rules.positive_fraction, [0.1, 1], [0, 1.1, float("nan")], "must be above 0, and at most 1"),
    (rules.eight_bit_fraction, [1 / 255, 0.004, 1], [0, 0.0039, 1.1], "in 8 bits, which have no smaller"),
    (rules.below_one, [0, 0.9], [1, -1, float("nan")], "must be at least 0 and below 1"),
    (rules.multiple_of(4), [4, 32], [0, 6, -4], "must be one of 4, 8, 12, ..."),
    (rules.multiple_of(6, plus=4), [10, 28], [4, 11, -2], "must be one of 10, 16, 22, ..."),
    (rules.one_of("full", "bpda"), ["full"], ["ful"], "is not known; did you mean full? (choose from bpda, full)"),
    (rules.some_of("kid", "lpips"), [["kid"], [], "kid"], [["lpps"]], "holds lpps, which is not known; did you mean"),
    (rules.one_of_or_above(0, "ode"), ["ode", 0.5], [0, -1], "must be above 0"),
    (rules.one_of_or_above(0, "ode"), ["ode"], ["od", True], "or set a number"),
    (rules.falling, [[1.0, 0.5], [1], [0]], [[0.2, 0.5], [], [1.2], ["a"], 0.5], "must be decreasing fractions"),
    (rules.span, [[-1, 0], [0.8, 6], 3], [[0, -1], [1, 1], [0], ["a", 1]], "must be two increasing numbers"),
    (rules.rising, [[0], [0, 0.5], 3], [[], [0.5, 0.5], [-1]], "must be increasing numbers of at least 0"),
    (rules.rising, [[0]], [["a"], [0, float("nan")]], "must hold only numbers"),
    (rules.counts, [[1], [8, 12], 8], [[], [0], [1.5]], "must be whole numbers from 1 up, as in [8,12]"),
    (rules.auto_or_number, ["auto", 1, -0.5], ["low", True, float("inf")], "must be a number, auto or null"),
    (rules.auto_or_count, ["auto", 1], [0, 1.5, "2"], "must be auto or a whole number from 1 up"),
    (rules.file_name, ["a", "with space", "x" * 200], ["", ".", "a/b", "x" * 201], "is not a file name"),
    (rules.device, ["auto", "cpu", "cuda", "cuda:3"], ["gpu", "cuda:x"], "is not known: choose from auto, cpu"),
]


@pytest.mark.parametrize(("rule", "takes", "refuses", "words"), ROWS, ids=[row[0].words + row[3] for row in ROWS])
def test_a_rule(rule, takes, refuses, words):
    def asked(value):
        return rule(OmegaConf.create(value) if isinstance(value, list) else value)

    assert [asked(value) for value in takes] == [None] * len(takes)
    assert all(words in asked(value) for value in refuses), [asked(value) for value in refuses]
    assert rule.words
