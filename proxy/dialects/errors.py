"""Errors of ours in the words of each engine, so that its clients treat them as the engine's own."""

from __future__ import annotations

# the status that goes with each kind of ours
STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "model_not_found": 404,
    "request_timeout": 408,
    "too_large": 413,
    "overloaded": 429,
    "not_implemented": 501,
    "fault": 500,
    "upstream": 502,
    "no_slot": 503,
    "shutting_down": 503,
    "timeout": 504,
}
TGI = {
    "shutting_down": "overloaded",
    "no_slot": "overloaded",
    "request_timeout": "validation",
    "bad_request": "validation",
    "too_large": "validation",
}
ANTHROPIC = {
    "bad_request": "invalid_request_error",
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "model_not_found": "not_found_error",
    "too_large": "request_too_large",
    "overloaded": "overloaded_error",
    "no_slot": "overloaded_error",
    "shutting_down": "overloaded_error",
    "timeout": "timeout_error",
}
VLLM = {
    "bad_request": "BadRequestError",
    "unauthorized": "AuthenticationError",
    "forbidden": "PermissionDeniedError",
    "model_not_found": "NotFoundError",
    "too_large": "BadRequestError",
    "overloaded": "ServiceUnavailableError",
    "no_slot": "ServiceUnavailableError",
    "shutting_down": "ServiceUnavailableError",
    "not_implemented": "NotImplementedError",
}
LLAMACPP = {
    "bad_request": "invalid_request_error",
    "too_large": "invalid_request_error",
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "model_not_found": "not_found_error",
    "overloaded": "unavailable_error",
    "no_slot": "unavailable_error",
    "shutting_down": "unavailable_error",
    "not_implemented": "not_supported_error",
}


def code(kind: str) -> int:
    return STATUS.get(kind, 500)


def openai(path: str, message: str, kind: str) -> dict[str, object]:
    """OpenAI's shape, and Anthropic's on its route; clients see our own kind."""
    if is_anthropic(path):
        return anthropic(message, kind)
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def is_anthropic(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def anthropic(message: str, kind: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": ANTHROPIC.get(kind, "api_error"), "message": message}}


def tgi(path: str, message: str, kind: str) -> dict[str, object]:
    """Its client reads `error` and `error_type` from JSON, and raises by them."""
    if path.startswith("/v1/"):
        return openai(path, message, kind)
    return {"error": message, "error_type": TGI.get(kind, kind)}


def vllm(path: str, message: str, kind: str) -> dict[str, object]:
    if is_anthropic(path):
        return anthropic(message, kind)
    return {"error": {"message": message, "type": VLLM.get(kind, "InternalServerError"), "param": None, "code": code(kind)}}


def sglang(path: str, message: str, kind: str) -> dict[str, object]:
    if is_anthropic(path):
        return anthropic(message, kind)
    if not path.startswith("/v1/"):
        return {"error": {"message": message}}
    told = VLLM.get(kind, "InternalServerError")
    return {"object": "error", "message": message, "type": told, "param": None, "code": code(kind)}


def llamacpp(path: str, message: str, kind: str) -> dict[str, object]:
    if is_anthropic(path):
        return anthropic(message, kind)
    return {"error": {"code": code(kind), "message": message, "type": LLAMACPP.get(kind, "server_error")}}


def transformers(path: str, message: str, kind: str) -> dict[str, object]:
    """FastAPI's shape."""
    return {"detail": message}
