"""Piecewise flows: one flow on each cluster of the data, one density for all."""

from .clustering import Clustering, choose_clusters
from .pieces import PiecewiseHistory
from .piecewise_flow import PiecewiseFlow

__all__ = ["Clustering", "PiecewiseFlow", "PiecewiseHistory", "choose_clusters"]
