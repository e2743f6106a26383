"""Piecewise flows: one flow on each cluster of the data, one density for all."""

from .clustering import Clustering, choose_clusters
from .model import FLOWS, PiecewiseFlow
from .training import PiecewiseHistory

__all__ = ["FLOWS", "Clustering", "PiecewiseFlow", "PiecewiseHistory", "choose_clusters"]
