"""The Fréchet distance (Heusel et al. 2017), one file per feature extractor."""
