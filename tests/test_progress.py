"""Progress as plain lines: rates, and the time that is left, however long."""

import pytest

from bdiff.common import progress
from bdiff.common.progress import Lines, clock


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "00:00:00"), (59.6, "00:01:00"), (3661, "01:01:01"), (86_399, "23:59:59"), (93_784, "26:03:04"),
     (1_000_000, "277:46:40")],
)  # fmt: skip
def test_time_left_counts_its_hours(seconds, shown):
    assert clock(seconds) == shown


def test_a_line_of_a_long_run(monkeypatch, caplog):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = Lines("train", 1_000_010, 10, "steps", every=5.0)
    lines.advance(0)
    now = 110.0
    with caplog.at_level("INFO"):
        lines.advance(100, "loss 0.5")
        now = 120.0
        lines.advance(0)
    assert caplog.messages[0] == "train 110/1000010 steps, 10/s, 27:46:30 left loss 0.5"


def test_a_rate_of_nothing_leaves_no_time_to_tell(monkeypatch, caplog):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = Lines("train", 10, 0, "steps", every=1.0)
    now = 5.0
    with caplog.at_level("INFO"):
        lines.advance(0)
    assert caplog.messages == ["train 0/10 steps, 0/s, ? left "]
