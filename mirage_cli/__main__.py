"""``python -m mirage_cli`` is ``mirage``."""

import signal
import sys


def run() -> int:
    """Import the command line and run it; Ctrl-C and SIGTERM are no traceback, however early or late."""
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to clean up yet
    from mirage_cli.cli import main

    if listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt too, hence 130
    try:
        return main()
    finally:
        # All is written and said; Python only takes its leave.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(run())
