"""Piecewise flows: one flow on each cluster of the data, one density for all."""

from .clustering import Clustering, choose_clusters
from .piecewise_flow import PiecewiseFlow

__all__ = ["Clustering", "PiecewiseFlow", "choose_clusters"]
