"""The command: `ckptmigrate`, and `python -m ckptmigrate`."""

from __future__ import annotations

import sys

from ckptmigrate import search_path


def main() -> None:
    """Run the command line; Ctrl-C while that is still being imported ends quietly, too."""
    try:
        sys.path[:] = search_path.trusted()
        from ckptmigrate import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
