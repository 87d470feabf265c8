"""Lossless conversion of the distributed optimizer between sharding types.

Every type is read into one neutral form (`record`) and written from it. Planning reads the
checkpoint and yields the bytes of new data files; nothing here writes.
"""

from ckptmigrate.optimizer.comparison import Comparison, compare
from ckptmigrate.optimizer.description import OptimizerSummary, describe
from ckptmigrate.optimizer.performing import pieces
from ckptmigrate.optimizer.resharding import Conversion, convert
from ckptmigrate.optimizer.sharding_types import is_convertible
from ckptmigrate.optimizer.target import OptimizerTarget

__all__ = [
    "Comparison",
    "Conversion",
    "OptimizerSummary",
    "OptimizerTarget",
    "compare",
    "convert",
    "describe",
    "is_convertible",
    "pieces",
]
