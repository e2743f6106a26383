"""Old name of `galflow_lite.data`; goes when no notebook uses it any more."""

from .data import *  # noqa: F403
