"""The messages of oip.proto, as classes.

They are made from the compiled description in a pool of their own, not by generated modules: those would have to match the
installed protobuf, and would clash with any other package in the same process that brings the same protocol (a client, for instance).
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from ..core.need import need

SERVICE = "inference.GRPCInferenceService"


@functools.cache
def message(name: str) -> Any:
    """The class of the message `name`, such as ModelInferRequest."""
    factory = need("google.protobuf.message_factory", why="to speak gRPC")
    return factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, tuple[Any, Any]]:
    """The service's methods: the messages that each takes and gives."""
    service = _pool().FindServiceByName(SERVICE)
    return {m.name: (message(m.input_type.name), message(m.output_type.name)) for m in service.methods}


@functools.cache
def _pool() -> Any:
    descriptors = need("google.protobuf.descriptor_pb2", why="to speak gRPC")
    pool = need("google.protobuf.descriptor_pool", why="to speak gRPC").DescriptorPool()
    compiled = descriptors.FileDescriptorSet.FromString(resources.files(__package__).joinpath("oip.binpb").read_bytes())
    for file in compiled.file:
        pool.Add(file)
    return pool
