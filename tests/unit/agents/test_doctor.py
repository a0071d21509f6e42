"""The doctor: every problem is found, named and comes with its fix."""

import shutil
from collections import namedtuple

import pytest

from agents import doctor as subject
from agents.doctor import Doctor, Finding, doctor


def levels(findings):
    return {finding.level for finding in findings}


def test_this_machine_has_every_dependency_within_bounds():
    assert "FAIL" not in levels(subject.check_versions())


def test_a_missing_dependency_fails_and_an_untested_version_warns(monkeypatch):
    monkeypatch.setattr(subject, "requirements", lambda: ["no-such-package-xyz>=1", "numpy<1", "pytest"])
    found = {finding.level: finding for finding in subject.check_versions()}
    assert "no-such-package-xyz is not installed" in found["FAIL"].text
    assert "outside the tested <1" in found["WARN"].text
    assert found["FAIL"].fix.startswith("pip install")


def test_another_owner_of_our_package_names_is_found(monkeypatch):
    monkeypatch.setattr(subject, "owners_of", lambda name: ["openai-agents"] if name == "agents" else [])
    (finding,) = subject.check_clashes()
    assert finding.level == "WARN"
    assert "pip uninstall openai-agents" in finding.fix


@pytest.mark.parametrize(("free", "level"), [(0.1, "FAIL"), (2.0, "WARN"), (50.0, "OK")])
def test_little_disk_space_is_told(free, level, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")(100 * 2**30, 0, int(free * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert next(subject.check_disk(tmp_path / "not" / "yet")).level == level


def test_a_folder_that_cannot_be_written_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(subject.os, "access", lambda place, mode: False)
    assert levels(subject.check_disk(tmp_path)) == {"FAIL"}


def test_no_rendering_is_a_warning_because_state_tasks_train_without_it(monkeypatch):
    import envs.render

    def choose():
        raise RuntimeError("no EGL here")

    monkeypatch.setattr(envs.render, "choose_backend", choose)
    (finding,) = subject.check_rendering()
    assert finding.level == "WARN"
    assert "no EGL here" in finding.text


def test_no_compiler_is_a_warning(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert levels(subject.check_compiler()) == {"WARN"}


@pytest.mark.parametrize(("level", "code"), [("OK", 0), ("WARN", 0), ("FAIL", 1)])
def test_only_a_failure_changes_the_exit_code(level, code, monkeypatch, capsys, tmp_path):
    for name in [name for name in vars(subject) if name.startswith("check_")]:
        monkeypatch.setattr(subject, name, lambda *args: iter([Finding(level, "text", "mend it")]))
    assert doctor(Doctor(tmp_path)) == code
    assert "fix: mend it" in capsys.readouterr().out
