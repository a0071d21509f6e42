"""Claims hold where the numbers say so, fail where they do not, and say what was not run."""

import csv
import json

import pytest

from agents.claims import Claims as Options
from agents.claims import claims, read, report
from agents.cli import UserError
from agents.judging import CLAIMS, Evidence, Found, _two_sided

BY_NAME = {claim.name: claim for claim in CLAIMS}


def evidence(**variants):
    """Runs of objects by variant: a list of values, one per seed, for each metric."""
    found = []
    for variant, metrics in variants.items():
        for seed in range(len(next(iter(metrics.values())))):
            mine = {name: values[seed] for name, values in metrics.items()}
            found.append(Found(None, "objects", variant, seed, 10, mine))
    return Evidence(found)


@pytest.mark.parametrize(
    ("t", "freedom", "p"), [(4.3027, 2, 0.05), (2.0, 2, 0.1835), (2.2281, 10, 0.05), (0, 3, 1)]
)
def test_p_values_are_those_of_the_tables(t, freedom, p):
    assert _two_sided(t, freedom) == pytest.approx(p, abs=1e-4)


def test_equivariance_needs_a_gap_that_seeds_agree_on():
    judge = BY_NAME["C1"].judge
    sure = evidence(both={"action/mlp": [0.6, 0.62, 0.61]}, none={"action/mlp": [0.3, 0.31, 0.32]})
    assert judge(sure)[1]
    small = evidence(both={"action/mlp": [0.4, 0.41, 0.4]}, none={"action/mlp": [0.3, 0.31, 0.3]})
    assert not judge(small)[1]
    scattered = evidence(both={"action/mlp": [0.9, 0.3, 0.6]}, none={"action/mlp": [0.1, 0.5, 0.3]})
    assert not judge(scattered)[1]
    alone = evidence(both={"action/mlp": [0.9]}, none={"action/mlp": [0.1]})
    assert not judge(alone)[1]


def test_more_views_must_help_at_every_length():
    def curve(*values):
        return {f"class/belief@{k}": [v] for k, v in enumerate(values, start=1)}

    judge = BY_NAME["C3"].judge
    assert judge(evidence(both=curve(0.5, 0.55, 0.6, 0.61, 0.62)))[1]
    assert not judge(evidence(both=curve(0.5, 0.55, 0.54, 0.61, 0.62)))[1]
    assert not judge(evidence(both=curve(0.5, 0.505, 0.51, 0.515, 0.52)))[1]


def test_a_mean_that_beats_the_belief_is_mentioned():
    both = {"class/belief@5": [0.6], "class/mean@5": [0.7], "class/latent": [0.5]}
    told, holds = BY_NAME["C4"].judge(evidence(both=both))
    assert holds
    assert "the mean does better" in told


def write(folder, variant, seed, metrics):
    folder.mkdir(parents=True)
    found = {"variant": variant, "seed": seed, "updates": 5, "frames": 50, "metrics": metrics}
    (folder / "examination.json").write_text(json.dumps(found))
    about = {
        "env": "objects_t0",
        "seed": seed,
        "config_hash": variant,
        "config": {"data": {"kind": "objects"}},
        "code": {"commit": "abc"},
        "command": ["agents/pretrain.py", "experiment=objects"],
    }
    (folder / "run.json").write_text(json.dumps(about))


def test_finished_runs_become_a_table_rows_and_a_page(tmp_path, capsys):
    for seed in range(3):
        for variant, value in (("both", 0.6), ("none", 0.3)):
            metrics = {"action/mlp": value + seed / 100} | {f"path/both@{k}": 0.5 for k in (1, 2, 3, 5, 7)}
            write(tmp_path / "runs" / f"{variant}{seed}", variant, seed, metrics)
    lines = report(read(tmp_path / "runs"))
    assert lines[0] == "runs: objects/both ×3, objects/none ×3"
    assert "C1  actions make latents equivariant  [FAILS]" not in lines
    assert any(line.startswith("C1") and "holds" in line for line in lines)
    assert any("not run: objects untrained" in line or "not run: objects" in line for line in lines)
    rows = tmp_path / "claims.csv"
    for _ in range(2):  # the second time adds nothing
        assert claims(Options(str(tmp_path / "runs"), tmp_path / "page", rows)) == 0
    with rows.open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 36
    assert {row["command"] for row in table} == {"python -m agents.pretrain experiment=objects"}
    assert "0 new rows" in capsys.readouterr().out
    assert (tmp_path / "page" / "claims.png").stat().st_size > 10_000
    assert "C11" in (tmp_path / "page" / "claims.md").read_text()


def test_nothing_to_report_names_the_command_that_makes_something(tmp_path):
    with pytest.raises(UserError, match="no finished") as caught:
        claims(Options(str(tmp_path)))
    assert "agents.pretrain" in str(caught.value)
