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
            found.append(Found(None, "objects_t1", variant, seed, 10, mine))
    return Evidence(found)


@pytest.mark.parametrize(
    ("t", "freedom", "p"), [(4.3027, 2, 0.05), (2.0, 2, 0.1835), (2.2281, 10, 0.05), (0, 3, 1)]
)
def test_p_values_are_those_of_the_tables(t, freedom, p):
    assert _two_sided(t, freedom) == pytest.approx(p, abs=1e-4)


def test_equivariance_needs_a_gap_that_seeds_agree_on():
    judge = BY_NAME["C1"].judge
    sure = evidence(both={"action/mlp": [0.6, 0.62, 0.61]}, none={"action/mlp": [0.3, 0.31, 0.32]})
    assert judge(sure, "both")[1]
    small = evidence(both={"action/mlp": [0.4, 0.41, 0.4]}, none={"action/mlp": [0.3, 0.31, 0.3]})
    assert not judge(small, "both")[1]
    scattered = evidence(both={"action/mlp": [0.9, 0.3, 0.6]}, none={"action/mlp": [0.1, 0.5, 0.3]})
    assert not judge(scattered, "both")[1]
    alone = evidence(both={"action/mlp": [0.9]}, none={"action/mlp": [0.1]})
    assert not judge(alone, "both")[1]


def curve(*values):
    return {f"class/belief@{k}": [v] for k, v in enumerate(values, start=1)}


RISING = (0.5, 0.55, 0.6, 0.61, 0.62)


@pytest.mark.parametrize(
    ("ours", "floor", "holds"),
    [
        (RISING, (0.2, 0.3, 0.35, 0.4, 0.45), True),
        ((0.5, 0.55, 0.54, 0.61, 0.62), (0.2,) * 5, False),
        ((0.5, 0.505, 0.51, 0.515, 0.52), (0.2,) * 5, False),
        (RISING, (0.2, 0.3, 0.4, 0.5, 0.6), False),
    ],
    ids=["learned", "once lower", "hardly more", "a random encoder does as well"],
)
def test_more_views_must_help_at_every_length_and_more_than_they_help_a_random_encoder(ours, floor, holds):
    found = evidence(both=curve(*ours), untrained=curve(*floor))
    assert BY_NAME["C3"].judge(found, "both")[1] == holds
    assert BY_NAME["C3"].verdict(found)[1] == ("holds" if holds else "FAILS") + ", untrained fails"


def test_a_mean_that_beats_the_belief_is_mentioned():
    both = {"class/belief@5": [0.6], "class/mean@5": [0.7], "class/latent": [0.5]}
    random = {"class/belief@5": [0.3], "class/mean@5": [0.4], "class/latent": [0.2]}
    told, holds = BY_NAME["C4"].judge(evidence(both=both, untrained=random), "both")
    assert holds
    assert "the mean does better" in told


def test_a_control_that_satisfies_a_claim_is_called_out():
    found = evidence(
        both={"action/mlp": [0.6, 0.62, 0.61]},
        none={"action/mlp": [0.3, 0.31, 0.32]},
        untrained={"action/mlp": [0.1, 0.1, 0.1]},
        leaky={"action/mlp": [0.7, 0.71, 0.72]},
    )
    assert BY_NAME["C1"].verdict(found)[1] == "holds, untrained fails, leaky HOLDS TOO"


def write(folder, variant, seed, metrics, env="objects_t0"):
    folder.mkdir(parents=True)
    found = {"variant": variant, "seed": seed, "updates": 5, "frames": 50, "metrics": metrics}
    (folder / "examination.json").write_text(json.dumps(found))
    about = {
        "env": env,
        "seed": seed,
        "config_hash": variant,
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
    assert report(read(rows)) == lines  # what was recorded says the same as the runs
    with rows.open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 36
    assert {row["command"] for row in table} == {"python -m agents.pretrain experiment=objects"}
    assert "0 new rows" in capsys.readouterr().out
    assert (tmp_path / "page" / "claims.png").stat().st_size > 10_000
    assert "C11" in (tmp_path / "page" / "claims.md").read_text()


def test_two_tiers_are_not_one_experiment(tmp_path):
    for env in ("objects_t0", "objects_t1"):
        write(tmp_path / env / "both0", "both", 0, {"action/mlp": 0.5}, env=env)
    with pytest.raises(UserError, match="objects_t0, objects_t1") as caught:
        claims(Options(str(tmp_path)))
    assert f"runs={tmp_path}/objects_t0" in str(caught.value)
    assert claims(Options(str(tmp_path / "objects_t0"))) == 0


def test_a_variant_that_learned_in_two_ways_is_not_one_run_twice(tmp_path):
    for number in (0, 1):
        write(tmp_path / f"both{number}", "both", 0, {"action/mlp": 0.5})
    assert len(read(tmp_path)) == 2  # equal settings: learned anew, nothing else
    about = json.loads((tmp_path / "both1" / "run.json").read_text())
    about |= {"config_hash": "other", "config": {"learning": {"updates": 200}}}
    (tmp_path / "both1" / "run.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="objects_t0, both, seed 0") as caught:
        read(tmp_path)
    assert "updates=200" in str(caught.value)
    assert str(tmp_path / "both1") in str(caught.value)


def test_recorded_rows_are_read_and_not_recorded_again(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "experiment,env,method,seed,frames,metric,value,wall_s,commit,command\n"
        "objects,objects_t1,both,0,9,action/mlp,0.4,,abc,c\n"
        "objects,objects_t1,both,0,9,action/mlp,0.5,,def,c\n"
    )
    (found,) = read(rows)
    assert found.metrics == {"action/mlp": 0.5}
    with pytest.raises(UserError, match="record"):
        claims(Options(str(rows), record=rows))
    rows.write_text(rows.read_text().replace("0.5", "half"))
    with pytest.raises(UserError, match="not a number"):
        read(rows)


def test_nothing_to_report_names_the_command_that_makes_something(tmp_path):
    with pytest.raises(UserError, match="no finished") as caught:
        claims(Options(str(tmp_path)))
    assert "agents.pretrain" in str(caught.value)
