"""torch.compile where the machine can, and plain PyTorch with one notice where it cannot.

A compiler can be wrong without a word: torch 2.13 gets the gradient through a flipped slice wrong on CPUs.
What learns is therefore compared with the plain function once, before it is trusted.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def missing_compiler(device: torch.device) -> str | None:
    """Say why the update cannot be compiled here, or None."""
    if device.type != "cpu":
        return None  # on a GPU the compiler comes with torch
    asked = os.environ.get("CXX")
    if any(shutil.which(name) for name in ([asked] if asked else ["g++", "clang++"])):
        return None
    return f"there is no C++ compiler ({asked or 'g++'})"


def wrong_gradients(
    plain: Callable[..., Any],
    compiled: Callable[..., Any],
    args: Sequence[Any],
    modules: Sequence[nn.Module],
    tolerance: float = 0.01,
) -> str | None:
    """Compare the gradients of both functions' first result for the weights: None, or what differs.

    `tolerance` is relative to a weight's gradient, or to a hundredth of all if its own is smaller.

    The weights are shaken for it (fresh ones have zeros that hide errors), and everything is put back. With
    dropout there is nothing to compare: compiled, it draws other random numbers.
    """
    if any(isinstance(part, nn.Dropout) and part.p > 0 for module in modules for part in module.modules()):
        return None
    named = [pair for module in modules for pair in module.named_parameters() if pair[1].requires_grad]
    weights = [weight for _, weight in named]
    touched: list[Tensor] = [*weights, *(b for module in modules for b in module.buffers())]
    kept = [tensor.detach().clone() for tensor in touched]
    generator = torch.Generator(weights[0].device).manual_seed(0)
    gradients = []
    try:
        with torch.no_grad():
            for weight in weights:
                weight += 0.05 * torch.randn(weight.shape, generator=generator, device=weight.device)
        for function in (plain, compiled):
            gradients.append(torch.autograd.grad(function(*args)[0], weights, allow_unused=True))
    finally:
        with torch.no_grad():
            for tensor, before in zip(touched, kept, strict=True):
                tensor.copy_(before)
    least = 0.01 * torch.stack([g.norm() for g in gradients[0] if g is not None]).norm()
    for (name, _), true, ours in zip(named, *gradients, strict=True):
        if true is None or ours is None:
            wrong = true is not ours
        else:
            wrong = bool((true - ours).norm() > tolerance * torch.maximum(true.norm(), least))
        if wrong:
            return f"torch {torch.__version__} compiles the gradient of {name} wrongly"
    return None


class Compiled:
    """A function that compiles itself on its first call, and stays as it is if that fails.

    With `learns`, modules that descend on its first result, wrong gradients are a failure too; `tolerance`
    says how much rounding may move them.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        say: Callable[[str], None],
        what: str,
        learns: Sequence[nn.Module] = (),
        tolerance: Callable[[], float] = lambda: 0.01,
    ) -> None:
        self.plain, self.say, self.what, self.learns = function, say, what, learns
        self.device, self.run, self.tolerance = device, function, tolerance
        self.tried = False
        self.reason = missing_compiler(device)

    def __call__(self, *args: Any) -> Any:
        """Run the function."""
        if not self.tried:
            return self._first(*args)
        return self.run(*args)

    def _first(self, *args: Any) -> Any:
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._functorch import config as functorch
        from torch._inductor.exc import InductorError

        self.tried, fix = True, "apt-get install g++ python3-dev"
        if self.reason is None:
            self.say(f"compiling {self.what}: a minute or two the first time, seconds after that")
            # Some 200 kernels called from C++ instead of Python: a planned decision takes 4.2 ms, not 5.9.
            # What calls them is compiled apart and hardly optimised: g++ takes half as long.
            on_cpu = {"cpp_wrapper": True, "cpp_wrapper_build_separate": True}
            options: Any = on_cpu if self.device.type == "cpu" else None
            self.run = torch.compile(self.plain, fullgraph=True, dynamic=False, options=options)
            try:
                # Else it keeps masks of activations beside what they come from, and reads and writes them one
                # by one: an update takes 0.7 of 18 ms longer.
                with warnings.catch_warnings(), functorch.patch(recompute_views=True):
                    warnings.simplefilter("ignore", FutureWarning)  # torch's remarks on its own insides
                    if self.learns:
                        learns, tolerance = self.learns, self.tolerance()
                        self.reason = wrong_gradients(self.plain, self.run, args, learns, tolerance)
                    if self.reason is None:
                        return self.run(*args)
                fix = "install another version of torch"
            except (BackendCompilerFailed, InductorError) as error:
                self.reason = str(error).strip().splitlines()[0]
        self.say(
            f"{self.what} runs uncompiled and slower: {self.reason}\n"
            f"  fix: {fix}, or agent.compile=false to keep it so without a notice"
        )
        self.run = self.plain
        return self.run(*args)
