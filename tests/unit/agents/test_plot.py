"""Curves and evidence: what is read from runs, the bands, the pictures, and rows that are recorded once."""

import csv
import json
import os

import numpy as np
import pytest
from matplotlib.figure import Figure

from agents import plot
from agents.bands import align, interquartile_mean, pooled, resampled
from agents.cli import UserError
from agents.drawing import draw, draw_line, name_lines, separate
from agents.evidence import COLUMNS, curves_of, label_runs, read_evidence, read_lines, read_runs


def make_run(
    root, env="dmc_walker", seed=0, planner="none", frames=(0, 100, 200), values=(0.0, 1.0, 2.0), tail=""
):
    path = root / env / f"s{seed}-{planner}"
    path.mkdir(parents=True)
    about = {"env": env, "seed": seed, "config_hash": planner * 8, "config": {"agent": {"planner": planner}}}
    about |= {
        "command": ["/x/agents/train.py", f"env={env}", "a b"],
        "code": {"commit": "abc", "dirty": True},
    }
    (path / "run.json").write_text(json.dumps(about))
    rows = [
        {"frames": f, "decisions": f, "updates": 0, "eval/return": v}
        for f, v in zip(frames, values, strict=True)
    ]
    rows.insert(1, {"frames": 50, "decisions": 50, "updates": 0, "train/return": 1.0, "eval/return": None})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    times = [{"frames": f, "speed/elapsed_s": f * 36.0} for f in frames]
    (path / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    return path


def test_a_curve_holds_the_numbers_of_its_metric_with_their_wall_times(tmp_path):
    make_run(tmp_path)
    (curve,) = curves_of(read_runs([str(tmp_path)]), "eval/return")
    assert curve.frames.tolist() == [0, 100, 200]
    assert curve.values.tolist() == [0, 1, 2]
    assert curve.wall_s.tolist() == [0, 3600, 7200]


def test_a_half_written_last_line_is_left_out_and_damage_inside_is_told(tmp_path):
    path = make_run(tmp_path, tail='{"frames": 300, "eval/ret')
    assert len(list(read_lines(path / "metrics.jsonl"))) == 4
    text = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text("{broken\n" + text)
    with pytest.raises(UserError, match=r"line 1 of .* is damaged"):
        list(read_lines(path / "metrics.jsonl"))


def test_labels_show_whole_lists_and_leave_out_what_does_not_matter(tmp_path):
    for planner, hide in (("none", []), ("mppi", ["velocity"])):
        record = make_run(tmp_path, planner=planner) / "run.json"
        about = json.loads(record.read_text())
        about["config"] = {"trainer": {"frames": len(hide)}, "env": {"hide": hide, "task": planner}}
        record.write_text(json.dumps(about))
    labels = label_runs(read_runs([str(tmp_path)]))
    assert sorted(labels.values()) == ["hide=['velocity']", "hide=[]"]


def test_configurations_are_named_by_what_differs_and_seeds_share_a_line(tmp_path):
    for seed in (0, 1):
        for planner in ("none", "mppi"):
            make_run(tmp_path, seed=seed, planner=planner)
    curves = curves_of(read_runs([f"{tmp_path}/dmc_walker/*"]), "eval/return")
    assert {(c.method, c.seed) for c in curves} == {
        (f"planner={p}", s) for p in ("none", "mppi") for s in (0, 1)
    }


def test_a_mistyped_metric_is_answered_with_the_close_one(tmp_path):
    make_run(tmp_path)
    with pytest.raises(UserError, match="did you mean eval/return"):
        curves_of(read_runs([str(tmp_path)]), "eval/retrun")


def test_last_is_the_run_that_wrote_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run under runs/"):
        read_runs(["last"])
    for seed in (0, 1):
        (make_run(tmp_path / "runs", seed=seed) / "checkpoints").mkdir()
    old = tmp_path / "runs" / "dmc_walker" / "s1-none"
    for path in (old, *old.iterdir()):
        os.utime(path, (1, 1))
    assert [run.seed for run in read_runs(["last"])] == [0]
    assert [run.seed for run in read_runs(["last", "runs/*"])] == [0, 1]


def test_a_seed_that_went_further_is_drawn_to_its_end(tmp_path):
    from matplotlib.figure import Figure

    make_run(tmp_path)
    make_run(tmp_path, seed=1, frames=(0, 100, 200, 300, 400), values=(0.0, 1.0, 2.0, 3.0, 4.0))
    curves, axes = curves_of(read_runs([str(tmp_path)]), "eval/return", "ours"), Figure().subplots()
    ((line,),) = separate(curves, [], "frames", "mean").values()
    draw_line(axes, line, "ours", "frames")
    ends = sorted(line.get_xdata()[-1] for line in axes.get_lines())
    assert ends == [200, 400]


def test_no_matching_run_is_told(tmp_path):
    with pytest.raises(UserError, match="no run directory matches"):
        read_runs([str(tmp_path / "*")])


def test_seeds_are_compared_only_where_all_of_them_have_been(tmp_path):
    make_run(tmp_path, seed=0, frames=(0, 100, 200), values=(0, 10, 20))
    make_run(tmp_path, seed=1, frames=(50, 150), values=(0, 100))
    where, values = align(curves_of(read_runs([str(tmp_path)]), "eval/return"), "frames")
    assert where.tolist() == [50, 100, 150]
    assert values.tolist() == [[5, 10, 15], [0, 50, 100]]


def test_the_interquartile_mean_ignores_outliers():
    values = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [1e9]])
    assert interquartile_mean(values) == 3.5


def over_seeds(values, centre=lambda rows: rows.mean(axis=0)):
    return resampled([values], lambda seeds: centre(seeds[0]))


def test_the_band_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [low <= 0 <= high for _, low, high in (over_seeds(rng.normal(size=(10, 1))) for _ in range(60))]
    assert 0.75 <= np.mean(inside) <= 1.0


def test_the_band_of_one_seed_is_the_curve_and_repeats_itself():
    values = np.arange(6.0).reshape(1, 6)
    assert all((part == values[0]).all() for part in over_seeds(values))
    two = np.random.default_rng(1).normal(size=(5, 7))
    assert np.array_equal(over_seeds(two, interquartile_mean), over_seeds(two, interquartile_mean))


def test_environments_count_alike_however_many_seeds_each_has(tmp_path):
    ends = {"a": (0, 10), "b": (20,), "c": (30,), "d": (1000,)}
    for env, values in ends.items():
        for seed, value in enumerate(values):
            make_run(tmp_path, env=env, seed=seed, frames=(0, 100), values=(0, value))
    curves = curves_of(read_runs([str(tmp_path)]), "eval/return", "ours")
    where, centre, low, high = pooled(curves, "frames", "iqm")
    assert where.tolist() == [0, 100]
    assert centre.tolist() == [0, 25]  # b and c; a is 5, d is an outlier
    mean = pooled(curves, "frames", "mean")
    assert mean.centre[-1] == (5 + 20 + 30 + 1000) / 4
    assert mean.low[-1] == mean.centre[-1] - 5 / 4  # only the seeds of a vary
    assert mean.high[-1] == mean.centre[-1] + 5 / 4
    assert (low <= centre).all()
    assert (centre <= high).all()


def test_all_environments_in_one_panel_leave_out_who_has_not_been_on_all(tmp_path, capsys):
    file, out = tmp_path / "rows.csv", f"out={tmp_path}/all.png"
    for method, envs in (("ours", "ab"), ("theirs", "a")):
        for env in envs:
            make_run(tmp_path / method, env=env)
        words = [f"runs={tmp_path}/{method}", f"record={file}", f"method={method}", "experiment=x"]
        assert plot.main(words) == 0
    capsys.readouterr()
    assert plot.main([f"evidence={file}", "together=true", "statistic=iqm", out]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "interquartile mean of 2 environments  ours  2.0 at 200 frames, n=2",
        "not drawn, since not on all of them: theirs",
        f"{tmp_path}/all.png",
    ]
    assert plot.main([f"evidence={file}", "together=true", "at=200"]) == 2
    assert "belong to a picture" in capsys.readouterr().err


def test_environments_that_share_no_frames_are_not_put_together(tmp_path, capsys):
    make_run(tmp_path, env="a")
    make_run(tmp_path, env="b", frames=(300, 400, 500))
    assert plot.main([f"runs={tmp_path}", "method=ours", "together=true", f"out={tmp_path}/x.png"]) == 2
    assert "fix: draw them one by one" in capsys.readouterr().err


def test_a_picture_is_written_beside_a_single_run(tmp_path, capsys):
    path = make_run(tmp_path)
    assert plot.main([f"runs={path}"]) == 0
    picture = path / "plots" / "eval-return.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert str(picture) in capsys.readouterr().out


def test_evidence_is_recorded_once_and_drawn_again(tmp_path, capsys):
    for seed in (0, 1):
        make_run(tmp_path / "runs", seed=seed)
    file = tmp_path / "evidence" / "walker.csv"
    words = [f"runs={tmp_path}/runs", f"record={file}", "method=ours", "experiment=walker"]
    assert plot.main(words) == plot.main(words) == 0
    assert capsys.readouterr().out.splitlines() == [f"6 new rows in {file}", f"0 new rows in {file}"]
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == list(COLUMNS)
    assert rows[1] == {
        "experiment": "walker",
        "env": "dmc_walker",
        "method": "ours",
        "seed": "0",
        "frames": "100",
        "metric": "eval/return",
        "value": "1.0",
        "wall_s": "3600.0",
        "commit": "abc+dirty",
        "command": "python -m agents.train env=dmc_walker 'a b'",
    }
    assert plot.main([f"evidence={file}", f"baseline={file}", "x=wall", f"out={tmp_path}/a.png"]) == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert [c.values.tolist() for c in read_evidence(file)] == [[0, 1, 2], [0, 1, 2]]


def test_evidence_is_drawn_of_the_methods_that_are_asked_for(tmp_path, capsys):
    make_run(tmp_path / "runs")
    file, out = tmp_path / "both.csv", f"out={tmp_path}/a.png"
    for method in ("ours", "theirs"):
        words = [f"runs={tmp_path}/runs", f"record={file}", f"method={method}", "experiment=walker"]
        assert plot.main(words) == 0
    capsys.readouterr()
    assert plot.main([f"evidence={file}", "method=theirs", out]) == 0
    said = capsys.readouterr().out
    assert "theirs" in said
    assert "ours" not in said
    assert plot.main([f"evidence={file}", "method=his", out]) == 2
    assert "choose from ours, theirs" in capsys.readouterr().err


def test_a_list_is_no_metric(tmp_path):
    path = make_run(tmp_path)
    row = {"frames": 300, "decisions": 300, "updates": 0, "eval/returns": [1.0, 2.0]}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"did you mean eval/return "):
        curves_of(read_runs([str(tmp_path)]), "eval/returns")


def test_over_minutes_what_has_no_times_is_left_out_by_name(tmp_path, capsys):
    make_run(tmp_path)
    others = tmp_path / "others.csv"
    others.write_text(",".join(COLUMNS) + "\nx,dmc_walker,theirs,0,100,eval/return,5,,,\n")
    words = [f"runs={tmp_path}", f"baseline={others}", f"out={tmp_path / 'a.png'}"]
    assert plot.main([*words, "x=wall"]) == 0
    assert "not drawn, since without times: theirs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["runs=a", "evidence=b"], ["runs=nowhere"], ["evidence=nowhere.csv"], ["x=time"]]
)
def test_mistakes_end_with_code_two(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert plot.main(words) == 2
    assert "fix: " in capsys.readouterr().err


def test_an_evidence_file_with_other_columns_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the columns experiment"):
        read_evidence(tmp_path / "x.csv")


def test_a_method_has_one_legend_entry_however_many_seeds_each_panel_has(tmp_path):
    for env, seed in (("one", 0), ("two", 0), ("two", 1)):
        make_run(tmp_path, env=env, seed=seed)
    panels = separate(curves_of(read_runs([f"{tmp_path}/*/*"]), "eval/return"), [], "frames", "mean")
    (label,) = name_lines([line for lines in panels.values() for line in lines]).values()
    assert label.endswith("(1 to 2 seeds)")


def test_colours_and_legend_follow_the_order_that_is_asked_for_in_every_panel(tmp_path):
    file = tmp_path / "rows.csv"
    for method, envs in (("old", "ab"), ("new", "b"), ("theirs", "b")):
        for env in envs:
            make_run(tmp_path / method, env=env)
        words = [f"runs={tmp_path}/{method}", f"record={file}", f"method={method}", "experiment=x"]
        assert plot.main(words) == 0
    ours, theirs = (plot.only(read_evidence(file), methods) for methods in ("new, old", "theirs"))
    assert plot.only(ours, "new, old, new") == ours  # named twice, drawn once
    panels = separate(ours, theirs, "frames", "mean")
    assert {line.method: line.rank for line in panels["b"]} == {"new": 0, "old": 1, "theirs": 2}
    assert [line.rank for line in panels["a"]] == [1]
    assert list(name_lines([line for lines in panels.values() for line in lines])) == ["new", "old", "theirs"]


def test_a_method_whose_name_has_commas_can_be_asked_for():
    known = {"planned", "recalled, planned", "recalled, planned, twice", "none"}
    asked = "none, recalled, planned,planned, recalled,planned, twice"
    assert plot.split_names(asked, known) == [
        "none",
        "recalled, planned",
        "planned",
        "recalled, planned, twice",
    ]
    assert plot.split_names("his, none", known) == ["his", "none"]
    assert plot.split_names("", known) == []


@pytest.mark.parametrize("panels", [1, 4])
def test_a_legend_of_long_names_stays_inside_the_picture(tmp_path, monkeypatch, panels):
    for method in range(6):
        for env in range(panels):
            make_run(tmp_path / f"{method}", env=f"env{env}")
    curves = [
        curve
        for method in range(6)
        for curve in curves_of(
            read_runs([f"{tmp_path}/{method}/*/*"]), "eval/return", f"what was tried, number {method} of all"
        )
    ]
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw(separate(curves, [], "frames", "mean"), tmp_path / "x.png", metric="eval/return")
    figures[0].draw_without_rendering()
    (legend,) = figures[0].legends
    assert legend.get_window_extent().x0 >= 0
    assert legend.get_window_extent().x1 <= figures[0].bbox.x1


def test_a_table_says_what_was_measured_at_a_frame_and_by_how_many(tmp_path, capsys):
    for seed, last in ((0, 2.0), (1, 4.0)):
        make_run(tmp_path, seed=seed, values=(0.0, 1.0, last))
    make_run(tmp_path, seed=2, frames=(0, 100, 150), values=(0.0, 4.0, 9.0))
    theirs = tmp_path / "theirs.csv"
    lines = [f"e,dmc_walker,{name},-1,200,eval/return,{value},,," for name, value in (("A", 7), ("B", 5))]
    theirs.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    assert plot.main([f"runs={tmp_path}/dmc_walker/*", "at=100,200", f"baseline={theirs}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| environment | 100 | 200 | best published at 200 |",
        "| :-- | --: | --: | :-- |",
        "| dmc_walker | 2 ± 2 (3) | 3 ± 1 (2) | 7 A |",
    ]
    assert not list(tmp_path.rglob("*.png"))
    assert plot.main([f"runs={tmp_path}/dmc_walker/*", "at=7"]) == 2
    assert "choose from 0, 100, 150, 200" in capsys.readouterr().err
