"""`bdiff doctor`: what is on this machine, what is not, and whether a run would work."""
