"""The OpenAPI document of the routes below /api."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._version import __version__

_CLASS = {"type": ["integer", "string"]}
_LABEL: dict[str, Any] = {"anyOf": [_CLASS, {"type": "array", "items": _CLASS}], "description": "A class by number or name; one a sample."}
_PROBLEMS = {
    400: "The request is wrong, or its picture cannot be decoded.",
    401: "The key is missing or not known; only where keys are needed.",
    404: "No such model.",
    413: "The body is too large.",
    415: "The body is of no type that is taken.",
    422: "The model does not classify pictures.",
    429: "As many requests wait as may; see Retry-After.",
    503: "It cannot be answered by its deadline; see Retry-After.",
}


def document(models: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1. models: the names that may be asked for."""
    options = _options(models)
    picture = {"schema": {"type": "string", "contentMediaType": "image/*"}}
    answers: dict[str, Any] = {"200": {"description": "The classes.", "content": {"application/json": {"schema": _ref("Classes")}}}}
    answers |= {str(status): _problem(status, text) for status, text in _PROBLEMS.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "hasten", "version": __version__},
        "paths": {
            "/api/v1/classify": {
                "post": {
                    "operationId": "classify",
                    "summary": "The most probable classes of one picture, best first.",
                    "parameters": [_parameter(name, schema) for name, schema in options.items()],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {"schema": _ref("Classify")},
                            "multipart/form-data": {"schema": _ref("ClassifyForm")},
                            "image/*": picture,
                            "application/octet-stream": picture,
                        },
                    },
                    "responses": answers,
                }
            },
            "/api/v1/feedback": {"post": _feedback()},
            "/api/v1/experiments": {"get": _experiments()},
        },
        "components": {
            "schemas": {
                "Classify": _object({"image_base64": {"type": "string", "contentEncoding": "base64"}, **options}, ["image_base64"]),
                "ClassifyForm": _object({"image": {"type": "string", "contentMediaType": "image/*"}, **options}, ["image"]),
                "Classes": _classes(),
                "Feedback": _object({"request_id": {"type": "string"}, "label": _LABEL}, ["request_id", "label"]),
                "Judged": _judged(),
                "Problem": _problem_schema(),
            }
        },
    }


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An option of a request whose body is the picture itself."""
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _options(models: Sequence[str]) -> dict[str, Any]:
    return {
        "top_k": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5},
        "model": {"type": "string", "enum": list(models), "description": "May be left out where there is one."},
        "priority": {"type": "string", "enum": ["interactive", "bulk"], "default": "interactive"},
        "timeout_seconds": {"type": "number", "exclusiveMinimum": 0, "description": "How long the sender waits."},
    }


def _feedback() -> dict[str, Any]:
    answers = {"200": {"description": "It was counted.", "content": {"application/json": {"schema": _ref("Judged")}}}}
    unknown = "No answer with this id waits for a label: it is too old, was judged already, or the model is no classifier."
    return {
        "operationId": "feedback",
        "summary": "What an answer should have been, by the x-request-id that it came with.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Feedback")}}},
        "responses": {
            **answers,
            "400": _problem(400, "The request is wrong."),
            "401": _problem(401, _PROBLEMS[401]),
            "404": _problem(404, unknown),
        },
    }


def _experiments() -> dict[str, Any]:
    schema = _object({"experiments": {"type": "array", "items": {"type": "object"}}}, ["experiments"])
    return {
        "operationId": "experiments",
        "summary": "How versions share requests, and what was concluded.",
        "responses": {
            "200": {"description": "By model.", "content": {"application/json": {"schema": schema}}},
            "401": _problem(401, _PROBLEMS[401]),
        },
    }


def _judged() -> dict[str, Any]:
    texts = {name: {"type": "string"} for name in ("request_id", "model", "version")}
    return _object({**texts, "correct": {"type": "array", "items": {"type": "boolean"}}}, [*texts, "correct"])


def _classes() -> dict[str, Any]:
    guess = _object({"label": {"type": "string"}, "index": {"type": "integer"}, "score": {"type": "number"}}, ["label", "index", "score"])
    fields = {"model": {"type": "string"}, "version": {"type": "string"}, "predictions": {"type": "array", "items": guess, "minItems": 1}}
    return _object(fields, list(fields))


def _problem_schema() -> dict[str, Any]:
    texts = {name: {"type": "string"} for name in ("type", "title", "detail")}
    return _object({**texts, "status": {"type": "integer"}}, ["type", "title", "detail", "status"])


def _problem(status: int, text: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": text, "content": {"application/problem+json": {"schema": _ref("Problem")}}}
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."}}
    return answer


def _object(properties: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
