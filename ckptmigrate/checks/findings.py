"""The findings of `verify`, and the formatting of their texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checks.code import Severity
from ckptmigrate.checks.codes import CODES
from ckptmigrate.places import Place
from ckptmigrate.text.printable import printable

_LONGEST: Final = 200  # characters; longer texts from a checkpoint are cut


@dataclass(frozen=True)
class Finding:
    """One problem of a checkpoint or root.

    Attributes:
        code: a key of CODES.
        path: the checkpoint or root.
        what: a description with names and numbers.
        items: all affected keys, files or globals.
        options: options that `repair` needs in addition to those of the code.
        repair: the command that repairs it, or None.
        fix: a remedy that replaces that of the code, or None.
    """

    code: str
    path: Place
    what: str
    items: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    repair: str | None = None
    fix: str | None = None

    @property
    def severity(self) -> Severity:
        """The severity of its code."""
        return CODES[self.code].severity

    @property
    def remedy(self) -> str:
        """What to do, with the command if there is one."""
        return self.fix or CODES[self.code].remedy_for(self.path, self.repair)

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `verify --json`)."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "path": str(self.path),
            "what": self.what,
            "items": list(self.items),
            "meaning": CODES[self.code].meaning,
            "remedy": self.remedy,
        }


def finding(
    material: Material, code: str, what: str, *items: str, fix: str | None = None
) -> Finding:
    """Return a finding about a checkpoint."""
    return Finding(code, material.path, what, tuple(map(shown, items)), fix=fix)


def of_damage(material: Material) -> list[Finding]:
    """Return the findings about the parts of a checkpoint that cannot be read."""
    return [
        finding(material, each.code, each.what, *each.items, fix=each.fix)
        for each in material.damage
        if each.code is not None
    ]


def shown(text: str) -> str:
    """Return a text from a checkpoint, made printable and cut after _LONGEST characters."""
    return printable(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")
