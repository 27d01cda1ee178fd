"""What is profiled: how many threads, which batch sizes, and nodes that all have a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.measure.naming import name_nodes, named_copy
from hasten.profiling import profile


@pytest.mark.parametrize(("cores", "asked", "counts"), [(1, 1, [1]), (2, 2, [1, 2]), (6, 3, [1, 2, 3, 4, 6]), (8, 8, [1, 2, 4, 8])])
def test_threads_double_up_to_all_cores(cores: int, asked: int, counts: list[int]) -> None:
    assert profile.thread_counts(cores, asked) == counts


def test_batch_sizes_end_where_a_call_would_take_over_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_BATCHES", (1, 2, 4, 8))
    assert profile.batch_sizes(0.3, 1) == [1, 2]
    assert profile.batch_sizes(2.0, 1) == [1]
    assert profile.batch_sizes(1.0, 8) == [1, 2, 4, 8]


def test_nodes_without_a_name_or_with_a_name_twice_get_one_of_their_own(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Relu", ["a"], ["b"], name="twin"),
        node("Relu", ["b"], ["c"], name="twin"),
        node("Relu", ["c"], ["y"], name="Relu_0"),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    onnx.save(model, str(tmp_path / "net.onnx"))
    (tmp_path / "copy").mkdir()
    copy = named_copy({}, tmp_path / "net.onnx", tmp_path / "copy")
    names = [n.name for n in onnx.load(str(copy)).graph.node]
    assert len(set(names)) == 4
    assert all(names)
    assert (names[1], names[3]) == ("twin", "Relu_0")
    assert named_copy({}, copy, tmp_path / "copy") == copy  # nothing left to name
    assert name_nodes(model)
    assert not name_nodes(model)
