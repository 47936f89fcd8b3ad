"""The wire of Hugging Face's TGI (3.3.6-dev0) before a simulated engine: its routes, headers and errors, to the byte.

It always generates up to max_new_tokens: stop sequences, grammars and tools are taken and change nothing.
"""

from __future__ import annotations

from bench.engine import words
from bench.engine.driver import Driver
from bench.engine.metrics import tgi_metrics
from bench.engine.tgi_generation import Generation
from bench.engine.tgi_http import CORS, Rejected, error_body, read, read_json
from bench.engine.tgi_requests import read_generate
from bench.engine.tgi_validation import Limits, Refused
from bench.engine.wire import Exchange, Handler, Headers

PLAIN = (b"content-type", b"text/plain; charset=utf-8")
PREFLIGHT = ((b"access-control-allow-methods", b"GET,POST"), (b"access-control-allow-headers", b"content-type"))
VERSION = "3.3.6-dev0"


class TgiWire:
    """TGI's surface. Its `id` and `model` members are what TGI's are: empty, and the model that is served."""

    name = "tgi"
    headers: Headers = ()  # beyond `date`; hyper sends no `server`

    def __init__(self, driver: Driver, model_id: str) -> None:
        self._driver = driver
        self._model_id = model_id
        self._limits = Limits(max_concurrent_requests=driver.max_concurrent or 2**31)
        generation = Generation(driver, model_id, self._limits)
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._health, "POST": generation.compatible},
            "/generate": {"POST": generation.generate},
            "/generate_stream": {"POST": generation.generate_stream},
            "/v1/chat/completions": {"POST": generation.chat},
            "/v1/completions": {"POST": generation.completions},
            "/invocations": {"POST": generation.invocations},
            "/tokenize": {"POST": self._tokenize},
            "/info": {"GET": self._info},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            "/v1/models": {"GET": self._models},
        }

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.method == "OPTIONS":
            return await exchange.answer(200, headers=(*CORS, *PREFLIGHT))
        methods = self._routes.get(exchange.path)
        if methods is None:
            return await exchange.answer(404, headers=CORS)
        handler = methods.get("GET" if exchange.method == "HEAD" else exchange.method)
        if handler is None:
            allowed = "GET,HEAD,POST" if len(methods) > 1 else "GET,HEAD" if "GET" in methods else "POST"
            return await exchange.answer(405, headers=((b"allow", allowed.encode()), *CORS))
        try:
            await handler(exchange)
        except Rejected as error:
            await exchange.answer(error.status, str(error).encode("utf-8", "replace"), (PLAIN, *CORS))
        except Refused as error:
            await exchange.answer_json(error.status, error_body(error), CORS)

    async def _tokenize(self, exchange: Exchange) -> None:
        data = await read_json(exchange, self._limits.payload_bytes)
        text = read(read_generate, data).prompts[0]
        tokens = [
            {"id": words.token_id(word), "text": word, "start": start, "stop": stop} for word, start, stop in words.spans(text)
        ]
        await exchange.answer_json(200, tokens, CORS)

    async def _health(self, exchange: Exchange) -> None:
        await exchange.answer(200, headers=CORS)

    async def _metrics(self, exchange: Exchange) -> None:
        await exchange.answer(200, tgi_metrics(self._driver), (PLAIN, *CORS))

    async def _models(self, exchange: Exchange) -> None:
        model = {"id": self._model_id, "object": "model", "created": 0, "owned_by": self._model_id}
        await exchange.answer_json(200, {"object": "list", "data": [model]}, CORS)

    async def _info(self, exchange: Exchange) -> None:
        limits = self._limits
        info = {
            "model_id": self._model_id,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": limits.max_concurrent_requests,
            "max_best_of": limits.max_best_of,
            "max_stop_sequences": limits.max_stop_sequences,
            "max_input_tokens": limits.max_input_tokens,
            "max_total_tokens": limits.max_total_tokens,
            "validation_workers": 2,
            "max_client_batch_size": limits.max_client_batch_size,
            "router": "text-generation-router",
            "version": VERSION,
            "sha": None,
            "docker_label": None,
        }
        await exchange.answer_json(200, info, CORS)
