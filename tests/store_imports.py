"""Import the libraries of object stores, and read what a client needs, once for many forks."""

import asyncio
import functools

import botocore.session
import s3fs.core  # noqa: F401
from aiobotocore.session import AioSession

# The sessions of a process share what botocore reads from its data files.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)


async def _read() -> None:
    session = AioSession()
    async with session.create_client("s3", region_name="us-east-1", aws_access_key_id="a",
                                     aws_secret_access_key="b"):  # fmt: skip
        pass


asyncio.run(_read())
