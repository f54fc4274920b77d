"""How runs are started: one job with its folder, log and tracker, or a sweep of jobs in separate processes. What a run
computes is in pipeline/. Start at job.py.
"""
