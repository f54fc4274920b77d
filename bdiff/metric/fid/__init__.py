"""The Fréchet distance (Heusel et al. 2017), one file per feature extractor; other metrics over the same features are
one folder up. Start at base.py; protocol.py has the protocols of papers.
"""
