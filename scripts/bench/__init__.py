"""Benchmarks: each of bdiff's loops beside the bare network in the same precision, and beside what a user would run.

`timing.py` takes rates, in turn and within one process; `subject.py` has the networks; each loop has a file, whose
function returns a `Figures`. Yardsticks are what a user has without bdiff: the libraries' own loops and commands, and,
where there are none, the published loop over a network in fp32 with nothing cast, frozen or compiled.
"""
