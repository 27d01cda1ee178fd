"""When the client asks again, and when it stops: no server, no waiting."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hasten.client import messages
from hasten.client.conversation import Unreachable, conversation
from hasten.client.messages import Call, Message, Reply
from hasten.core.errors import DataError, HastenError, NotPossibleHere, Overloaded, QueueFull, UnknownModel

CALL: Call[Any] = messages.get("/v2", messages.read_json)
GOOD = Reply(status=200, headers={}, content=b'{"name": "hasten"}')


def refusal(status: int = 503, after: str = "1") -> Reply:
    return Reply(status=status, headers={"Retry-After": after}, content=json.dumps({"error": f"because of {status}."}).encode())


class Talk:
    """A server that answers from a list, on a clock that only pauses and answers move."""

    def __init__(self, *replies: Reply | Unreachable, takes: float = 0.1) -> None:
        self.replies, self.takes = list(replies), takes
        self.now, self.asked, self.pauses = 0.0, list[float](), list[float]()

    def __call__(self, call: Call[Any] = CALL, *, timeout: float = 30.0, retries: int = 2) -> Any:
        steps = conversation(call, timeout=timeout, retries=retries, clock=lambda: self.now)
        step = next(steps)
        try:
            while True:
                if isinstance(step, float):
                    self.pauses.append(step)
                    self.now += step
                    step = steps.send(None)
                    continue
                self.asked.append(step[1])
                self.now += self.takes
                reply = self.replies.pop(0)
                step = steps.throw(reply) if isinstance(reply, Unreachable) else steps.send(reply)
        except StopIteration as end:
            return end.value


def gone() -> Unreachable:
    return Unreachable("server", "cannot be reached")


def test_it_comes_again_when_the_server_says_and_not_before() -> None:
    talk = Talk(refusal(after="3"), refusal(429, after="2"), GOOD)
    assert talk() == {"name": "hasten"}
    assert len(talk.pauses) == 2
    assert 3 <= talk.pauses[0] <= 3.75
    assert 2 <= talk.pauses[1] <= 2.5


def test_it_does_not_come_again_where_that_would_be_too_late() -> None:
    talk = Talk(refusal(after="3"))
    with pytest.raises(Overloaded, match=r"because of 503\.") as caught:
        talk(timeout=2.0)
    assert caught.value.retry_after_seconds == 3
    assert talk.pauses == []


def test_each_attempt_gets_what_is_left_of_the_time() -> None:
    talk = Talk(gone(), gone(), GOOD, takes=1.0)
    talk(timeout=10.0)
    assert talk.asked == pytest.approx([10.0, 10 - 1 - talk.pauses[0], 10 - 2 - sum(talk.pauses)])


def test_it_stops_after_its_retries() -> None:
    talk = Talk(*(refusal(429) for _ in range(9)))
    with pytest.raises(QueueFull):
        talk(retries=2)
    assert len(talk.asked) == 3
    with pytest.raises(Unreachable):
        Talk(gone())(retries=0)


@pytest.mark.parametrize(
    ("status", "kind"), [(400, DataError), (404, UnknownModel), (413, DataError), (500, HastenError), (418, HastenError)]
)
def test_what_will_not_become_better_is_raised_at_once(status: int, kind: type[HastenError]) -> None:
    talk = Talk(refusal(status))
    with pytest.raises(HastenError, match=f"because of {status}") as caught:
        talk()
    assert type(caught.value) is kind
    assert talk.pauses == []


def test_what_is_no_server_of_the_protocol_is_said() -> None:
    for content in (b"<html>", b"[]", b"{}"):
        with pytest.raises(HastenError, match="is it a server of the Open Inference Protocol"):
            Talk(Reply(status=404, headers={}, content=content))()


def test_the_server_is_told_how_long_its_answer_is_waited_for() -> None:
    call = messages.infer("m", {"x": np.zeros((1, 2), np.float32)}, version=None, outputs=["y"], priority="bulk")
    assert _head(call.make(1.5)) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
        "outputs": [{"name": "y"}],
        "parameters": {"binary_data_output": True, "timeout": 1_500_000, "priority": 2},
    }
    assert "timeout" not in _head(call.make(math.inf))["parameters"]
    picture = messages.classify(b"jpeg", model="a model", top_k=3, priority="interactive")
    assert picture.make(1.5).params == {"top_k": "3", "priority": "interactive", "model": "a model", "timeout_seconds": "1.5"}


def test_names_cannot_leave_their_place_in_the_path() -> None:
    assert messages.model_path("../a b", "1/2") == "/v2/models/..%2Fa%20b/versions/1%2F2"


@pytest.mark.parametrize("make", [lambda: np.array(["text"]), lambda: np.array([1j])])
def test_what_the_protocol_has_no_name_for_is_refused_before_it_is_sent(make: Callable[[], np.ndarray]) -> None:
    with pytest.raises(DataError, match="input 'x': must be numbers or truth values"):
        messages.infer("m", {"x": make()}, version=None, outputs=None, priority="interactive")


def test_unreachable_is_an_error_of_the_tree() -> None:
    assert isinstance(gone(), NotPossibleHere)


def _head(message: Message) -> dict[str, Any]:
    length = int(message.headers["Inference-Header-Content-Length"])
    head: dict[str, Any] = json.loads(message.content[:length])
    return head
