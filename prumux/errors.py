"""One kind of error for everything a user can put right, and the guard that turns it into one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(ValueError):
    """A wrong argument, file or checkpoint; one line says what was wrong, what was expected and the remedy."""


def guard(main: Callable[[], None]) -> None:
    """Run an entry point; a :class:`UserError` becomes one line on stderr and exit code 2, an interrupt 130."""
    try:
        main()
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        raise SystemExit(130) from None
