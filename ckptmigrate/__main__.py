"""The entry point of `ckptmigrate` and `python -m ckptmigrate`."""

from __future__ import annotations

import sys

from ckptmigrate import search_path


def main() -> None:
    """Run the command line; exit without a traceback on Ctrl-C, also during its import."""
    try:
        sys.path[:] = search_path.trusted()
        from ckptmigrate import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
