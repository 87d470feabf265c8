"""Have a save keep the queue of its results in a fork, not in a new process that imports torch."""

from __future__ import annotations

import multiprocessing
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async


def _queue() -> Any:
    """As the function of Megatron, which starts the manager of the queue with "spawn"."""
    if filesystem_async._results_queue is None:
        manager = multiprocessing.get_context("fork").Manager()
        filesystem_async._results_queue = manager.Queue()
    return filesystem_async._results_queue


filesystem_async._get_write_results_queue = _queue
