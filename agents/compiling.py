"""torch.compile where the machine can, and plain PyTorch with one notice where it cannot."""

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch


def missing_compiler(device: torch.device) -> str | None:
    """Say why the update cannot be compiled here, or None."""
    if device.type != "cpu":
        return None  # on a GPU the compiler comes with torch
    asked = os.environ.get("CXX")
    if any(shutil.which(name) for name in ([asked] if asked else ["g++", "clang++"])):
        return None
    return f"there is no C++ compiler ({asked or 'g++'})"


class Compiled:
    """A function that compiles itself on its first call, and stays as it is if that fails."""

    def __init__(
        self, function: Callable[..., Any], device: torch.device, say: Callable[[str], None], what: str
    ) -> None:
        self.plain, self.say, self.what = function, say, what
        self.device, self.run = device, function
        self.tried = False
        self.reason = missing_compiler(device)

    def __call__(self, *args: Any) -> Any:
        """Run the function."""
        if not self.tried:
            return self._first(*args)
        return self.run(*args)

    def _first(self, *args: Any) -> Any:
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._inductor.exc import InductorError

        self.tried = True
        if self.reason is None:
            self.say(f"compiling {self.what}: a minute or two the first time, seconds after that")
            # Some 200 kernels called from C++ instead of Python: a planned decision takes 4.2 ms, not 5.9.
            options: Any = {"cpp_wrapper": True} if self.device.type == "cpu" else None
            self.run = torch.compile(self.plain, fullgraph=True, dynamic=False, options=options)
            try:
                with warnings.catch_warnings():  # torch's remarks on its own insides
                    warnings.simplefilter("ignore", FutureWarning)
                    return self.run(*args)
            except (BackendCompilerFailed, InductorError) as error:
                self.reason = str(error).strip().splitlines()[0]
        self.say(
            f"{self.what} runs uncompiled and slower: {self.reason}\n"
            "  fix: apt-get install g++ python3-dev, or agent.compile=false to keep it so without a notice"
        )
        self.run = self.plain
        return self.run(*args)
