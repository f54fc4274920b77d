"""Torch-free helpers for pictures, used by triggers, targets and data. The pictures themselves are drawn in trigger/
and target/, and figures of runs in report/. Start at draw.py.
"""
