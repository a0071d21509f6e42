"""One live line on a terminal, one plain line every few seconds elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any


class Progress:
    """Report frames, speed, time left, returns and memory; a monotonic clock keeps the time left sane."""

    def __init__(
        self,
        total: int,
        every_s: float = 10,
        mode: str = "auto",
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        budget: str = "frames",
    ) -> None:
        """Choose the form: auto (rich on a terminal, else plain), rich, plain or off; and what is counted."""
        self.total, self.every, self.clock, self.budget = total, every_s, clock, budget
        self.stream = stream or sys.stderr
        self.mode = ("rich" if self.stream.isatty() else "plain") if mode == "auto" else mode
        self._first: tuple[float, int, int] | None = None  # a resumed run starts in the middle
        self._mark: tuple[float, int, int] | None = None
        self._printed: float | None = None
        self._line = ""
        self._returns: dict[str, float] = {}  # the newest training episode's, the newest evaluation's
        self._live: Any = None

    def update(self, frames: int, updates: int) -> None:
        """Take the newest counters; prints only when a line is due."""
        if self.mode == "off":
            return
        now = self.clock()
        if self._first is None or self._mark is None or self._printed is None:
            self._first = self._mark = (now, frames, updates)
            self._printed = now
            return
        due = 0.25 if self.mode == "rich" else self.every
        if now - self._printed < due:
            return
        self._printed = now
        self._line = self._describe(now, frames, updates)
        if now - self._mark[0] > 30:  # speeds follow the last half minute or so
            self._mark = (now, frames, updates)
        self._show()

    def say(self, text: str) -> None:
        """Print a line of its own, above the live one."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def show(self, metrics: dict[str, float]) -> None:
        """Remember the newest returns; evaluations also get a line of their own."""
        if "eval/return" in metrics:
            self._returns["evaluated"] = metrics["eval/return"]
            if self.mode != "off":
                self.say(
                    f"evaluation: return {metrics['eval/return']:.1f} ± {metrics['eval/return_std']:.1f}"
                )
        else:
            self._returns["return"] = metrics["train/return"]

    def close(self) -> None:
        """Leave the last line on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _describe(self, now: float, frames: int, updates: int) -> str:
        assert self._mark is not None
        assert self._first is not None
        base = self._mark if now - self._mark[0] > 1 else self._first
        elapsed = max(now - base[0], 1e-9)
        speed, pace = (frames - base[1]) / elapsed, (updates - base[2]) / elapsed
        done, rate = (frames, speed) if self.budget == "frames" else (updates, pace)
        left = max(self.total - done, 0)
        parts = [
            f"{done:,}/{self.total:,} {self.budget} ({100 * min(done / max(self.total, 1), 1):.0f} %)",
            f"{speed:,.0f} frames/s",
            f"{pace:,.1f} updates/s",
            f"{_clock_face(left / rate) if rate > 0 else '?'} left",
        ]
        parts += [
            f"{name} {self._returns[name]:.1f}" for name in ("return", "evaluated") if name in self._returns
        ]
        return " · ".join([*parts, f"{_memory() / 2**30:.1f} GiB"])

    def _show(self) -> None:
        if self.mode == "plain":
            print(self._line, file=self.stream, flush=True)
            return
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            console = Console(file=self.stream, stderr=True)
            self._live = Live(
                console=console, auto_refresh=False, redirect_stdout=True, redirect_stderr=False
            )
            self._live.start()
        self._live.update(Text(self._line, no_wrap=True, overflow="ellipsis"), refresh=True)


@contextlib.contextmanager
def counting(every_s: float = 5.0) -> Iterator[Callable[[str, int], None]]:
    """Show how far work is, on one line of a terminal or now and then elsewhere: yields tell(what, n)."""
    live, last, shown = sys.stderr.isatty(), time.monotonic(), False

    def tell(what: str, count: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if now - last < (0.2 if live else every_s):
            return
        last, shown, text = now, True, f"{what}: {count:,}"
        print(f"\r\033[K{text}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if live and shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _clock_face(seconds: float) -> str:
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def _memory() -> int:
    import psutil

    return psutil.Process().memory_info().rss
