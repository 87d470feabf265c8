"""The environment that Megatron requires: a process group, here of one rank, and a GPU."""

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Start the process group and end it; without a GPU, replace the calls that wait for one."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # idle OpenMP threads do not survive a fork
    import torch.distributed

    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_: None
        torch.cuda.current_device = lambda: "cpu"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        yield
        torch.distributed.destroy_process_group()
