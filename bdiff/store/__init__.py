"""What outlives a process: artifacts by key, the ledger of sweeps, results as JSON, and their provenance. Only
pipeline/ knows what an artifact means. Start at artifacts.py.
"""
