"""Small torch-free helpers on pictures, for triggers, targets and data alike. The pictures themselves are drawn in
trigger/ and target/, and figures of runs in report/. Start at draw.py.
"""
