"""Datasets: one function and one conf/data/<name>.yaml each; what they return is `base.Images`."""
