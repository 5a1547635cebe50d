"""The program `ornstein`: runs the command line and turns a mistake into one line that says what to do."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Exit codes: 0 done; 1 a check came out different; 2 a mistake that the caller can mend; 130 interrupted."""
    from ornstein.cli import app
    from ornstein.core.errors import OrnsteinError

    try:
        app(prog_name="ornstein")
    except OrnsteinError as error:
        _fail(error.what, error.remedy)
    except BrokenPipeError:  # the reader went away, as in `ornstein methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.filename is None:
            raise  # not about a path of the caller's: a bug deserves its traceback
        _fail(f"{error.filename}: {error.strerror}", "Check the path and its permissions.")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _fail(what: str, remedy: str) -> None:
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(("error: ", "bold red"), what.rstrip(".") + ".", *([" ", (remedy, "cyan")] if remedy else []))
    Console(stderr=True, soft_wrap=True).print(line)
    sys.exit(2)


if __name__ == "__main__":
    main()
