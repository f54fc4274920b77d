"""Input checks: each scores the starting noises of samples, the higher the likelier with a trigger. Start at disdet.py,
which asks no network; chain.py is the short sampler of those that do.
"""
