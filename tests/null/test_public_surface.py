"""The public door holds these names and no others, and each of them opens."""

from __future__ import annotations

import hasten

PUBLIC = [
    "Bundle",
    "BundleError",
    "Candidate",
    "DataError",
    "ExportError",
    "Front",
    "HastenError",
    "ImagePreprocess",
    "Interval",
    "Job",
    "JobError",
    "LimitsNotMet",
    "Measurement",
    "MissingExtra",
    "ModelError",
    "NotPossibleHere",
    "Observer",
    "Program",
    "Runtime",
    "Samples",
    "ServeOptions",
    "Splits",
    "Store",
    "Technique",
    "Verdict",
    "WorkerError",
    "__version__",
    "bench",
    "deploy_bundle",
    "optimize",
    "predict",
    "predict_many",
    "profile_model",
    "serve_bundle",
    "track",
    "verify",
    "why",
    "write_report",
]


def test_the_public_names_are_these() -> None:
    assert hasten.__all__ == PUBLIC
    assert dir(hasten) == PUBLIC


def test_every_public_name_opens_and_is_documented() -> None:
    for name in PUBLIC:
        value = getattr(hasten, name)
        assert name == "__version__" or (value.__doc__ and value.__name__ == name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    assert not hasattr(hasten, "optimise")


def test_no_verb_has_the_name_of_a_package() -> None:
    """`hasten.report` the function would turn into `hasten.report` the package as soon as something imports the latter."""
    import pkgutil

    assert {m.name for m in pkgutil.iter_modules(hasten.__path__)} & set(PUBLIC) == set()
