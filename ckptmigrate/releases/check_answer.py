"""The answer of a prediction of whether a job can resume."""

from __future__ import annotations

from enum import Enum


class CheckAnswer(str, Enum):
    """The answer of a prediction.

    conditional: it can resume if the job has what the checkpoint does not contain. unknown: it
    depends on something that is not known. likely: what decides it is read from a source and was
    not measured.
    """

    YES = "yes"
    CONDITIONAL = "conditional"
    UNKNOWN = "unknown"
    LIKELY = "likely"
    NO = "no"
