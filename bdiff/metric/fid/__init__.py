"""The Fréchet distance (Heusel et al. 2017), one file per feature extractor; other measures over the same features lie
one folder up. Start at base.py; protocol.py names how papers take it.
"""
