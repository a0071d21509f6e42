"""Without a compiler, or with a broken one, the update runs as it is and says so once."""

import pytest
import torch
import torch._inductor.config  # it reads CXX when it is imported

from agents.compiling import Compiled, wrong_gradients
from worldmodel.heads import Bins


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


def test_a_compiler_with_wrong_gradients_is_found_out_and_nothing_is_left_changed(monkeypatch):
    monkeypatch.setattr("agents.compiling.missing_compiler", lambda device: None)
    layer = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(layer.weight)
    before = {name: value.clone() for name, value in layer.state_dict().items()}

    def loss(x):
        return layer(x).square().mean(), "the rest"

    def liar(x):
        return layer(x).detach().square().mean() + 0 * layer(x).mean(), "the rest"

    def honest(x):
        return loss(x)

    x = torch.randn(4, 3)
    for result, kept in ((honest, honest), (liar, loss)):
        monkeypatch.setattr(torch, "compile", lambda function, result=result, **_: result)
        said = []
        compiled = Compiled(loss, torch.device("cpu"), said.append, "it", [layer])
        assert torch.equal(compiled(x)[0], loss(x)[0])
        assert compiled.run is kept
        assert len(said) == (1 if kept is honest else 2)
    assert "gradient of weight" in said[-1]
    assert "another version of torch" in said[-1]
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_dropout_is_neither_compared_nor_drawn_from():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
    before = torch.get_rng_state()
    functions = [lambda: (layer(torch.ones(4, 3)).sum(),)] * 2
    assert wrong_gradients(*functions, (), [layer]) is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_expectation_over_bins_has_the_same_gradient_compiled():
    class Values(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits, self.bins = torch.nn.Parameter(torch.randn(8, 51)), Bins(51, limit=8.5)

        def forward(self):
            return (self.bins.mean(self.logits).sum(),)

    values = Values()
    compiled = torch.compile(values.forward, fullgraph=True, dynamic=False)
    assert wrong_gradients(values.forward, compiled, (), [values]) is None
