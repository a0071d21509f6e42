"""A function of tensors, recorded once as a CUDA graph and then replayed: one launch instead of hundreds."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Work = Callable[[], Any]

# Calls before the recording. Compilers, cuBLAS and the optimiser set themselves up in the first ones, which
# allocates and waits, and a recording may do neither.
REHEARSALS = 3


class Recorder(Protocol):
    """How work without arguments is recorded; the tests have one that needs no GPU."""

    def rehearse(self, work: Work) -> Any:
        """Do the work once, under the conditions of a recording."""
        ...

    def record(self, work: Work) -> Work:
        """Return what repeats the work on the same memory; it has not been done yet."""
        ...


class Graphs:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        # One stream for rehearsals and recording: autograd remembers the stream that a gradient was first
        # accumulated on and waits for it, and a recording may only wait for itself.
        self.stream = torch.cuda.Stream(device)

    def rehearse(self, work: Work) -> Any:
        """Do the work once, on the stream of the recording."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = work()
        current.wait_stream(self.stream)
        return outputs

    def record(self, work: Work) -> Work:
        """Record the work; what it returns lies in the memory of the graph."""
        graph = torch.cuda.CUDAGraph()
        # The outer context leaves the stream even where a recording that failed does not.
        with torch.cuda.stream(self.stream), torch.cuda.graph(graph, stream=self.stream):
            outputs = work()

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay


class Captured:
    """A function of tensors (or dicts of them) that is recorded after a few calls, and replayed from then on.

    The recording keeps the addresses of everything else that the function reads or writes, and the value of
    every Python number: whoever replaces such a tensor calls `forget`. Random numbers come in as arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        say: Callable[[str], None],
        what: str,
        recorder: Recorder | None = None,
    ) -> None:
        self.function, self.device, self.say, self.what = function, device, say, what
        self.recorder: Recorder | None = recorder or Graphs(device)
        self.forget()

    @property
    def recorded(self) -> bool:
        """Whether calls are replayed."""
        return self._replay is not None

    def forget(self) -> None:
        """Throw the recording away; the next calls rehearse and record anew."""
        self._kind: Any = None
        self._inputs: list[Tensor] = []
        self._rehearsed, self._replay = 0, None

    def __call__(self, *args: Any) -> Any:
        """Run the function; what it returns is the caller's to keep."""
        if self.recorder is None:
            return self.function(*args)
        leaves, layout = pytree.tree_flatten(args)
        kind = (layout, [(leaf.shape, leaf.dtype) for leaf in leaves])
        if kind != self._kind:  # other shapes need another recording
            self.forget()
            self._kind = kind
            self._inputs = [torch.empty_like(leaf, device=self.device) for leaf in leaves]
        # Rehearsals read the same memory as the recording, so that nothing compiles a second time for it.
        _copy(self._inputs, leaves)
        if self._replay is None and self._rehearsed < REHEARSALS:
            self._rehearsed += 1
            return self.recorder.rehearse(self._work)
        if self._replay is None:
            try:
                self._replay = self.recorder.record(self._work)
            except RuntimeError as error:
                return self._give_up(error)
        return _copies(self._replay())

    def _work(self) -> Any:
        return self.function(*pytree.tree_unflatten(self._inputs, self._kind[0]))

    def _give_up(self, error: BaseException) -> Any:
        # The end of a recording complains about what broke it, and hides it.
        while error.__context__ is not None:
            error = error.__context__
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.say(
            f"{self.what} is launched piece by piece and slower: it cannot be captured ({reason})\n"
            "  fix: agent.capture=false to keep it so without a notice"
        )
        outputs = self._work()  # nothing was done yet: recording does not execute
        self.recorder = None
        self.forget()
        return outputs


def capture(
    function: Callable[..., Any], device: torch.device, say: Callable[[str], None], what: str, *, wanted: bool
) -> Callable[..., Any]:
    """Capture a function if that is wanted and there is a GPU to do so; else return it as it is."""
    return Captured(function, device, say, what) if wanted and device.type == "cuda" else function


def _copies(outputs: Any) -> Any:
    """Copy what the next replay will overwrite."""
    if outputs is None:
        return None
    leaves, layout = pytree.tree_flatten(outputs)
    copies = [torch.empty_like(leaf) for leaf in leaves]
    _copy(copies, leaves)
    return pytree.tree_unflatten(copies, layout)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors into others of the same shapes and types, in one launch per type on one device."""
    for dtype in {target.dtype for target in targets}:
        pairs = [(t, s) for t, s in zip(targets, sources, strict=True) if t.dtype == dtype]
        into, origin = map(list, zip(*pairs, strict=True))
        torch._foreach_copy_(into, origin, non_blocking=True)  # pyright: ignore[reportPrivateImportUsage]
