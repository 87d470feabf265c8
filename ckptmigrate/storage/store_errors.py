"""Translation of the errors of object store libraries into one sentence.

botocore, google-auth and others have no common base class, but their class names have been stable
for years.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.places import Place, Url
from ckptmigrate.text.secrets import masked


@contextlib.contextmanager
def translated(place: Url, purpose: str = "use", missing: Place | None = None) -> Iterator[None]:
    """Translate the errors of a store library into a StoreError.

    Args:
        purpose: the attempted operation, a verb with the place as its object.
        missing: the place that does not exist, if different from `place`.

    Raises:
        StoreError: the store cannot be reached or refuses the request.
        FileNotFoundError, FileExistsError: with the place as the message.
    """
    try:
        yield
    except (StoreError, DamagedError):
        raise
    except FileExistsError as error:  # gcsfs: of any request that is refused with 412
        if purpose != "write":
            raise explained(error, place, purpose) from error
        raise
    except FileNotFoundError as error:
        if code_of(error) in ("NoSuchBucket", "NoSuchUpload"):
            raise explained(error, place, purpose) from error
        raise FileNotFoundError(str(missing or place)) from error
    except Exception as error:
        raise explained(error, place, purpose) from error


def says_denied(error: BaseException | None) -> bool:
    """Return whether an error is a denied permission."""
    return isinstance(error, PermissionError) or (error is not None and code_of(error) == "403")


def says_it_exists(error: Exception) -> bool:
    """Return whether a store refuses to overwrite an object."""
    refusals = ("PreconditionFailed", "ConditionalRequestConflict", "412")
    return isinstance(error, FileExistsError) or code_of(error) in refusals


# (problem, fix)
_CREDENTIALS: Final = (
    "cannot be reached without credentials",
    "set them where the library of the store reads them (AWS_PROFILE, "
    "GOOGLE_APPLICATION_CREDENTIALS, the configuration of fsspec or multi-storage-client)",
)
_UNREACHABLE: Final = (
    "cannot be reached",
    "check the endpoint (AWS_ENDPOINT_URL) and the network, then run the command again",
)
_DENIED: Final = (
    "no permission to {purpose} it",
    "use credentials (AWS_PROFILE) with that permission",
)
_BUSY: Final = ("is overloaded", "run the command again later")
_REFUSED: Final = (
    "is refused: the server reports a failed precondition",
    "check proxies between this host and the store, then run the command again",
)
_NO_BUCKET: Final = ("does not exist", "use a bucket that exists")
_NO_PROFILE: Final = ("cannot be reached", "set AWS_PROFILE to a configured profile")
_INCOMPLETE: Final = ("sends a response that lacks a required part", _REFUSED[1])
_ENDED: Final = ("was not written: another program ended its upload", "run the command again")
# Explanation -> class names and codes of errors.
_EXPLANATIONS: Final = {
    _NO_BUCKET: ("NoSuchBucket",),
    _CREDENTIALS: (
        "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
        "TokenRetrievalError", "DefaultCredentialsError", "RefreshError",
    ),
    _NO_PROFILE: ("ProfileNotFound",),
    _UNREACHABLE: (
        "EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError",
        "ReadTimeoutError", "ClientConnectorError", "ConnectionRefusedError", "TimeoutError",
    ),
    _BUSY: ("SlowDown", "ServiceUnavailable", "InternalError", "500", "503"),
    _DENIED: ("PermissionError", "403"),
    _ENDED: ("NoSuchUpload",),
    _REFUSED: ("PreconditionFailed", "PreconditionFailedError", "FileExistsError", "412"),
    _INCOMPLETE: ("KeyError",),
}  # fmt: skip
_BY_NAME: Final = {name: text for text, names in _EXPLANATIONS.items() for name in names}


def explained(error: BaseException, place: Url, purpose: str = "use") -> StoreError:
    causes = list(_causes(error))
    names = [code_of(error)] + [kind.__name__ for each in causes for kind in type(each).__mro__]
    what, fix = next(
        (_BY_NAME[name] for name in names if name in _BY_NAME),
        (
            "cannot be read or written",
            "check the URL and the configuration of the library of the store",
        ),
    )
    # For a missing bucket, name the bucket, not the object.
    about = place.root if "NoSuchBucket" in names else place
    what = what.format(purpose=purpose)
    return StoreError(f"{what} ({first_line(error)})", path=about, fix=fix)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def code_of(error: BaseException) -> str:
    """Return the server's error code of an error or of its first cause that has one."""
    for each in _causes(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):  # botocore
            return str(response.get("Error", {}).get("Code", ""))
        if type(each).__name__ == "HttpError":  # gcsfs
            return str(getattr(each, "code", ""))
        if type(each) is OSError and str(each).startswith("Forbidden: "):  # gcsfs, of 403
            return "403"
    return ""


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return masked(lines[0].rstrip(".")) if lines else type(error).__name__
