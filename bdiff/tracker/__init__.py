"""Trackers: where a run's numbers go beside its own folder, which never depends on them. Progress bars and logs are in
common/ and launch/. Start at none.py, which says what a tracker can do; then wandb.py.
"""
