"""Every registered technique keeps the laws of a technique."""

from __future__ import annotations

import pytest

from hasten.core import registry
from hasten.core.seams import Technique
from hasten.testing import TechniqueSuite


class TestEveryTechnique(TechniqueSuite):
    @pytest.fixture(params=registry.find(Technique).values(), ids=lambda kind: kind.name)
    def kind(self, request: pytest.FixtureRequest) -> type[Technique]:
        return request.param  # type: ignore[no-any-return]
