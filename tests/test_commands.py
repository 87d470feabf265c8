"""Commands to paste: right in bash, zsh, fish and dash, in a script and as one types them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptmigrate.text.commands import filled, shell

# As people have them: with -i, history and aliases are on where the shell has them.
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile"],
    "bash -i": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f"],
    "zsh -i": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config"],
    "fish -i": ["fish", "--no-config", "-i"],
    "dash": ["dash"],
    "dash -i": ["dash", "-i"],
}
# Text that some shell reads as more than itself.
PIECES = [
    *("'", '"', "\\", "\\\\", "!", "!!", "!a", "$", "$x", "$(touch X)", "`touch X`", ";", "&", "|"),
    *(
        ";touch X;#",
        "<",
        ">",
        "(",
        ")",
        "{a,b}",
        "{",
        "}",
        "*",
        "?",
        "[a]",
        "~",
        "=",
        "=ls",
        "%self",
    ),
    *(
        "^",
        "^a^b",
        "#",
        " ",
        "-",
        "--",
        "a",
        "b=c",
        ":",
        "@",
        "+",
        "%",
        "n",
        "x41",
        "\u00fc",
        "\u4e2d",
    ),
]
WORDS = [
    *PIECES,
    *(first + second for first in PIECES for second in PIECES),
    *(f"{quote}{piece}{quote}" for piece in PIECES for quote in ("'", '"', "\\", "a")),
    "it's \\'both\\\\' and !more\\",
]
NOT_PRINTABLE = (
    "t\t';touch X;#",
    "new\nline",
    "\n",
    "\ttouch X",
    "esc\x1b[31m\x07'\\",
    "bidi\u202e\u2066x",
    os.fsdecode(b"bytes\xff\xfe;touch X"),
    "'\n'touch X\n'",
    "**\x01**",
)


def pasted(name: str, text: str, place: Path) -> subprocess.CompletedProcess[bytes]:
    """Have a shell read text, line by line, from where it reads what is typed."""
    environment = {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "HISTFILE": "",
        "PS1": "",
        "PS2": "",
        "HOME": str(place),
    }
    return subprocess.run(
        SHELLS[name], input=f"{text}\n".encode(), cwd=place, env=environment, capture_output=True,
        check=False, timeout=60,
    )  # fmt: skip


def words_in(name: str, words: list[str], place: Path) -> list[str]:
    """Return the words that a command has in a shell."""
    program = place / "say"
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> said\n')
    program.chmod(0o755)
    lines = [shell(program, *words[n : n + 50]) for n in range(0, len(words), 50)]
    assert not any("\n" in line for line in lines)
    pasted(name, "\n".join(lines), place)
    said = place / "said"
    found = said.read_bytes().decode().split("\0")[:-1] if said.exists() else []
    said.unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("name", SHELLS)
def test_words_are_what_they_were(name: str, tmp_path: Path) -> None:
    assert words_in(name, WORDS, tmp_path) == WORDS
    assert not (tmp_path / "X").exists()


@pytest.mark.parametrize("name", ["bash -i", "zsh", "fish", "dash"])
@settings(
    max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(words=st.lists(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20)), min_size=400,
                      max_size=400))  # fmt: skip
def test_any_words(name: str, words: list[str], tmp_path: Path) -> None:
    assert words_in(name, words, tmp_path) == words


def test_history_is_expanded_in_the_shells_that_have_it(tmp_path: Path) -> None:
    """What is not quoted would be: the test above sees what a user sees."""
    for name in ("bash -i", "zsh -i"):
        found = pasted(name, 'echo one\necho "!!"', tmp_path)
        assert b"echo one" in found.stdout, (name, found)


@pytest.mark.parametrize("shell_name", SHELLS)
@pytest.mark.parametrize("name", NOT_PRINTABLE)
def test_a_name_that_cannot_be_printed_is_no_command(
    name: str, shell_name: str, tmp_path: Path
) -> None:
    target = tmp_path / name
    target.mkdir()
    (tmp_path / "decoy").mkdir()
    line = shell("rmdir", target)
    assert line.isprintable()
    pasted(shell_name, line, tmp_path)
    assert target.is_dir()
    assert (tmp_path / "decoy").is_dir()
    assert not (tmp_path / "X").exists()
    # The glob that it ends with finds the name, and removes it once somebody says so.
    pasted(shell_name, f"rmdir {line.rpartition(' run rmdir ')[2]}", tmp_path)
    assert not target.exists()
    assert not (tmp_path / "X").exists()


def test_a_file_to_read(tmp_path: Path) -> None:
    odd = tmp_path / "it's; touch X"
    odd.write_text("read")
    for name in SHELLS:
        assert pasted(name, shell("cat", "-", stdin=odd), tmp_path).stdout.endswith(b"read"), name
    assert shell("cat", stdin="a\tb") == (
        "# 'a\\tb' is not printable: check what the glob matches, then run cat < a*b"
    )


def test_commands_in_a_text() -> None:
    text = "run `ckptmigrate check {path} --strict`, or the job with --load {path}; `ls` too"
    assert filled(text, "/a b/{path}") == (
        "run `ckptmigrate check '/a b/{path}' --strict`, or the job with --load '/a b/{path}'; "
        "`ls` too"
    )
    assert filled("`verify {path}/non_persistent --all`", "/a\tb") == (
        "`# '/a\\tb/non_persistent' is not printable: check what the glob matches, "
        "then run verify /a*b/non_persistent --all`"
    )
