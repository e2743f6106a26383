"""The former name of `galflow_lite.samplers`, which README's examples go by."""

import sys

from . import samplers
from .samplers import recipes

sys.modules[__name__] = samplers
sys.modules[f"{__name__}.recipes"] = recipes
