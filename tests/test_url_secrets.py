"""Secrets in URLs: a URL that may hold one is refused, and none is printed, stored or logged."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
from conftest import SAMPLES, Run

from ckptmigrate.errors import CkptMigrateError, StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage.store_errors import explained
from ckptmigrate.storage.urls import place
from ckptmigrate.text.secrets import masked

SECRETS = ("AKID", "S3CR3T", "T0K3N")
REFUSED = [
    "s3://AKID:S3CR3T/with/slash@bucket/x",
    "s3://AKID:S3CR3T@bucket/x",
    "s3://AKID:S3CR3T/x",
    "s3://AKID:12/S3CR3T?=/@bucket/x",
    "s3://AK:AKID@S3CR3T@bucket/x",
    "s3://T0K3N@bucket/x",
    "s3:///T0K3N@bucket/x",
    "s3://T0K3N%40bucket/x",
    "s3://AKID%3AS3CR3T%40bucket/x",
    "s3:/AKID:S3CR3T@bucket/x",
    "s3:T0K3N@bucket/x",
    "S3://T0K3N@bucket/x",
    "http://T0K3N@host/x",
    "http://AKID:S3CR3T/slash@host:80/x",
    "https://AKID:S3?CR=S3CR3T@host/x",
    "https:/T0K3N@host/x",
    "https://host/x?T0K3N",
    "https://host/x?sig/a=T0K3N",
    "gs://bucket/x?X-Goog-Signature=T0K3N",
    "abfs://AKID:S3CR3T@account/x",
    "abfs://files@account/x?sv=1&sig=T0K3N",
    "simplecache::s3://AKID:S3CR3T/a@bucket/x",
    "zip://run::https://T0K3N@host/a.zip",
    "s3://AK ID:S3CR3T@bucket/x",
    "file://AKID:S3CR3T@host/x",
]
TAKEN = [
    "s3://bucket/run@v2",
    "s3://bucket/a#2?b:c@d",
    "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/name/run",
    "abfs://files@account.dfs.core.windows.net/run",
    "http://[::1]:8080/run",
    "https://host:8443/run",
    "hdfs://node:9000/run",
    "msc://profile/run",
]
# What a URL may be written in place of, by mistake or not.
COMMANDS = [
    "inspect URL", "check URL --reader 0.13", "verify URL", "verify RUN --report URL",
    "diff RUN URL", "downgrade URL --to 0.13", "downgrade RUN --to 0.13 -o URL", "undo URL",
    "repair URL --in-place", "recover URL", "inspect RUN URL", "inspect RUN --json URL",
    "inspect RUN --ledger URL", "inspect RUN --scheduler URL", "inspect RUN --jobs URL",
    "inspect RUN --shard URL", "inspect RUN --reader URL", "URL RUN", "explain URL",
    "explain x URL", "matrix --html URL", "matrix --into URL", "matrix run --facts URL",
    "schema URL", "completion URL", "check RUN --reader URL", "downgrade RUN --to URL",
    "inspect RUN --x=URL", "-v inspect URL", "verify -v URL --json",
]  # fmt: skip


def shown(text: str) -> bool:
    return any(secret in text for secret in SECRETS)


@pytest.mark.parametrize("text", REFUSED)
def test_a_url_that_may_hold_a_secret_is_refused(text: str) -> None:
    with pytest.raises(StoreError) as caught:
        place(text)
    told = json.dumps(caught.value.as_json()) + str(caught.value)
    assert not shown(told), told
    assert caught.value.fix


@pytest.mark.parametrize("text", TAKEN)
def test_what_looks_like_one_and_is_none_is_taken(text: str) -> None:
    found = place(text)
    assert str(found) == text
    error = CkptMigrateError("is damaged", path=found, fix=f"run `ckptmigrate repair {text}`")
    assert str(error) == f"{text}: is damaged; run `ckptmigrate repair {text}`"


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_no_verb_prints_or_stores_one(number: int, run: Run, tmp_path: Path) -> None:
    # Each command with some of the URLs, so that every URL comes to a verb.
    urls = [url for url in REFUSED if " " not in url]
    for url in itertools.islice(itertools.cycle(urls), number, number + 4):
        words = COMMANDS[number].split()
        given = [
            word.replace("URL", url).replace("RUN", str(SAMPLES / "0.18.2-idle-w1"))
            for word in words
        ]
        result = run(*given)
        told = result.stdout + result.stderr
        assert not shown(told), told
        assert result.returncode
        assert "internal error" not in told
    stored = [item for item in tmp_path.rglob("*") if item.is_file()]
    assert not [item for item in stored if shown(str(item) + item.read_text())]


def test_what_a_library_says_is_masked() -> None:
    said = [
        'Could not connect to the endpoint URL: "http://AKID:S3CR3T/x@host:9000/bucket"',
        "403, message='Forbidden', url='https://host/x?X-Amz-Signature=T0K3N&X-Amz-Date=1'",
        "no such profile: s3:/T0K3N@bucket",
    ]
    for text in said:
        error = explained(OSError(text), Url("s3", "bucket/run"))
        assert not shown(str(error) + json.dumps(error.as_json())), str(error)


@pytest.mark.parametrize(
    "text",
    ["s3:" * 4000, "'s3:" * 3000, "@" + "'s3:" * 3000, "a://" * 3000, "s3://" + ":,@" * 3000,
     "s3://" + "%40" * 3000, "a" * 10_000, "?=" * 5000],
)  # fmt: skip
def test_masking_takes_a_time_in_proportion_to_the_text(text: str) -> None:
    start = time.process_time()
    masked(text)
    assert time.process_time() - start < 0.2
