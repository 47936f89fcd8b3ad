"""What the engines' own `/metrics` say, in Prometheus' text format, from the simulated engine's real state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.engine.driver import Driver


def tgi_metrics(driver: Driver) -> bytes:
    """TGI's gauges, and its counters once they have counted: TGI does not show a metric before its first value."""
    driver.catch_up()
    tally, waiting = driver.tally, driver.engine.waiting
    gauges = {
        "tgi_queue_size": waiting,
        "tgi_batch_current_size": driver.in_flight - waiting,
        "tgi_batch_current_max_tokens": driver.reserved_tokens,
    }
    counters = {
        "tgi_request_count": tally.requests,
        "tgi_request_success": tally.succeeded,
        'tgi_request_failure{err="overloaded"}': tally.overloaded,
        'tgi_request_failure{err="dropped"}': tally.dropped,
        'tgi_batch_inference_count{method="decode"}': driver.engine.steps,
        'tgi_batch_inference_success{method="decode"}': driver.engine.steps,
    }
    return _text([*_typed("gauge", gauges), *_typed("counter", {name: value for name, value in counters.items() if value})])


def vllm_metrics(driver: Driver, model_id: str, *, level: int = -1) -> bytes:
    """vLLM's, whose counters end in `_total` and which all carry the model's name.

    Args:
        driver: of the engine.
        model_id: the label.
        level: at which it sleeps; 0: it is awake; -1: it cannot sleep.
    """
    driver.catch_up()
    tally, waiting = driver.tally, driver.engine.waiting
    labels = f'engine="0",model_name="{model_id}"'
    gauges = {
        f"vllm:num_requests_running{{{labels}}}": driver.in_flight - waiting,
        f"vllm:num_requests_waiting{{{labels}}}": waiting,
        f"vllm:kv_cache_usage_perc{{{labels}}}": min(driver.reserved_tokens / KV_CACHE_TOKENS, 1.0),
    }
    counters = {
        f"vllm:prompt_tokens_total{{{labels}}}": tally.prompt_tokens,
        f"vllm:generation_tokens_total{{{labels}}}": tally.output_tokens,
        f'vllm:request_success_total{{{labels},finished_reason="length"}}': tally.succeeded,
        f'vllm:request_success_total{{{labels},finished_reason="abort"}}': tally.dropped,
    }
    for asleep_at, state in enumerate(("awake", "weights_offloaded", "discard_all") if level >= 0 else ()):
        gauges[f'vllm:engine_sleep_state{{{labels},sleep_state="{state}"}}'] = float(level == asleep_at)
    return _text([*_typed("gauge", gauges), *_typed("counter", counters)])


# what an 8B model leaves on an H200: 120 GB at 131,072 bytes a token
KV_CACHE_TOKENS = 900_000


def _typed(kind: str, values: Mapping[str, float]) -> Iterator[str]:
    told = ""
    for series, value in values.items():
        name = series.partition("{")[0]
        if name != told:
            yield f"# TYPE {name} {kind}"
        told = name
        yield f"{series} {value}"


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
