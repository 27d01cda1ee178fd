"""What `mlflow.pyfunc.load_model` calls for a bundle in the registry: named in its MLmodel file, so that no pickle is involved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bundle.read import Bundle


class Predictor:
    """A bundle as MLflow wants a model."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name, [N, ...]. model_input: as for `Bundle.predict`, or a table with one column for each input."""
        if hasattr(model_input, "columns"):
            model_input = {str(name): np.array(list(model_input[name])) for name in model_input.columns}
        return self.bundle.predict(model_input)


def _load_pyfunc(data_path: str) -> Predictor:
    return Predictor(Bundle.open(data_path).load())
