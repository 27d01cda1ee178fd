"""hasten makes a trained model fast on the machine that will run it, and proves that it stayed right.

    front = hasten.optimize(model, data, max_drop=0.5, budget="5m")
    front.best.save("out/")

The public door: every name in `__all__` is loaded when it is first used, so that `import hasten` costs almost nothing.
`serve_bundle`, `deploy_bundle` and `write_report` carry their object in the name, because `hasten.serve`, `hasten.deploy` and
`hasten.report` are the packages behind them; `profile_model`, because `profile` is a module of Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .api import ServeOptions as ServeOptions
    from .api import bench as bench
    from .api import deploy_bundle as deploy_bundle
    from .api import optimize as optimize
    from .api import predict as predict
    from .api import predict_many as predict_many
    from .api import profile_model as profile_model
    from .api import serve_bundle as serve_bundle
    from .api import track as track
    from .api import verify as verify
    from .api import why as why
    from .api import write_report as write_report
    from .bundle.read import Bundle as Bundle
    from .core.candidate import Candidate as Candidate
    from .core.errors import BundleError as BundleError
    from .core.errors import DataError as DataError
    from .core.errors import ExportError as ExportError
    from .core.errors import HastenError as HastenError
    from .core.errors import JobError as JobError
    from .core.errors import LimitsNotMet as LimitsNotMet
    from .core.errors import MissingExtra as MissingExtra
    from .core.errors import ModelError as ModelError
    from .core.errors import NotPossibleHere as NotPossibleHere
    from .core.errors import WorkerError as WorkerError
    from .core.job import Job as Job
    from .core.measurement import Interval as Interval
    from .core.measurement import Measurement as Measurement
    from .core.measurement import Verdict as Verdict
    from .core.preprocess import ImagePreprocess as ImagePreprocess
    from .core.samples import Samples as Samples
    from .core.samples import Splits as Splits
    from .core.seams import Program as Program
    from .core.seams import Runtime as Runtime
    from .core.seams import Technique as Technique
    from .core.store import Store as Store
    from .search.front import Front as Front
    from .search.observer import Observer as Observer

_HOME = {
    "api": (
        "ServeOptions",
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
    ),
    "bundle.read": ("Bundle",),
    "core.candidate": ("Candidate",),
    "core.errors": (
        "BundleError",
        "DataError",
        "ExportError",
        "HastenError",
        "JobError",
        "LimitsNotMet",
        "MissingExtra",
        "ModelError",
        "NotPossibleHere",
        "WorkerError",
    ),
    "core.job": ("Job",),
    "core.measurement": ("Interval", "Measurement", "Verdict"),
    "core.preprocess": ("ImagePreprocess",),
    "core.samples": ("Samples", "Splits"),
    "core.seams": ("Program", "Runtime", "Technique"),
    "core.store": ("Store",),
    "search.front": ("Front",),
    "search.observer": ("Observer",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hasten' has no attribute {name!r}")
    value = getattr(import_module(f"hasten.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
