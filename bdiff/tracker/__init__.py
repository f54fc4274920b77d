"""Trackers: where a run's numbers go in addition to its folder, which never depends on them. Progress bars and logs are
in common/ and launch/. Start at none.py, which defines the interface; then wandb.py.
"""
