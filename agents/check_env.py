"""Check an environment before training on it: python -m agents.check_env env=dmc_walker"""

from typing import Any

from agents.cli import run_command


def check_env(cfg: Any) -> int:
    """Print what was found and return 0, or 2 where a problem would break training."""
    from envs import simulator_from_config
    from envs.check import diagnose

    findings = diagnose(lambda seed, index: simulator_from_config(cfg.env, seed, index))
    for finding in findings:
        print(f"{finding.level.upper():8} {finding.text}")
        if finding.fix:
            print(f"{'':8} fix: {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    print(f"{problems} problem(s); " + ("repair them before training" if problems else "ready to train"))
    return 2 if problems else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return run_command("check_env", check_env, argv)


if __name__ == "__main__":
    raise SystemExit(main())
