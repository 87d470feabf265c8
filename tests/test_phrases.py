"""The phrase check of `make lint` finds what it has to find."""

from __future__ import annotations

from pathlib import Path

import phrases
import pytest


@pytest.mark.parametrize(
    ("text", "number", "phrase"),
    [
        ("The payload lies in a file.", 1, "lies in"),
        ("one\ntwo\nmetadata.json is no JSON object", 3, "is no J"),
        ('raise Error("the migration was taken "\n    f"back")', 1, None),
        ("# the checkpoint as\n# it lies", 1, None),
    ],
)
def test_a_banned_phrase_is_found(text: str, number: int, phrase: str | None) -> None:
    [(line, found, instead)] = phrases.found(text)
    assert line == number
    assert instead
    assert phrase in (None, found)


def test_plain_text_passes() -> None:
    plain = "There is no checkpoint. The key is not text, and the save is no longer running."
    assert not list(phrases.found(plain))


def test_the_command_fails_and_names_the_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("# Title\n\nThe root as it lies.\n")
    monkeypatch.setattr(phrases, "ROOT", tmp_path)
    assert phrases.main() == 1
    assert capsys.readouterr().out == "page.md:3: 'as it lies': write unmigrated\n"
