"""Requests that are wrong, each in its own way, from good ones: a seed makes them again. Numbers lie, parts are missing, bytes are turned.

HTTP: JSON and the binary tensor extension, whole requests as bytes, cut in pieces, among good ones on one connection. gRPC: messages as
bytes whose framing is right. What comes of it is for others to judge (serve_fuzz.py).
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEADER = "Inference-Header-Content-Length"
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**30, "", "x", "FP32", "INT64", "BYTES", "\x00",
    "é" * 9, "a" * 5000, [], {}, [[]], [0], [-1], [2**62, 4], [1] * 40, {"a": 1}, [{}], [None],
)  # fmt: skip
"""Values that stand where others should."""
ODD_NUMBERS = ("", "0", "-1", "1", "+5", "007", " 9", "9 ", "0x10", "1e3", "1.0", "99999999999", "9" * 400, "x", "\xb2", "1,1")


@dataclass(frozen=True, kw_only=True)
class Good:
    """A request that is right. head: the JSON, or what the body is without any; raw: what follows it; kind: the media type."""

    path: str
    head: Any
    raw: bytes = b""
    kind: str = "application/json"
    method: str = "POST"

    @property
    def request(self) -> bytes:
        return Draft.of(self).rendered()


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """pieces: as they are sent, one after the other; whole: whether the server can know that it has all of it; what: was done."""

    pieces: tuple[bytes, ...]
    whole: bool
    what: str


@dataclass(kw_only=True)
class Draft:
    """A request that is still being changed. head_length: what the header says, None where it is right; length: likewise, of all."""

    method: str
    path: str
    version: str
    head: Any
    raw: bytes
    headers: list[tuple[str, str]]
    binary: bool
    head_length: str | None = None
    length: str | None = None
    chunks: list[int] | None = None
    body: Callable[[bytes], bytes] = bytes
    after: list[Callable[[bytes], bytes]] = field(default_factory=list)
    whole: bool = True

    @classmethod
    def of(cls, good: Good) -> Draft:
        headers = [("Host", "x"), ("Content-Type", good.kind)]
        head = copy.deepcopy(good.head)
        return cls(method=good.method, path=good.path, version="HTTP/1.1", head=head, raw=good.raw, headers=headers, binary=bool(good.raw))

    def rendered(self) -> bytes:
        head = self.head if isinstance(self.head, bytes) else json.dumps(self.head).encode()
        headers = list(self.headers)
        if self.binary or self.head_length is not None:
            headers.append((HEADER, str(len(head)) if self.head_length is None else self.head_length))
        body = self.body(head + self.raw)
        if self.chunks is None:
            headers.append(("Content-Length", str(len(body)) if self.length is None else self.length))
        else:
            headers.append(("Transfer-Encoding", "chunked"))
            body = chunked(body, self.chunks)
        lines = [f"{self.method} {self.path} {self.version}", *(f"{name}: {value}" for name, value in headers)]
        whole = "\r\n".join([*lines, "", ""]).encode("latin1", "replace") + body
        for change in self.after:
            whole = change(whole)
        return whole


def chunked(body: bytes, sizes: Sequence[int]) -> bytes:
    """`body` in chunks of these sizes, the rest in one."""
    made, at = [], 0
    for size in [*sizes, len(body)]:
        if part := body[at : at + size]:
            made.append(b"%x\r\n%s\r\n" % (len(part), part))
        at += size
    return b"".join([*made, b"0\r\n\r\n"])


# What is done to a request -------------------------------------------------------------------------------------------


def odd_value(rng: random.Random, draft: Draft) -> None:
    """Another value somewhere in the JSON."""
    if places := list(_places(draft.head)):
        holder, key = rng.choice(places)
        holder[key] = copy.deepcopy(rng.choice(ODD))


def missing(rng: random.Random, draft: Draft) -> None:
    if places := list(_places(draft.head)):
        holder, key = rng.choice(places)
        del holder[key]


def twice(rng: random.Random, draft: Draft) -> None:
    """A list's element again, or a whole object elsewhere."""
    lists = [holder for holder, _ in _places(draft.head) if isinstance(holder, list) and holder]
    if lists:
        one = rng.choice(lists)
        one.append(copy.deepcopy(rng.choice(one)))


def nested(rng: random.Random, draft: Draft) -> None:
    """So deep that a reader that calls itself falls."""
    depth = rng.choice((10, 600, 5000, 100_000))
    draft.head = b'{"inputs":' + b"[" * depth + b"]" * depth + b"}"


def no_json(rng: random.Random, draft: Draft) -> None:
    text = draft.head if isinstance(draft.head, bytes) else json.dumps(draft.head).encode()
    draft.head = turned(rng, text)


def not_a_number(rng: random.Random, draft: Draft) -> None:
    """NaN and infinity, in JSON or in bytes."""
    if draft.raw and rng.random() < 0.7:
        at = 4 * rng.randrange(max(1, len(draft.raw) // 4))
        draft.raw = draft.raw[:at] + rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff")) + draft.raw[at + 4 :]
        return
    text = draft.head if isinstance(draft.head, bytes) else json.dumps(draft.head).encode()
    draft.head = text.replace(b"0", rng.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999")), 1)


def raw_size(rng: random.Random, draft: Draft) -> None:
    """More or fewer bytes than the JSON says."""
    size = rng.choice((0, 1, len(draft.raw) // 2, max(0, len(draft.raw) - 1), len(draft.raw) + 1, 2 * len(draft.raw), 70_000))
    draft.raw = (draft.raw + bytes(rng.randrange(256) for _ in range(64)) * 2000)[:size]


def raw_bytes(rng: random.Random, draft: Draft) -> None:
    draft.raw = turned(rng, draft.raw)


def head_length(rng: random.Random, draft: Draft) -> None:
    right = len(draft.head if isinstance(draft.head, bytes) else json.dumps(draft.head))
    near = [str(max(0, right + by)) for by in (-9, -1, 1, 2, 50, 10_000)]
    draft.head_length = rng.choice((*near, *ODD_NUMBERS))


def no_head_length(rng: random.Random, draft: Draft) -> None:
    draft.binary = not draft.binary


def length(rng: random.Random, draft: Draft) -> None:
    """A content-length that lies. Where it is too large, the server waits for the rest."""
    draft.length, draft.whole = rng.choice((*ODD_NUMBERS, "3", "100", "100000", "40000000", str(2**63))), False


def chunks(rng: random.Random, draft: Draft) -> None:
    draft.chunks = [rng.choice((1, 2, 7, 100, 4096)) for _ in range(rng.randrange(30))]


def wrong_chunks(rng: random.Random, draft: Draft) -> None:
    chunks(rng, draft)
    wrong = rng.choice((b"0\r\n", b"", b"zz\r\n\r\n", b"ffffffffffffffff1\r\n", b"-1\r\n\r\n", b"5\r\nab\r\n0\r\n\r\n", b"0\r\nx: y\r\n"))
    draft.after.append(lambda whole: whole.removesuffix(b"0\r\n\r\n") + wrong)
    draft.whole = False


def compressed(rng: random.Random, draft: Draft) -> None:
    """Well, in part, not at all, or to far more than it seems."""
    kind = rng.choice(("gzip", "deflate", "gzip, gzip", "br", "identity", "x"))
    pack = gzip.compress if kind == "gzip" else zlib.compress
    ways: tuple[Callable[[bytes], bytes], ...] = (
        pack,
        lambda body: pack(body)[: len(body) // 3],
        lambda body: turned(rng, pack(body)),
        lambda body: body,
        lambda body: pack(bytes(40_000_000), 1) if rng.random() < 0.05 else pack(body) * 2,
    )
    draft.body = rng.choice(ways)
    draft.headers.append(("Content-Encoding", kind))


def kind(rng: random.Random, draft: Draft) -> None:
    kinds = ("", "text/plain", "application/octet-stream", "image/png", "multipart/form-data", "multipart/form-data; boundary=x", "a" * 300)
    draft.headers = [(name, value if name != "Content-Type" else rng.choice(kinds)) for name, value in draft.headers]


def path(rng: random.Random, draft: Draft) -> None:
    ends = ("?", "?top_k=x", "?top_k=-1&top_k=3", "?model=%00", "/", "//", "%2f", "%ff", "/../..", "#a", "?" + "a" * 3000, "\xe9")
    draft.path = rng.choice((draft.path + rng.choice(ends), draft.path.replace("/", "//"), "/" + "a" * 2000, "*", "", "http://x/y:z"))
    draft.whole = False


def method(rng: random.Random, draft: Draft) -> None:
    draft.method = rng.choice(("GET", "PUT", "HEAD", "OPTIONS", "PATCH", "CONNECT", "PRI", "post", "", "\x00", "POST POST"))
    draft.whole = False


def header(rng: random.Random, draft: Draft) -> None:
    """One more, or one that is no header."""
    more = (
        ("X-Request-Id", rng.choice(("", "a" * 200, "\xff", "a b", "7"))),
        ("Expect", rng.choice(("100-continue", "200-ok"))),
        ("Connection", rng.choice(("close", "upgrade", "keep-alive, close", ""))),
        ("Upgrade", rng.choice(("websocket", "h2c", ""))),
        ("Content-Length", rng.choice(("0", "5", "x"))),
        ("Transfer-Encoding", rng.choice(("gzip, chunked", "identity", "chunked, chunked", ""))),
        ("traceparent", rng.choice(("", "00-" + "0" * 32, "\xff"))),
        ("a" * rng.choice((1, 9000, 70_000)), "b"),
        ("a", "b" * rng.choice((1, 9000, 70_000))),
        ("a\x00", "b"), ("", ""), ("a", "\x00"), ("a", "b\r\n c"), ("Inference-Header-Content-Length", "5"), ("hasten-sticky-key", "\xe9"),
    )  # fmt: skip
    draft.headers.insert(rng.randrange(len(draft.headers) + 1), rng.choice(more))
    draft.whole = False


def truncated(rng: random.Random, draft: Draft) -> None:
    draft.after.append(lambda whole: whole[: rng.randrange(1, len(whole))])
    draft.whole = False


def garbled(rng: random.Random, draft: Draft) -> None:
    """Bytes of the whole request."""
    draft.after.append(lambda whole: turned(rng, whole))
    draft.whole = False


def turned(rng: random.Random, data: bytes) -> bytes:
    """`data` with some bytes changed, left out, put in or said twice."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(5):
            case 0:
                made[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del made[at : at + rng.choice((1, 2, 9, 100))]
            case 2:
                made[at:at] = rng.choice((b"\x00", b"\xff" * 4, b"\r\n", b"{", b'"', bytes([rng.randrange(256)]) * 3))
            case 3:
                made[at:at] = made[at : at + rng.choice((1, 8, 64))]
            case _ if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
    return bytes(made)


_IN_THE_BODY = (
    odd_value,
    odd_value,
    odd_value,
    missing,
    twice,
    nested,
    no_json,
    not_a_number,
    raw_size,
    raw_bytes,
    head_length,
    no_head_length,
)
_OF_THE_REQUEST = (length, chunks, wrong_chunks, compressed, kind, path, method, header, truncated, garbled)


def http(goods: Sequence[Good], seed: int) -> Iterator[Mutant]:
    """Without end."""
    rng = random.Random(seed)
    while True:
        draft = Draft.of(rng.choice(goods))
        done = [rng.choice(_IN_THE_BODY if rng.random() < 0.65 else _OF_THE_REQUEST) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        for change in done:
            change(rng, draft)
        whole = draft.rendered()
        yield Mutant(pieces=tuple(_pieces(rng, whole)), whole=draft.whole, what=", ".join(change.__name__ for change in done))


def _pieces(rng: random.Random, whole: bytes) -> Iterator[bytes]:
    """As one, or in some."""
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.choice((0, 0, 0, 1, 2, 5)))) if whole else []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        if start < end:
            yield whole[start:end]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in JSON: what holds it, and its key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        if not (isinstance(inner, list) and len(inner) > 64):  # numbers: one of them is enough
            yield from _places(inner)


# Good requests ---------------------------------------------------------------------------------------------------------

_TYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32, "UINT8": np.uint8, "BOOL": np.bool_}


def tensors(inputs: Sequence[dict[str, Any]], rng: np.random.Generator, samples: int = 2) -> dict[str, np.ndarray]:
    """By name, for inputs as the protocol's metadata describe them."""
    made = {}
    for entry in inputs:
        shape = [samples if k == 0 and n < 0 else max(n, 1) for k, n in enumerate(entry["shape"])]
        made[entry["name"]] = (rng.normal(size=shape) * 3).astype(_TYPES[entry["datatype"]])
    return made


def infer(model: str, inputs: Sequence[dict[str, Any]], values: dict[str, np.ndarray], *, binary: bool) -> Good:
    """An inference request, tensors as bytes after the JSON or in it."""
    entries, raws = [], []
    for entry in inputs:
        array = values[entry["name"]]
        made: dict[str, Any] = {"name": entry["name"], "datatype": entry["datatype"], "shape": list(array.shape)}
        if binary:
            raws.append(array.tobytes())
            made["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            made["data"] = array.ravel().tolist()
        entries.append(made)
    head = {"id": "good", "inputs": entries, "parameters": {"priority": 1, "binary_data_output": binary}}
    return Good(path=f"/v2/models/{model}/infer", head=head, raw=b"".join(raws))


# gRPC ------------------------------------------------------------------------------------------------------------------


def messages(goods: Sequence[Any], seed: int) -> Iterator[bytes]:
    """Bytes of messages that are wrong, without end. goods: ModelInferRequests that are right."""
    rng = random.Random(seed)
    while True:
        one = copy.deepcopy(rng.choice(goods))
        for _ in range(rng.choice((1, 1, 2))):
            rng.choice(_OF_A_MESSAGE)(rng, one)
        data = one.SerializeToString()
        yield turned(rng, data) if rng.random() < 0.4 else data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data


def _entry(rng: random.Random, message: Any) -> Any:
    return rng.choice(message.inputs) if message.inputs else message.inputs.add()


def _shape(rng: random.Random, message: Any) -> None:
    shape = _entry(rng, message).shape
    values = rng.choice(
        ([], [-1], [0], [2**62, 4], [2**32, 2**32], [1] * 40, [*shape, 1], list(shape)[1:], [-(2**63)], [9, *list(shape)[1:]])
    )
    del shape[:]
    shape.extend(values)


def _datatype(rng: random.Random, message: Any) -> None:
    _entry(rng, message).datatype = rng.choice(("", "FP32", "fp32", "INT64", "BOOL", "BYTES", "BF16", "é", "x" * 999))


def _raws(rng: random.Random, message: Any) -> None:
    raws = message.raw_input_contents
    match rng.randrange(5):
        case 0:
            raws.append(b"abc")
        case 1:
            del raws[:]
        case 2 if raws:
            del raws[rng.randrange(len(raws))]
        case 3 if raws:
            raws[rng.randrange(len(raws))] += b"\xff" * rng.choice((1, 3, 4, 4096))
        case _ if raws:
            at = rng.randrange(len(raws))
            raws[at] = turned(rng, raws[at])


def _contents(rng: random.Random, message: Any) -> None:
    where = rng.choice(
        ("bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents", "fp32_contents", "fp64_contents")
    )
    getattr(_entry(rng, message).contents, where).extend([1] * rng.choice((1, 3, 500)))


def _names(rng: random.Random, message: Any) -> None:
    text = rng.choice(("", "x", "é\n", "a" * 9000, "toy-model", "1", "-1", "999999999999999999999"))
    match rng.randrange(5):
        case 0:
            message.model_name = text
        case 1:
            message.model_version = text
        case 2:
            message.id = text
        case 3:
            _entry(rng, message).name = text
        case _:
            message.outputs.add(name=text)


def _options(rng: random.Random, message: Any) -> None:
    holder = rng.choice((message.parameters, _entry(rng, message).parameters, message.outputs.add(name="x").parameters))
    option = holder[rng.choice(("timeout", "priority", "binary_data_size", "classification", "sequence_id", "x"))]
    match rng.randrange(4):
        case 0:
            option.int64_param = rng.choice((-1, 0, 1, 2, 10**6, 2**63 - 1, -(2**63)))
        case 1:
            option.string_param = rng.choice(("", "1", "é"))
        case 2:
            option.bool_param = True


def _again(rng: random.Random, message: Any) -> None:
    message.inputs.add().CopyFrom(_entry(rng, message))


_OF_A_MESSAGE = (_shape, _datatype, _raws, _contents, _names, _options, _again)
