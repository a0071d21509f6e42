"""The shell around every command: clear errors, exit codes, a quick `--help`, threads set before torch loads.

A command built on the configuration (train, bench) looks like this, with heavy imports inside the body:

    def main(argv: list[str] | None = None) -> int:
        return run_command("train", train, argv)                  # train(cfg: RunConfig) -> int | None

and a command with a few options of its own (evaluate, play, plot, doctor) declares them as a dataclass:

    @dataclass
    class Evaluate:
        run: str = option(text="run directory, checkpoint or 'last'")
        episodes: int = option(10, "episodes to play", low=1)

    def main(argv: list[str] | None = None) -> int:
        return run_command("evaluate", evaluate, argv, options=Evaluate)      # evaluate(options: Evaluate)

    if __name__ == "__main__":
        raise SystemExit(main())

Exit codes: 0 done · 1 bug (traceback) · 2 user mistake · 74 disk · 130 SIGINT · 143 SIGTERM.
JEPA_DEBUG=1 shows every traceback.
"""

import errno
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from agents.options import DiskError, UserError, describe_options, option, parse_options, suggest

__all__ = [
    "DiskError",
    "UserError",
    "guard_packages",
    "option",
    "parse_options",
    "run_command",
    "suggest",
]

Body = Callable[[Any], int | None]
OURS = ("agents", "configs", "envs", "worldmodel")
HELP = {"-h", "--help", "help"}
# Matched by name, so that reporting an error never imports torch or a simulator.
EXPECTED = {"envs.EnvError", "worldmodel.ModelError"}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_ERRORS = {*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def run_command(
    name: str,
    body: Body,
    argv: Sequence[str] | None = None,
    *,
    options: type | None = None,
    load: str = "load_config",
) -> int:
    """Parse argv (the configuration, or `options`), call `body` with the result and return the exit code.

    `load` names the function of agents.config that composes the configuration.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return _guarded(functools.partial(_dispatch, name, body, words, options, load))


def _dispatch(name: str, body: Body, words: list[str], options: type | None, load: str) -> int | None:
    if HELP & set(words):
        print(_help(name, body, options, load))
        return 0
    if "--version" in words:
        from agents import __version__

        print(f"jepa-agents {__version__}")
        return 0
    guard_packages()
    prepare_rendering()
    if options is not None:
        return body(parse_options(words, options))
    from agents import config as configuration

    config = getattr(configuration, load)([word for word in words if word != "--show-config"])
    if "--show-config" in words:
        print(configuration.to_yaml(config), end="")
        return 0
    asked = config.trainer if hasattr(config, "trainer") else config.learning
    prepare_threads(asked.threads)
    return body(config)


def _help(name: str, body: Body, options: type | None, load: str) -> str:
    if options is None:
        from agents.usage import help_text

        return help_text(name, load)
    about = (body.__doc__ or options.__doc__ or "").strip().splitlines()
    module = (sys.modules[body.__module__].__doc__ or "").strip().splitlines()
    examples = [line for line in module if line.strip().startswith("python -m agents.")]
    tail = ["", "examples:", *examples] if examples else []
    head = [f"usage: python -m agents.{name} [key=value …]", "", *about[:1], "", "options:"]
    return "\n".join([*head, *describe_options(options), *tail])


def prepare_threads(threads: int) -> None:
    """Set the thread variables that count only before torch is imported; what the user exported wins."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if threads == 1:
        # Several threads must spin: asleep between two small products they halve the speed (21 against 42
        # updates/s). Whoever has one thread has nobody to wait for, and a shared machine to be kind to.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare_rendering() -> None:
    """Import MuJoCo before TorchRL does, whose import ends in a traceback where MUJOCO_GL does not work."""
    asked = os.environ.get("MUJOCO_GL")
    if not asked:
        return
    os.environ["MUJOCO_GL"] = "disable"
    try:
        importlib.import_module("mujoco")
    finally:
        os.environ["MUJOCO_GL"] = asked  # what draws (envs.render) tries it out, and says what is wrong


def guard_packages() -> None:
    """Raise UserError where another installed distribution hides one of our four packages."""
    here = Path(__file__).resolve().parent.parent
    for name in OURS:
        spec = importlib.util.find_spec(name)
        places = list((spec and spec.submodule_search_locations) or [])
        if not places:
            raise UserError(f"there is no package {name} beside {here / 'agents'}", "pip install -e .")
        found = Path(places[0]).resolve()
        if found == here / name:
            continue
        owners = owners_of(name)
        who = f"the distribution {' and '.join(owners)}" if owners else "another folder on PYTHONPATH"
        fix = f"pip uninstall {owners[0]}" if owners else "unset PYTHONPATH"
        raise UserError(
            f"{name} comes from {found} ({who}), not from {here / name}",
            f"run from {here}, or use a virtual environment of its own, or {fix}",
        )


def owners_of(name: str) -> list[str]:
    """Return the installed distributions, other than ours, that own the top-level package `name`."""
    owners = importlib.metadata.packages_distributions().get(name, [])
    return sorted({owner for owner in owners if owner.lower().replace("_", "-") != "jepa-agents"})


def _guarded(run: Callable[[], int | None]) -> int:
    restore = _catch_sigterm()
    try:
        return run() or 0
    except KeyboardInterrupt as error:
        return _report(error, "interrupted", 130)
    except Exception as error:  # noqa: BLE001 - the one place where every error meets the user
        return 141 if isinstance(error, BrokenPipeError) and _nobody_reads() else _explain(error)
    finally:
        restore()


def _nobody_reads() -> bool:
    """Whether standard output was closed, as in `… | head`; what is left to flush then goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file at all, as in a notebook
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _catch_sigterm() -> Callable[[], object]:
    """Turn SIGTERM into SystemExit(143), so that `finally` blocks run; a loop may install its own handler."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = signal.signal(signal.SIGTERM, _terminate)
    return lambda: signal.signal(signal.SIGTERM, before)


def _terminate(signum: int, frame: Any) -> NoReturn:
    raise SystemExit(143)


def _explain(error: BaseException) -> int:
    for known in _causes(error):  # a collector may wrap the error of an environment
        if isinstance(known, UserError):
            return _report(known, str(known), known.exit_code)
        if _is_expected(known):
            return _report(known, str(known), 2)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        where = f": {error.filename}" if error.filename else ""
        fix = "free some space" if error.errno in FULL else "use a folder you can write to"
        text = f"{(error.strerror or 'no access').lower()}{where}\n  fix: {fix}, as in run.root=/path"
        return _report(error, text, DiskError.exit_code)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        text = f"a name of {len(str(error.filename)):,} characters is too long\n  fix: use a shorter one"
        return _report(error, text, 2)
    if isinstance(error, ModuleNotFoundError) and _not_installed(error):
        text = f"the Python package {error.name} is not installed\n  fix: pip install -c constraints.txt -e ."
        return _report(error, text, 2)
    traceback.print_exception(error)
    print("error: a bug in jepa-agents or in your own code; the traceback above says where", file=sys.stderr)
    return 1


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_expected(error: BaseException) -> bool:
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return not names.isdisjoint(EXPECTED)


def _not_installed(error: ModuleNotFoundError) -> bool:
    root = (error.name or "").partition(".")[0]
    return bool(root) and root not in OURS and importlib.util.find_spec(root) is None


def _report(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("JEPA_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    print(f"error: {message}", file=sys.stderr)
    return code
