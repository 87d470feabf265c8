"""Lossless conversion of the distributed optimizer between sharding types.

Every type is read into one neutral form (`record`) and written from it. Planning reads the
checkpoint and yields the bytes of new data files; nothing here writes.
"""

from ckptmigrate.optimizer.comparison import Comparison, compare, read_size
from ckptmigrate.optimizer.description import (
    OptimizerSummary,
    describe,
    has_several_buckets,
    may_be_damaged,
)
from ckptmigrate.optimizer.meaning import diff, differ_in_type, without_optimizer
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
    "diff",
    "differ_in_type",
    "has_several_buckets",
    "is_convertible",
    "may_be_damaged",
    "pieces",
    "read_size",
    "without_optimizer",
]
