"""Without a compiler, or with a broken one, the update runs as it is and says so once."""

import torch

from agents.compiling import Compiled


def test_a_machine_without_a_compiler_runs_the_plain_function_with_one_notice(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = []
    double = Compiled(lambda x: 2 * x, torch.device("cpu"), said.append, "it")
    assert [double(3), double(4)] == [6, 8]
    assert len(said) == 1
    assert "no-such-compiler" in said[0]
    assert "agent.compile=false" in said[0]


def test_a_compilation_that_fails_falls_back_but_an_error_of_the_function_does_not_hide(monkeypatch):
    from torch._inductor.exc import InductorError

    def broken(*_):
        raise InductorError(RuntimeError("Python.h: no such file"), None)

    monkeypatch.setattr("agents.compiling.missing_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    said = []
    double = Compiled(lambda x: 2 * x, torch.device("cpu"), said.append, "it")
    assert [double(3), double(4)] == [6, 8]
    assert "Python.h" in said[-1]

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    wrong = Compiled(lambda x: 1 / x, torch.device("cpu"), said.append, "it")
    try:
        wrong(0)
    except ZeroDivisionError:
        return
    raise AssertionError("an error of the function itself must reach the caller")
