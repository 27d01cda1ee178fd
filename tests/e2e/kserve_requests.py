"""What tests/e2e/test_kserve_client.py asks with KServe's own clients, in the environment where they are.

python kserve_requests.py MODEL HTTP GRPC IN.npz OUT.npz: every answer's outputs as CASE/OUTPUT, and facts as JSON on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

DATATYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}


def request(model: str, values: dict[str, np.ndarray], *, binary: bool, **more: Any) -> InferRequest:
    inputs = []
    for name, array in values.items():
        one = InferInput(name, list(array.shape), DATATYPES[str(array.dtype)])
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    return InferRequest(model, inputs, **more)


async def main(model: str, http: str, grpc: str, given: str, answers: str) -> None:
    values, found, facts = dict(np.load(given)), {}, {}

    def keep(case: str, answer: Any) -> None:
        facts[f"{case}.id"], facts[f"{case}.model"] = answer.id, answer.model_name
        found.update({f"{case}/{output.name}": output.as_numpy() for output in answer.outputs})

    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60, retries=0))
    facts["rest.live"], facts["rest.ready"] = await rest.is_server_live(http), await rest.is_server_ready(http)
    facts["rest.model"] = await rest.is_model_ready(http, model)
    for binary in (False, True):
        asked = [RequestedOutput("total", {"binary_data": True}), RequestedOutput("same")]
        case = "rest.binary" if binary else "rest.json"
        headers: dict[str, str] = {}
        keep(case, await rest.infer(http, request(model, values, binary=binary, request_id="seven"), model, response_headers=headers))
        facts[f"{case}.header"] = headers["x-request-id"]
        keep(f"{case}.chosen", await rest.infer(http, request(model, values, binary=binary, request_outputs=asked), model))
    for case, name in (("rest.wrong", model), ("rest.unknown", "other")):
        wrong = {"left": values["left"]} if case == "rest.wrong" else values
        try:
            await rest.infer(http, request(name, wrong, binary=False), name)
        except Exception as error:
            facts[case] = str(error)
    await rest.close()

    async with InferenceGRPCClient(grpc, timeout=60, retries=0) as client:
        facts["grpc.live"], facts["grpc.ready"] = await client.is_server_live(), await client.is_server_ready()
        facts["grpc.model"] = await client.is_model_ready(model)
        for binary in (False, True):
            keep(
                "grpc.binary" if binary else "grpc.contents", await client.infer(request(model, values, binary=binary, request_id="seven"))
            )
        keep("grpc.version", await client.infer(request(model, values, binary=True, model_version="1")))
        for case, name in (("grpc.wrong", model), ("grpc.unknown", "other")):
            try:
                await client.infer(request(name, {"left": values["left"]} if case == "grpc.wrong" else values, binary=True))
            except Exception as error:
                facts[case] = str(error)
    np.savez(answers, **found)
    print(json.dumps(facts))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
