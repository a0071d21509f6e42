"""R20: every command in a README is one that runs, and every link leads somewhere."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for path in ROOT.glob("**/*.md") if not {".venv", "runs"} & set(path.parts))
COMMAND = re.compile(r"python -m (agents\.\w+)([^`\n|]*)")


def commands():
    for path in DOCUMENTS:
        for module, words in COMMAND.findall(path.read_text(encoding="utf-8")):
            words = words.replace("entry=…", "entry=a:b").replace("…", "x").split("#")[0].rstrip(" .,;:)\"'")
            yield pytest.param(module, shlex.split(words), id=f"{path.parent.name}: {module} {words.strip()}")


@pytest.mark.parametrize(("module", "words"), [*commands()])
def test_every_command_is_one_that_can_be_run(module, words, monkeypatch, capsys):
    command = importlib.import_module(module)
    name = module.rpartition(".")[2]
    monkeypatch.setattr(command, name, lambda settings: None)  # what it would do is tested elsewhere
    assert command.main(words) == 0, capsys.readouterr().err


def test_there_are_commands_to_be_found():
    assert len([*commands()]) > 20


LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(path):
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
