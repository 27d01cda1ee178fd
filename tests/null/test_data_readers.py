"""Each kind of data source: what it gives, and what it says about what it cannot read."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.errors import DataError
from hasten.core.job import DataSection
from hasten.core.registry import find
from hasten.core.samples import Samples
from hasten.core.seams import Reader

Y = np.array([2, 0, 1, 2])
X = np.arange(8, dtype=np.float32).reshape(4, 2)


def read(folder: Path, source: str, **data: Any) -> Mapping[str, Samples]:
    """By the one reader that fits, as a job would."""
    fitting = [kind() for kind in find(Reader).values() if kind().fits(source, folder / source) is None]
    assert len(fitting) == 1
    return fitting[0].read(source, folder / source, DataSection(source=source, **data))


def read_all(folder: Path, source: str, **data: Any) -> Samples:
    parts = read(folder, source, **data)
    assert set(parts) == {"all"}
    return parts["all"].check("data")


def labels(samples: Samples) -> list[float]:
    assert samples.labels is not None
    return samples.labels.tolist()  # type: ignore[no-any-return]


def refuses(folder: Path, source: str, message: str, **data: Any) -> None:
    with pytest.raises(DataError) as caught:
        read(folder, source, **data)
    assert str(caught.value) == message


MISSING = "{0}: must be a file that exists. Paths start at the folder of the job file."


@pytest.mark.parametrize("source", ["no.npz", "no.csv", "no.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, source: str) -> None:
    if source.endswith("parquet"):
        pytest.importorskip("pyarrow")
    refuses(tmp_path, source, MISSING.format(source))


# npz ----------------------------------------------------------------------------------------------------------------


def test_npz_arrays_are_inputs_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=X, b=X + 1, labels=Y)
    samples = read_all(tmp_path, "d.npz", limit=3)
    assert set(samples.inputs) == {"a", "b"}
    assert len(samples) == 3
    assert labels(samples) == [2, 0, 1]


def test_a_single_npz_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", X)
    samples = read_all(tmp_path, "d.npz")
    assert set(samples.inputs) == {""}
    assert samples.labels is None


def test_the_label_of_an_npz_can_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, kind=Y)
    assert labels(read_all(tmp_path, "d.npz", label="kind")) == Y.tolist()


def test_text_labels_are_numbered_in_sorted_or_given_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=np.array(["cat", "ant", "bee", "cat"]))
    samples = read_all(tmp_path, "d.npz")
    assert (labels(samples), samples.classes) == ([2, 0, 1, 2], ("ant", "bee", "cat"))
    assert labels(read_all(tmp_path, "d.npz", labels=("cat", "bee", "ant"))) == [0, 2, 1, 0]
    refuses(tmp_path, "d.npz", "d.npz.y: must use the class names of data.labels only, but got 'bee'. Did you mean 'be'?",
            labels=("cat", "be", "ant"))  # fmt: skip


@pytest.mark.parametrize(
    ("arrays", "data", "message"),
    [
        ({"y": Y}, {}, "d.npz: must hold at least one array besides the labels."),
        ({"x": X, "class": Y}, {"label": "clas"}, "data.label: must name a column of d.npz, but got 'clas'. Did you mean 'class'?"),
        ({"x": X, "class": Y}, {"label": "q"}, "data.label: must name a column of d.npz, but got 'q'. It has: x, class."),
        ({"x": np.array(["a", "b"])}, {}, "d.npz.x: must be an array of numbers, but got '<U1'."),
        ({"x": np.float32(1)}, {}, "d.npz.x: must be an array [N, ...], but got 'a single number'."),
        (
            {"x": np.array([{}, {}])},
            {},
            "d.npz: must be an .npz file of plain arrays (ValueError: Object arrays cannot be loaded when allow_pickle=False).",
        ),
    ],
)
def test_npz_errors(tmp_path: Path, arrays: dict[str, Any], data: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    refuses(tmp_path, "d.npz", message, **data)


def test_a_broken_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"no zip at all")
    refuses(tmp_path, "d.npz", "d.npz: must be an .npz file of plain arrays (BadZipFile: File is not a zip file).")
    np.savez(tmp_path / "e.npz", x=X)
    whole = (tmp_path / "e.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[:60] + b"\0\0\0\0" + whole[64:])
    with pytest.raises(DataError, match=r"^d\.npz: must be an \.npz file of plain arrays \("):
        read(tmp_path, "d.npz")


# csv ----------------------------------------------------------------------------------------------------------------


def test_csv_columns_become_one_input(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("\ufeffname,height,label,width\nann,1,cat,2.5\n\nbob,3,ant,-4e1\n", encoding="utf8")
    samples = read_all(tmp_path, "d.csv")
    assert samples.inputs[""].tolist() == [[1, 2.5], [3, -40]]
    assert samples.inputs[""].dtype == np.float32
    assert (labels(samples), samples.classes) == ([1, 0], ("ant", "cat"))


@pytest.mark.parametrize(("texts", "dtype"), [(["3", "1"], np.int64), (["0.5", "1"], np.float32)])
def test_csv_labels_are_classes_or_targets(tmp_path: Path, texts: list[str], dtype: type) -> None:
    (tmp_path / "d.csv").write_text(f"x,y\n1,{texts[0]}\n2,{texts[1]}\n")
    found = read_all(tmp_path, "d.csv").labels
    assert found is not None
    assert found.dtype == dtype
    assert found.tolist() == [float(text) for text in texts]


def test_csv_limit_takes_the_first_rows(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("x\n1\n2\nbroken\n")
    assert read_all(tmp_path, "d.csv", limit=2).inputs[""].tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        ("", {}, "d.csv: must hold a header and at least one row."),
        ("x,y\n", {}, "d.csv: must hold a header and at least one row."),
        ("age,y\n1,0\n\nold,1\n", {}, "d.csv, line 4, column 'age': must be a number, but got 'old'."),
        ("age,y\n1,0\n,1\n", {}, "d.csv, line 3, column 'age': must be a number, but got ''."),
        ("a,b\n1,2\n1\n", {}, "d.csv, line 3: must have 2 cells, like the header, but got 1."),
        ("a,a\n1,2\n", {}, "d.csv: must name each column once, but got 'a'."),
        ("a,y\nu,2\n", {}, "d.csv: must hold at least one numeric column besides the label."),
        ("a,species\n1,2\n", {"label": "specie"}, "data.label: must name a column of d.csv, but got 'specie'. Did you mean 'species'?"),
        ("a,y\n1,cat\n2,\n", {}, "d.csv, column 'y': must have a label in every row, but got 'none in row 2'."),
    ],
)
def test_csv_errors(tmp_path: Path, text: str, data: dict[str, Any], message: str) -> None:
    (tmp_path / "d.csv").write_text(text)
    refuses(tmp_path, "d.csv", message, **data)


def test_csv_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(DataError, match=r"^d\.csv: must be a \.csv file in UTF-8 \("):
        read(tmp_path, "d.csv")


# Folder of class folders --------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    for name, count in (("dog", 3), ("cat", 2), (".hidden", 1), ("empty", 0)):
        (tmp_path / "p" / name / "more").mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (2, 2), (k, len(name), 0)).save(tmp_path / "p" / name / "more" / f"{k}.PNG")
    (tmp_path / "p" / "dog" / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_is_read_in_sorted_order(pictures: Path) -> None:
    samples = read_all(pictures, "p")
    assert (labels(samples), samples.classes) == ([0, 0, 1, 1, 1], ("cat", "dog"))
    files = [f"cat/more/{k}.PNG" for k in range(2)] + [f"dog/more/{k}.PNG" for k in range(3)]
    assert samples.inputs[""] == [(pictures / "p" / file).read_bytes() for file in files]


def test_the_limit_of_a_folder_is_spread_over_its_classes(pictures: Path) -> None:
    assert labels(read_all(pictures, "p", limit=2)) == [0, 1]
    assert labels(read_all(pictures, "p", limit=4)) == [0, 0, 1, 1]
    limited = read_all(pictures, "p", limit=1)
    assert (labels(limited), limited.classes) == ([0], ("cat", "dog"))


def test_given_class_names_decide_the_numbers_of_folders(pictures: Path) -> None:
    assert labels(read_all(pictures, "p", labels=("dog", "bee", "cat"))) == [2, 2, 0, 0, 0]
    refuses(pictures, "p", "p: must use the class names of data.labels only, but got 'cat'. Add it there.", labels=("dog", "bee"))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^p: must hold class folders with pictures\. Pictures end with \.bmp, "):
        read(tmp_path, "p")


# Callable -----------------------------------------------------------------------------------------------------------

CODE = """
import numpy as np
x, y = np.arange(8.0).reshape(4, 2), [2, 0, 1, 2]
def pair(): return x, y
def three(): return {"calibrate": x, "select": x + 10, "certify": x + 20}
def wrong(): return "text"
def broken(): raise KeyError("gone")
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "make.py").write_text(CODE)
    return tmp_path


def test_a_callable_gives_one_set_or_the_splits(code: Path) -> None:
    assert labels(read_all(code, "sub/make.py:pair", limit=3)) == [2, 0, 1]
    assert set(read(code, "sub/make.py:three")) == {"calibrate", "select", "certify"}
    assert len(read(code, f"{code}/sub/make.py:three", limit=2)["certify"]) == 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "sub/make.py:broken: must return inputs or (inputs, labels), but raised KeyError: 'gone'."),
        ("wrong", "sub/make.py:wrong: must be an array of numbers [N, ...], a dict of them, or a list of pictures, "
         "but got 'an object of type str'."),
    ],
)  # fmt: skip
def test_callable_errors(code: Path, function: str, message: str) -> None:
    refuses(code, f"sub/make.py:{function}", message)


# Parquet ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(**columns: Any) -> Path:
        parquet.write_table(arrow.table(columns), tmp_path / "d.parquet", row_group_size=2)
        return tmp_path

    return write


def png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "PNG")
    return file.getvalue()


def test_parquet_pictures_are_the_input(write: Callable[..., Path]) -> None:
    folder = write(image=[png()] * 3, label=[1, 0, 1], size=[1.0, 2.0, 3.0])
    samples = read_all(folder, "d.parquet", limit=2)
    assert samples.inputs == {"": [png()] * 2}
    assert labels(samples) == [1, 0]


def test_parquet_pictures_may_be_structs(write: Callable[..., Path]) -> None:
    folder = write(photo=[{"bytes": png(), "path": "a.png"}] * 3, label=["cat", "ant", "cat"])
    samples = read_all(folder, "d.parquet", image="photo")
    assert samples.inputs == {"": [png()] * 3}
    assert (labels(samples), samples.classes) == ([1, 0, 1], ("ant", "cat"))


def test_parquet_numbers_are_inputs_by_column(write: Callable[..., Path]) -> None:
    folder = write(a=[1.5, 2.5, 3.5], b=[[[1, 2], [3, 4]]] * 3, name=["u", "v", "w"], y=[0.5, 1.5, 2.5])
    samples = read_all(folder, "d.parquet", limit=3)
    assert {name: array.shape for name, array in samples.inputs.items()} == {"a": (3,), "b": (3, 2, 2)}
    assert samples.inputs["b"][2].tolist() == [[1, 2], [3, 4]]
    assert labels(samples) == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({"image": [b"x", None]}, {}, "d.parquet, row 2, column 'image': must have a value, but got None."),
        ({"image": ["x", "y"]}, {}, "d.parquet, column 'image': must hold encoded pictures as bytes, but got 'string'."),
        ({"a": [1.0, 2.0, None]}, {}, "d.parquet, row 3, column 'a': must have a value, but got None."),
        ({"a": [[1, 2], [1]]}, {}, "d.parquet, row 2, column 'a': must have 2 numbers, like row 1, but got 1."),
        ({"a": [1], "y": [None]}, {}, "d.parquet, row 1, column 'y': must have a value, but got None."),
        ({"a": [1], "y": [b"x"]}, {}, "d.parquet, column 'y': must hold class numbers, targets or class names, but got 'binary'."),
        ({"a": ["x"]}, {}, "d.parquet: must hold a column of pictures or of numbers besides the label, but got ['a']."),
        ({"a": [1]}, {"image": "b"}, "data.image: must name a column of d.parquet, but got 'b'. It has: a."),
        ({"a": [1], "kind": [1]}, {"label": "kin"}, "data.label: must name a column of d.parquet, but got 'kin'. Did you mean 'kind'?"),
    ],
)
def test_parquet_errors(write: Callable[..., Path], columns: dict[str, Any], data: dict[str, Any], message: str) -> None:
    refuses(write(**columns), "d.parquet", message, **data)


def test_an_empty_or_broken_parquet_file_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    arrow = pytest.importorskip("pyarrow")
    refuses(write(a=arrow.array([], arrow.float32())), "d.parquet", "d.parquet: must hold at least one row.")
    (tmp_path / "d.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"^d\.parquet: must be a \.parquet file \("):
        read(tmp_path, "d.parquet")
