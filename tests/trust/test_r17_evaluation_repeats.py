"""R17: a fresh process repeats the logged return of every evaluation episode, to the last digit."""

import json

from agents.evaluate import main as evaluate
from tests.e2e.test_commands import fresh


def test_evaluate_repeats_the_logged_returns_exactly_also_in_a_fresh_process(finished, tmp_path):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    logged = {row["frames"]: row["eval/returns"] for row in rows if "eval/returns" in row}
    assert list(logged) == [200, 400]
    assert len(set(logged[200] + logged[400])) == 4  # or the comparison would show nothing
    answer = fresh("agents.evaluate", f"run={finished}", f"out={tmp_path / '400.json'}", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    older = finished / "checkpoints" / "000000200"
    assert evaluate([f"run={older}", f"out={tmp_path / '200.json'}"]) == 0
    for frames, returns in logged.items():
        result = json.loads((tmp_path / f"{frames}.json").read_text())
        assert [episode["score"] for episode in result["episodes"]] == returns
