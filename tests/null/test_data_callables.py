"""`file.py:function` and `package.module:function`, and what goes wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hasten.core.callables import call, is_callable_source, resolve
from hasten.core.errors import DataError, JobError, ModelError

USER = """
import helper
COUNT = []
COUNT.append(1)
VALUE = 3
def build():
    return helper.WORD
def late():
    import helper_late
    return helper_late.WORD
def broken():
    raise ValueError("boom:\\n  at once.")
def greedy(size):
    return size
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sub = tmp_path / "sub"
    sub.mkdir()
    (sub / "user.py").write_text(USER)
    (sub / "helper.py").write_text("WORD = 'hello'")
    (sub / "helper_late.py").write_text("WORD = 'late'")
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "leaves.py").write_text("import sys; sys.exit('bye')")
    (tmp_path / "typo.py").write_text("def f(:")
    (tmp_path / "wants.py").write_text("import no_such_package_at_all")
    for name in ("helper", "helper_late"):
        sys.modules.pop(name, None)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "yes"),
    [("a.py:f", True), ("sub/a b.py:f", True), ("pkg.mod:f", True), ("mod:f", True), ("model.onnx", False), ("a.py", False),
     ("a.py:", False), (":f", False), ("a/b:f", False), ("C:\\data.npz", False), (None, False), ("", False)],
)  # fmt: skip
def test_callables_are_told_by_their_form(source: str | None, yes: bool) -> None:
    assert is_callable_source(source) is yes


def test_a_function_is_found_and_its_neighbours_can_be_imported(folder: Path) -> None:
    assert call("sub/user.py:build", folder, field="model.source") == "hello"
    assert call("sub/user.py:late", folder, field="model.source") == "late"


def test_the_search_path_is_as_before(folder: Path) -> None:
    before = list(sys.path)
    resolve("sub/user.py:build", folder, field="model.source")
    with pytest.raises(JobError):
        resolve("raises.py:build", folder, field="model.source")
    assert sys.path == before


def test_a_file_is_imported_once(folder: Path) -> None:
    first = resolve("sub/user.py:build", folder, field="model.source")
    second = resolve("./sub/../sub/user.py:build", folder, field="data.source")
    assert first is second
    assert sys.modules[first.__module__].COUNT == [1]


def test_a_module_beside_the_job_is_found(folder: Path) -> None:
    (folder / "beside_the_job.py").write_text("def build(): return 7")
    assert call("beside_the_job:build", folder, field="model.source") == 7


def test_an_installed_module_is_found(folder: Path) -> None:
    assert resolve("json.decoder:JSONDecoder", folder, field="model.source").__name__ == "JSONDecoder"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("user.py", "model.source: must be file.py:function or package.module:function, but got 'user.py'."),
        ("no.py:f", "model.source: must name a Python file that exists, but got 'no.py'. Paths start at the folder of the job file."),
        ("no_such.module:f", "model.source: must name a module that can be imported, but got 'no_such.module'. "
         "Write file.py:function or package.module:function."),
        ("raises.py:f", "model.source: must import, but raises.py raised ZeroDivisionError: division by zero."),
        ("leaves.py:f", "model.source: must import, but leaves.py raised SystemExit: bye."),
        ("typo.py:f", "model.source: must import, but typo.py raised SyntaxError: invalid syntax (typo.py, line 1)."),
        ("wants.py:f", "model.source: must import, but wants.py raised ModuleNotFoundError: No module named 'no_such_package_at_all'."),
        ("sub/user.py:biuld", "model.source: must name a function of sub/user.py, but got 'biuld'. Did you mean 'build'?"),
        ("sub/user.py:VALUE", "model.source: must name a function, but sub/user.py:VALUE is of type int."),
    ],
)  # fmt: skip
def test_what_cannot_be_resolved_is_told_in_one_line(folder: Path, source: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        resolve(source, folder, field="model.source")
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", [DataError, ModelError])
def test_what_the_function_raises_is_translated(folder: Path, kind: type[JobError]) -> None:
    with pytest.raises(kind) as caught:
        call("sub/user.py:broken", folder, field="data.source", what="inputs", error=kind)
    assert str(caught.value) == "sub/user.py:broken: must return inputs, but raised ValueError: boom: at once."
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_function_that_wants_arguments_is_refused(folder: Path) -> None:
    with pytest.raises(JobError, match=r"must return a value, but raised TypeError: greedy\(\) missing 1 required"):
        call("sub/user.py:greedy", folder, field="model.source")
