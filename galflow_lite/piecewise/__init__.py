"""Piecewise flows: cluster the data, then one flow for each cluster (arXiv:2305.02930)."""
