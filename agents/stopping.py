"""SIGINT and SIGTERM ask a run to save and leave; a second one leaves at once."""

import signal
import sys
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopper:
    """A context in which the first signal sets a flag and the second raises; `stop()` reads the flag."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.impatient = False  # during work that cannot look at the flag (compilation), leave at once
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stopper":
        for number in EXIT_CODES:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __call__(self) -> bool:
        """Whether somebody asked to stop."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 without a signal."""
        return EXIT_CODES[self.received] if self.received else 0

    def _receive(self, number: int, _: FrameType | None) -> None:
        again = self.received is not None
        self.received = signal.Signals(number)
        if again or self.impatient:
            raise SystemExit(EXIT_CODES[self.received])
        print(
            f"\n{self.received.name}: saving, then leaving (once more to leave at once)",
            file=sys.stderr,
            flush=True,
        )
