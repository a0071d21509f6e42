"""Promises are tested on the small finished run that the commands are tested on."""

from tests.e2e.conftest import copied, finished, tell

__all__ = ["copied", "finished", "tell"]
