"""For code that builds models of ``HyenaOperator``: which modules it may compute around, and what layers share."""

from hyena_kernels.far_field import node_backend
from hyena_kernels.far_field_plan import Plan, evaluations
from hyena_kernels.filter_cache import Filters
from hyena_kernels.filter_layers import is_plain
from hyena_kernels.online_conv import Tiles
from hyena_kernels.positions import SharesPositions, one_set_of_positions
from hyena_kernels.step_graph import StepGraph

__all__ = [
    "Filters",
    "Plan",
    "SharesPositions",
    "StepGraph",
    "Tiles",
    "evaluations",
    "is_plain",
    "node_backend",
    "one_set_of_positions",
]
