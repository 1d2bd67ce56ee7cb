"""The parameters of a request: read, checked, with an ApiError that names the wrong one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

from pealm_core import Sampling
from pealm_serve.errors import ApiError
from pealm_serve.guard import Limits
from pealm_serve.models import Loaded

STOPS, STOP_LENGTH, TOP = (
    16,
    1000,
    20,
)  # stop strings of a request, characters of one; listed tokens for each position
COMMON = {"model", "stream", "stream_options", "n", "temperature", "top_p", "stop", "seed", "max_tokens"}
COMMON |= {"top_k", "min_p", "repetition_penalty", "logprobs"}  # the first three as in other servers
IGNORED = {"user", "metadata", "store", "service_tier", "parallel_tool_calls"}
IGNORED |= {"safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
# What isn't supported, with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
}


@dataclass(frozen=True)
class Params:
    """What both kinds of requests have. top: likeliest tokens to list for each token; None: no log-probabilities."""

    sampling: Sampling
    stream: bool
    usage: bool
    top: int | None


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises ApiError."""

    def refuse(constant: str) -> Never:
        raise ValueError(f"{constant} is not JSON")

    try:
        data = json.loads(body.decode(), parse_constant=refuse)
        json.dumps(data, ensure_ascii=False).encode()  # raises for half a surrogate pair, which no text has
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not JSON in UTF-8: {error!s:.200}") from None
    if not isinstance(data, dict):
        raise ApiError('the body is not a JSON object, such as {"prompt": "Hi"}')
    return {name: value for name, value in data.items() if value is not None}


def find_model(data: Mapping[str, Any], models: Mapping[str, Loaded]) -> Loaded:
    """Return the model that a request names, by default the first one. Raises ApiError."""
    name = data.get("model", next(iter(models)))
    if not isinstance(name, str):
        wrong("model", "is not a text")
    if name not in models:
        known = ", ".join(models)
        raise ApiError(f"no model {name!r:.200}; known: {known}", 404, param="model", code="model_not_found")
    return models[name]


def read_params(data: Mapping[str, Any], own: set[str], limits: Limits, *, default_tokens: int) -> Params:
    """Return the checked parameters of a request without None; own: names that only its kind has. Raises ApiError."""
    for name, value in data.items():
        if name in NEUTRAL and value not in NEUTRAL[name]:
            wrong(name, "is not supported", code="unsupported_parameter")
        if name not in COMMON | own | IGNORED | NEUTRAL.keys():
            wrong(repr(name)[:80], "is unknown", code="unknown_parameter")
    temperature = number(data, "temperature", 1.0, 0, 100)
    if 0 < temperature < 1e-4:
        wrong("temperature", "is too small: use 0 (greedy), or at least 0.0001")
    if "max_completion_tokens" in data and "max_tokens" in data:
        wrong("max_tokens", "and max_completion_tokens: give one of them")
    name = "max_completion_tokens" if "max_completion_tokens" in data else "max_tokens"
    options = data.get("stream_options", {})
    if not isinstance(options, dict):
        wrong("stream_options", "is not an object")
    sampling = Sampling(
        max_new_tokens=integer(data, name, min(default_tokens, limits.max_tokens), 0, limits.max_tokens),
        temperature=temperature,
        top_k=integer(data, "top_k", 1, 1, 10**9) if "top_k" in data else None,
        top_p=max(1e-6, number(data, "top_p", 1.0, 0, 1)) if "top_p" in data else None,
        min_p=max(1e-6, number(data, "min_p", 0.0, 0, 1)) if "min_p" in data else None,
        repetition_penalty=number(data, "repetition_penalty", 1.0, 0.01, 100),
        seed=integer(data, "seed", 0, -(2**63), 2**64) % 2**63 if "seed" in data else None,
        num_samples=integer(data, "n", 1, 1, limits.choices),
        stop=_stops(data.get("stop", [])),
    )
    return Params(sampling, flag(data, "stream"), flag(options, "include_usage"), None)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(s, str) and 0 < len(s) <= STOP_LENGTH for s in stops):
        wrong("stop", f"is not a text, or a list of texts, of 1 to {STOP_LENGTH} characters")
    if len(stops) > STOPS:
        wrong("stop", f"has {len(stops)} texts; at most {STOPS} are accepted")
    return tuple(stops)


def prompts_of(data: Mapping[str, Any], loaded: Loaded, choices: int) -> list[str | list[int]]:
    """Return the prompts of a completion: texts, or token ids. choices: the most of them. Raises ApiError."""
    value = data.get("prompt", "")
    prompts = value if isinstance(value, list) and value and isinstance(value[0], str | list) else [value]
    if len(prompts) > choices:
        wrong("prompt", f"and n make more than the accepted number of texts; send at most {choices} prompts")
    for prompt in prompts:
        if isinstance(prompt, str):
            continue
        if not isinstance(prompt, list) or not prompt:
            wrong("prompt", "is not a text, a list of token ids, or a list of these")
        if not all(type(token) is int and 0 <= token < loaded.vocab_size for token in prompt):
            wrong("prompt", f"has something else than token ids from 0 to {loaded.vocab_size - 1}")
    return prompts


def flag(data: Mapping[str, Any], name: str) -> bool:
    """Return true or false, by default false. Raises ApiError."""
    value = data.get(name, False)
    if not isinstance(value, bool):
        wrong(name, "is not true or false")
    return value


def integer(data: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    """Return a whole number in a range. Raises ApiError."""
    value = data.get(name, default)
    if type(value) is not int or not least <= value <= most:
        wrong(name, f"is not a whole number from {least:,} to {most:,}")
    return value


def number(data: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """Return a number in a range. Raises ApiError."""
    value = data.get(name, default)
    if type(value) not in (int, float) or not least <= value <= most:
        wrong(name, f"is not a number from {least} to {most}")
    return float(value)


def wrong(name: str, what: str, code: str | None = None) -> Never:
    """Raise ApiError about a parameter."""
    raise ApiError(f"{name} {what}", param=name, code=code)
