"""Progress: a line per stage on a terminal of 80 columns, else plain lines with rates and the time that is left."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from bdiff.cli.run import heed_quiet
from bdiff.common import progress
from bdiff.common.progress import BLOCKS, Lines, clock, console, sparkline, speed
from bdiff.launch.job import setup_logging

#: two stages, one with all that a line may hold
STAGES = """
from bdiff.common.progress import progress
with progress("train", 1_000_000, 999_000) as meter:
    for step in range(1000):
        meter.advance(1, "loss 0.0123", [1.0 / (1 + row) for row in range(step)])
with progress("certified_shield_repaired", 20, unit="images") as meter:
    meter.advance(20, "radius 0.250, and more than fits into a line of this terminal")
"""


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


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ""),
        ([1.0], BLOCKS[0]),
        ([2.0, 2.0], BLOCKS[0] * 2),
        ([10.0**place for place in range(8)], BLOCKS),  # logarithmic
        ([4.0, 2.0, 1.0], BLOCKS[7] + BLOCKS[4] + BLOCKS[0]),
        ([1.0] * 500 + [0.1] * 500, BLOCKS[7] * 5 + BLOCKS[0] * 5),
        ([1.0, 0.0], ""),
        ([1.0, float("nan")], ""),
    ],
)
def test_a_sparkline(values, shown):
    assert sparkline(values) == shown


@pytest.mark.parametrize(("rate", "shown"), [(0.0456, "0.0456/s"), (31.25, "31.2/s"), (123_456, "123,456/s")])
def test_a_speed(rate, shown):
    assert speed(rate) == shown


def on_terminal(source: str, columns: int, **environment: str) -> str:
    """What a Python program writes to a terminal so wide."""
    main, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "RANK")}
    known |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | environment
    process = subprocess.Popen([sys.executable, "-c", source], stdin=its, stdout=its, stderr=its, env=known)
    os.close(its)
    written = b""
    try:
        while some := os.read(main, 65536):
            written += some
    except OSError:  # how Linux says that a terminal is closed
        pass
    os.close(main)
    assert process.wait() == 0, written
    return written.decode()


def test_a_stage_is_one_line_of_80_columns():
    text = on_terminal(STAGES, 80)
    assert "\x1b[1A" not in text, "a live view of several lines"
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain)]
    assert max(map(len, lines)) <= 80
    trained, certified = ([line for line in lines if line.startswith(stage)][-1] for stage in ("train ", "certified"))
    assert re.search(r"1000000/1000000 +[\d,.]+/s 0:00:0\d █▄\S+▁ loss 0.0123$", trained), trained
    assert "20/20" in certified and certified.endswith("…")
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", text)


def test_no_color_is_respected_and_without_a_terminal_there_are_no_escapes():
    assert not re.search(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|9[0-7])[;m]", on_terminal(STAGES, 80, NO_COLOR="1"))
    done = subprocess.run([sys.executable, "-c", STAGES], capture_output=True, text=True, check=True)
    assert done.stdout == "" and "\x1b" not in done.stderr


@pytest.mark.parametrize(("words", "quiet"), [(["--quiet", "seed=1"], True), (["seed=1"], False)])
def test_a_quiet_run_prints_warnings_alone_and_logs_all(words, quiet, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "quiet_progress", None)
    assert heed_quiet(words) == ["seed=1"] and console.quiet_progress is quiet
    before = logging.root.handlers[:], logging.getLogger("bdiff").level
    setup_logging(tmp_path / "run.log", logging.INFO)
    log = logging.getLogger("bdiff.test")
    log.info("some progress")
    log.warning("a warning")
    said, kept = capsys.readouterr().err, (tmp_path / "run.log").read_text()
    logging.root.handlers[:] = before[0]
    logging.getLogger("bdiff").setLevel(before[1])
    assert "a warning" in said and ("some progress" in said) is not quiet
    assert "a warning" in kept and "some progress" in kept
