"""Read botocore's data files once for many forks: the clients of a process share them."""

import asyncio
import functools

import botocore.session
from aiobotocore.session import AioSession

botocore.session.create_loader = functools.cache(botocore.session.create_loader)


async def _read() -> None:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    async with AioSession().create_client("s3", region_name="us-east-1", **keys):
        pass


asyncio.run(_read())
