"""Trackers: where a run's numbers go beside its own folder, which never depends on them."""
