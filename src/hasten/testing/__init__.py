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
from ._simulated import SCENES as SCENES
from ._simulated import Noise as Noise
from ._simulated import SimulatedRace as SimulatedRace
from ._simulated import simulated_race as simulated_race
from ._technique import TechniqueSuite as TechniqueSuite
from ._workload import LoaderSuite as LoaderSuite
from ._workload import Original as Original
from ._workload import ReaderSuite as ReaderSuite
from ._workload import Source as Source

__all__ = [
    "SCENES",
    "LoaderSuite",
    "Noise",
    "Original",
    "ReaderSuite",
    "ReferenceModel",
    "RuntimeSuite",
    "SimulatedRace",
    "Source",
    "TechniqueSuite",
    "check_fits_imports_nothing",
    "check_options",
    "reference_model",
    "simulated_race",
]
