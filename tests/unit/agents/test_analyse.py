"""Networks are held against the theory, and models against channels of noise."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from agents import noise, theory
from agents.analyse import Analyse, analyse, main
from agents.dependence import Part, parts_of, share
from agents.evidence import RunRecord
from envs import make
from worldmodel.linear import Feature

QUICK = (Feature(1.0, 0.7), Feature(0.85, 0.9))


@pytest.mark.parametrize("answer", ["latent", "input"])
def test_the_objective_followed_exactly_is_the_theory(answer):
    flow = theory.by_flow(QUICK, 2, 0.02, answer)
    assert flow.error < 1e-5
    assert theory.by_matrices(QUICK, 2, 0.02, answer).error < 1e-9
    assert flow.strengths[-1].min() > 0.3  # or nothing would have been learned
    ends = [f.rho ** (2 if answer == "latent" else 2 / 3) for f in QUICK]
    half = [float(flow.times[int((flow.strengths[:, k] >= 0.5 * ends[k]).int().argmax())]) for k in (0, 1)]
    assert theory.observed_order(flow, QUICK) == ([0, 1] if half[0] <= half[1] else [1, 0])


def test_a_network_that_does_not_learn_is_not_the_theory(monkeypatch):
    real = theory.network

    def deaf(*words):
        objective, batch, basis = real(*words)
        return objective, batch | {"state": torch.zeros_like(batch["state"])}, basis

    monkeypatch.setattr(theory, "network", deaf)
    assert theory.by_flow(QUICK, 1, 0.05, "latent").error > 0.3


def test_depth_turns_the_order_where_the_specification_says():
    turns = theory.turning_points(Feature(1.0, 0.4), Feature(0.85, 0.9), (1e-2, 1e-3, 1e-4), 8)
    assert [turns[f"latent {start}"]["turns_at"] for start in ("0.01", "0.001", "0.0001")] == [2, 3, 4]
    assert all(turns[f"input {start}"]["turns_at"] is None for start in ("0.01", "0.001", "0.0001"))
    assert len(turns["latent 0.01"]["ratios"]) == 3  # deeper, the noisy one would begin near its end


def test_the_command_writes_a_table_a_picture_and_rows(tmp_path, capsys):
    options = Analyse(depths=[1], start=0.1, cov=[1.0, 0.85], rho=[0.8, 0.9], sgd=False, out=tmp_path / "a")
    options.record = tmp_path / "rows.csv"
    assert analyse(options) == 0
    said = capsys.readouterr().out
    assert "differs from the theory" in said
    found = json.loads((tmp_path / "a" / "linear.json").read_text())
    assert {one["how"] for one in found["networks"]} == {"matrices", "flow"}
    assert max(one["error"] for one in found["networks"]) < 1e-3
    assert (tmp_path / "a" / "linear.png").stat().st_size > 10_000
    with options.record.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} >= {"error", "time_ratio@0.1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cov=1,2,3"], "as many of both"),
        (["cov=1", "rho=0.5"], "at least two"),
        (["depths=0"], "depths from 1"),
        (["start=0.3", "depths=3"], "smaller start"),
        (["rho=0.4,1.5"], "rho above 1"),
        (["experiment=liner"], "linear"),
        (["experiment=distractors", "runs=/none/*"], "no run directory"),
    ],
)
def test_mistakes_are_named(words, said, tmp_path, capsys):
    assert main([*words, f"out={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class Blind(nn.Module):
    """Latents that see the first part alone, and the second a third as much."""

    def __init__(self):
        super().__init__()
        self.device = nn.Parameter(torch.zeros(()))

    def encode(self, obs):
        return torch.stack([3 * obs["a"][..., 0], obs["b"][..., 1]], -1)


def test_a_share_is_the_variance_that_a_part_brings():
    generator = torch.Generator().manual_seed(0)
    obs = {key: torch.randn(4000, 2, generator=generator) for key in "ab"}
    expected = {("a", 0): 0.9, ("a", 1): 0.0, ("b", 0): 0.0, ("b", 1): 0.1}
    for (key, entry), value in expected.items():
        part = Part("p", key, slice(entry, entry + 1))
        assert share(Blind(), obs, [part]) == pytest.approx(value, abs=0.04)
    everything = [Part("p", key, slice(0, 2)) for key in "ab"]
    assert share(Blind(), obs, everything) == pytest.approx(1.0, abs=0.05)


def test_parts_are_those_of_the_observation():
    spec = make("dmc", task="walker_walk", distractors=7).spec
    found = {part.name: (part.key, part.entries) for part in parts_of(spec)}
    assert found["distractors"] == ("distractors", slice(0, 7))
    assert found["height"][0] == "state"
    sizes = sum(e.stop - e.start for key, e in found.values() if key == "state")
    assert sizes == math.prod(spec.observation["state"].shape)


def test_noise_of_one_predictability_is_not_averaged_with_that_of_another(tmp_path):
    def judged(channels, memory, value):
        run = RunRecord(Path("run"), "env", 0, "", {}, "commit", "command")
        return noise.Judged(run, "JEPA", channels, memory, 100, {noise.METRIC: value})

    found = [judged(0, 0.0, 900.0), judged(200, 0.0, 800.0), judged(200, 0.0, 700.0), judged(200, 0.9, 90.0)]
    lines = list(noise.lines_of(found))
    assert [line.split()[1:] for line in lines[1:]] == [
        ["0", "0", "1", "900.000"],
        ["200", "0", "2", "750.000"],
        ["200", "0.9", "1", "90.000"],
    ]
    methods = [row["method"] for row in noise.rows_of(found)]
    assert methods == ["JEPA", "JEPA, memory 0", "JEPA, memory 0", "JEPA, memory 0.9"]
    noise.draw(found, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 5000
