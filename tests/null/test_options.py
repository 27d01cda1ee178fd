"""A wrong value of an option is refused when the technique or runtime is made, in one line that says what would be right."""

from __future__ import annotations

import dataclasses
import math
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from hasten.core import registry
from hasten.core.errors import JobError
from hasten.core.seams import Forecast, Runtime, Technique, option


@dataclass(frozen=True, kw_only=True)
class Toy(Technique):
    """Has an option of each kind."""

    name: ClassVar[str] = "toy"

    method: str = option("minmax", "How.", choices=("minmax", "entropy"))
    level: str = option("all", "How far.", choices=("all",), allowed=("all", "some"))
    free: str = option("", "Any text.")
    samples: int = option(300, "How many.", low=1, high=1000)
    ratio: float = option(0.5, "How much.", choices=(0.25, 0.5), low=0, high=1)
    fast: bool = option(True, "Whether.")

    def fits(self, candidate: Any, profile: Any) -> str | None:
        return None

    def expects(self, profile: Any) -> Forecast:
        return Forecast(speedup=1.0, seconds=1.0)

    def apply(self, candidate: Any, context: Any) -> Any:
        return candidate


SHOW = "`hasten show toy` explains its options."
WRONG = [
    ({"method": "entropi"}, "toy, option method: must be one of minmax, entropy, but got 'entropi'. Did you mean 'entropy'?"),
    ({"level": "x"}, f"toy, option level: must be one of all, some, but got 'x'. {SHOW}"),
    ({"method": 3}, f"toy, option method: must be text, but got 3. {SHOW}"),
    ({"samples": 0}, f"toy, option samples: must be at least 1, but got 0. {SHOW}"),
    ({"samples": 1001}, f"toy, option samples: must be at most 1000, but got 1001. {SHOW}"),
    ({"samples": 2.5}, f"toy, option samples: must be a whole number, but got 2.5. {SHOW}"),
    ({"samples": True}, f"toy, option samples: must be a whole number, but got True. {SHOW}"),
    ({"samples": None}, f"toy, option samples: must be a whole number, but got None. {SHOW}"),
    ({"ratio": math.nan}, f"toy, option ratio: must be at least 0, but got nan. {SHOW}"),
    ({"ratio": "0.5"}, f"toy, option ratio: must be a number, but got '0.5'. {SHOW}"),
    ({"fast": 1}, f"toy, option fast: must be true or false, but got 1. {SHOW}"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_a_wrong_value_is_one_line(options: dict[str, Any], message: str) -> None:
    for make in (lambda: Toy(**options), lambda: dataclasses.replace(Toy(), **options)):
        with pytest.raises(JobError) as caught:
            make()
        assert str(caught.value) == message
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "options", [{"level": "some"}, {"free": "anything"}, {"samples": 1000}, {"ratio": 0.7}, {"ratio": 1}, {"fast": False}]
)
def test_what_the_rules_allow_is_taken_whether_a_search_would_try_it_or_not(options: dict[str, Any]) -> None:
    toy = Toy(**options)
    assert toy.options() == {k: v for k, v in options.items() if v != getattr(Toy(), k)}
    assert pickle.loads(pickle.dumps(toy)) == toy


@pytest.mark.parametrize("kind", [*registry.find(Technique).values(), *registry.find(Runtime).values()], ids=lambda kind: kind.name)
def test_every_text_option_of_ours_names_its_values(kind: type[Technique] | type[Runtime]) -> None:
    for known in dataclasses.fields(kind):  # type: ignore[arg-type]
        if isinstance(known.default, str):
            assert known.default in known.metadata["allowed"]
            with pytest.raises(JobError, match=f"{kind.name}, option {known.name}: must be one of"):
                kind(**{known.name: "nonsense"})
