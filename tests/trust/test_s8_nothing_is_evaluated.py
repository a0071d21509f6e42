"""S8: no eval, exec, yaml.load, shell or os.system in any source file."""

import ast

import pytest

from tests.trust.test_s1_no_pickle import sources

BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *(("os", name) for name in ("system", "popen", "spawnl", "spawnv", "execl", "execv", "execve")),
    *(("yaml", name) for name in ("load", "unsafe_load", "full_load")),
}


def suspicious(tree):
    """Calls that turn text into something that runs."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id=name) if name in BUILTINS:
                yield name
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (owner, name) in METHODS:
                yield f"{owner}.{name}"
        for word in node.keywords:
            if word.arg == "shell" and not (isinstance(word.value, ast.Constant) and not word.value.value):
                yield "shell=True"


def test_no_source_file_evaluates_text():
    for path in sources():
        assert not list(suspicious(ast.parse(path.read_text(encoding="utf-8")))), path


@pytest.mark.parametrize(
    "text",
    ["eval('1')", "exec('1')", "os.system('x')", "yaml.load(f)", "run('x', shell=True)", "__import__('os')"],
)
def test_the_search_finds_what_it_is_looking_for(text):
    assert list(suspicious(ast.parse(text)))
