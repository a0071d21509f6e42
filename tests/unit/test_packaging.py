"""What is shipped: exactly four packages with their YAML, light imports, pins that fit, rules that hold."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("worldmodel", "envs", "agents", "configs")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_package_list_is_exact():
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)


def test_the_wheel_holds_the_four_packages_with_their_yaml_and_nothing_else(tmp_path):
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    (built,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(built).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
    assert "configs/config.yaml" in names
    for package in PACKAGES[:3]:
        assert f"{package}/py.typed" in names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.relative_to(ROOT).as_posix() in names


def test_typed_packages_say_so():
    for package in PACKAGES[:3]:
        assert (ROOT / package / "py.typed").is_file()


def test_every_pin_lies_inside_the_bounds_and_every_dependency_is_pinned():
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins()}
    lines = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    for need in map(Requirement, lines):
        if need.name != PROJECT["project"]["name"]:
            version = pinned[canonicalize_name(need.name)]
            assert need.specifier.contains(version, prereleases=True), f"{need} does not admit {version}"


def test_pins_hold_no_hosts_or_local_versions():
    for pin in pins():
        assert pin.url is None
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin


def test_every_dependency_has_an_upper_bound():
    for line in PROJECT["project"]["dependencies"]:
        need = Requirement(line)
        assert any(spec.operator == "<" for spec in need.specifier) or need.name == "packaging", line


def test_every_script_names_a_main_that_exists():
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, target


@pytest.mark.parametrize("module", ["agents", "agents.cli", "agents.config", "envs", "worldmodel"])
def test_a_package_imports_without_its_heavy_parts(module):
    heavy = "{'torch', 'torchrl', 'mujoco', 'dm_control', 'gymnasium', 'hydra', 'wandb', 'matplotlib'}"
    code = f"import sys, {module}; sys.exit(','.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_written_once_the_same_everywhere():
    from agents import __version__

    assert __version__ == PROJECT["project"]["version"]
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def called(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_no_source_unpickles_evaluates_or_opens_a_shell():
    banned = {
        "torch.load",
        "torch.save",
        "pickle.load",
        "pickle.loads",
        "eval",
        "exec",
        "os.system",
        "yaml.load",
    }
    banned |= {
        "yaml.unsafe_load",
        "yaml.full_load",
        "hydra.utils.instantiate",
        "instantiate",
        "marshal.loads",
    }
    assert len(SOURCES) > 20
    for path in SOURCES:
        for name, keywords in called(ast.parse(path.read_text(encoding="utf-8"))):
            assert name not in banned, f"{path}: {name}"
            assert keywords.get("shell") != "True", path
            assert keywords.get("allow_pickle") != "True", path


def test_make_is_instant_when_everything_is_installed(tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    for stamp in (".installed-run", ".installed-dev"):
        (venv / stamp).touch()
    dry = ["make", "-n", "train", "test", f"VENV={venv}", "ARGS=env=toy_ring"]
    text = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install" not in text
    assert "agents.train env=toy_ring" in text


def test_make_says_what_is_wrong_with_python(tmp_path):
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    for python, said in ((str(old), "Python 3.8.1"), ("no-such-python", "there is no no-such-python")):
        words = ["make", "train", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
        done = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ}
        )
        assert done.returncode != 0
        assert said in done.stdout
        assert "fix: " in done.stdout
