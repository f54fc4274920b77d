"""What outlives a process: artifacts by key, the ledger of sweeps, results as JSON, and what made each. What an
artifact means is known to pipeline/ alone. Start at artifacts.py.
"""
