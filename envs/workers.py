"""A child process that steps a group of simulators; it is `python -m envs.workers` and imports no torch."""

import faulthandler
import mmap
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from envs.group import Group, carve
from envs.spec import EnvError, Spec
from envs.wire import pack, unpack


def serve(channel: Connection, memory: int) -> None:
    """Obey the parent until it hangs up."""
    plan = unpack(channel.recv_bytes())
    arrays = carve(mmap.mmap(memory, plan["size"]), Spec.from_json(plan["spec"]), plan["num"])
    try:
        group = Group(plan["factory"], arrays, plan["first"], plan["count"])
        channel.send_bytes(pack({"ok": True}))
        while True:
            channel.send_bytes(pack(_obey(group, unpack(channel.recv_bytes()))))
    except EnvError as error:
        channel.send_bytes(pack({"error": str(error)}))
    except (EOFError, ConnectionError):
        return


def _obey(group: Group, order: dict[str, Any]) -> dict[str, Any]:
    verb = order["verb"]
    if verb == "step":
        return {"broken": {str(row): text for row, text in group.step().items()}}
    if verb == "begin":
        group.begin(order["rows"])
    elif verb == "snapshots":
        found = enumerate(group.snapshots())
        return {f"{i}/{key}": value for i, snapshot in found for key, value in snapshot.items()}
    elif verb == "restore":
        return {"warnings": group.restore(split_snapshots(order))}
    elif verb == "render":
        return {"image": group.render(order["row"], order["height"], order["width"], order["quality"])}
    return {"ok": True}


def split_snapshots(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Gather entries named `<number>/<key>` into one dict per number."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in message.items():
        number, slash, key = name.partition("/")
        if slash and number.isdigit():
            found.setdefault(int(number), {})[key] = value
    return [found[number] for number in sorted(found)]


def _die_with(parent: int) -> None:
    # A simulator that never returns does not notice that the channel closed.
    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(int(sys.argv[3]))
    code = 1
    try:
        serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
        code = 0
    except Exception:  # noqa: BLE001 - the parent shows whatever it was
        traceback.print_exc()
    finally:
        # Leaving at once: a broken simulator's own clean-up may hang.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
