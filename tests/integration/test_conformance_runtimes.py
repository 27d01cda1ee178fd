"""Every registered runtime keeps the laws of a runtime."""

from __future__ import annotations

import pytest

from hasten.core import registry
from hasten.core.seams import Runtime
from hasten.testing import RuntimeSuite


class TestEveryRuntime(RuntimeSuite):
    @pytest.fixture(params=registry.find(Runtime).values(), ids=lambda kind: kind.name)
    def kind(self, request: pytest.FixtureRequest) -> type[Runtime]:
        return request.param  # type: ignore[no-any-return]
