"""Where models and data come from: one file a kind of source, found by folder scan.

**A new data format is one new file here** (or in a plug-in) with one frozen dataclass that fills `core.seams.Reader`:

    @dataclass(frozen=True, kw_only=True)
    class Numpy(Reader):
        \"\"\"One array in a .npy file, without labels.\"\"\"

        name: ClassVar[str] = "npy"

        def fits(self, source: str, path: Path) -> str | None:
            return None if source.endswith(".npy") else "must end with .npy"

        def read(self, source: str, path: Path, data: DataSection) -> Mapping[str, Samples]:
            try:
                array = np.load(path, allow_pickle=False)[: data.limit]
            except (OSError, ValueError) as error:
                raise DataError(source, f"must be an array of numbers ({one_line(error)})") from None
            return {"all": Samples(inputs={"": array})}

What a reader owes: DataError for everything that a file can do wrong, naming the source, row and column; `data.limit`; no
pickle; an order that is the same on every machine; an input without a name is called `""`. What it need not do: dividing,
finding leaks, NaN, decoding pictures and preprocessing are done once, for all. Columns that hold labels are found with
`core.labels.find_column`, and text becomes class numbers with `core.labels.class_numbers`.

A new kind of model is one new file with one class that fills `core.seams.Loader`: it opens the user's model, checks it on
real samples, and writes it as a candidate on the module floor (.pt2) or the graph floor (.onnx).
"""
