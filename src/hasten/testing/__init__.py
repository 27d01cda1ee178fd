"""Conformance suites, shipped: a third party tests its own plug-in with the laws that the built-in ones keep.

    from hasten.testing import TechniqueSuite

    class TestMine(TechniqueSuite):
        @pytest.fixture
        def kind(self):
            return MyTechnique

Needs pytest, and PyTorch and scikit-learn for the reference models.
"""

from ._models import ReferenceModel as ReferenceModel
from ._models import reference_model as reference_model
from ._options import check_fits_imports_nothing as check_fits_imports_nothing
from ._options import check_options as check_options
from ._runtime import RuntimeSuite as RuntimeSuite
from ._technique import TechniqueSuite as TechniqueSuite
from ._workload import LoaderSuite as LoaderSuite
from ._workload import Original as Original
from ._workload import ReaderSuite as ReaderSuite
from ._workload import Source as Source

__all__ = [
    "LoaderSuite",
    "Original",
    "ReaderSuite",
    "ReferenceModel",
    "RuntimeSuite",
    "Source",
    "TechniqueSuite",
    "check_fits_imports_nothing",
    "check_options",
    "reference_model",
]
