"""OpenAI's protocol: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, and vLLM's endpoints for tokens.

The latter are what lm-evaluation-harness asks for token ids.
"""

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pealm_core import LM, UserError, chat_prompt, start_token
from pealm_serve import params
from pealm_serve.engine import Engine
from pealm_serve.errors import JSON, ApiError
from pealm_serve.exchange import Answer, Endpoint
from pealm_serve.formats import ChatFormat, CompletionFormat, Part, token_text
from pealm_serve.generation import score_prompt
from pealm_serve.guard import Limits
from pealm_serve.models import Loaded
from pealm_serve.params import Params, find_model, wrong

CHARACTERS = 64  # of a text for each token of the context: a longer one isn't even encoded
QUICK = 2000  # characters that are encoded at once: waiting for the model's thread would take longer


def routes(engine: Engine, limits: Limits) -> list[BaseRoute]:
    """Return the routes of the protocol."""
    api = Protocol(engine, limits)
    return [
        Route("/v1/models", api.list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", api.show_model, methods=["GET"]),
        Route("/v1/completions", Endpoint(api.complete, limits), methods=["POST"]),
        Route("/v1/chat/completions", Endpoint(api.chat, limits), methods=["POST"]),
        Route("/tokenizer_info", api.tokenizer_info, methods=["GET"]),
        Route("/tokenize", Endpoint(api.tokenize, limits), methods=["POST"]),
        Route("/detokenize", Endpoint(api.detokenize, limits), methods=["POST"]),
    ]


class Protocol:
    """The endpoints."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits

    async def list_models(self, request: Request) -> Response:
        """Return all models."""
        return JSON({"object": "list", "data": [*map(_about, self.engine.models.values())]})

    async def show_model(self, request: Request) -> Response:
        """Return one model."""
        return JSON(_about(find_model({"model": request.path_params["name"]}, self.engine.models)))

    async def complete(self, data: dict[str, Any], answer: Answer) -> None:
        """Continue each prompt n times. With `echo`, each text begins with its prompt."""
        loaded = find_model(data, self.engine.models)
        found = params.read_params(data, {"prompt", "echo", "best_of"}, self.limits, default_tokens=16)
        n = found.sampling.num_samples
        if data.get("best_of", n) not in (1, n):
            wrong("best_of", "is not supported; use n", code="unsupported_parameter")
        top = params.integer(data, "logprobs", 0, 0, params.TOP) if "logprobs" in data else None
        how, echo = dataclasses.replace(found, top=top), params.flag(data, "echo")
        prompts = params.prompts_of(data, loaded, self.limits.choices // n)
        texts = [prompt if isinstance(prompt, str) else None for prompt in prompts]
        ids = [await self._ids(loaded, p) if isinstance(p, str) else p for p in prompts]
        for tokens in ids:
            _check_length(len(tokens), loaded)
        form = CompletionFormat(loaded.tokenizer, top)
        with self.engine.seats(n):
            await answer.send(loaded.name, form, how, self._texts(loaded, texts, ids, how, echo), sum(map(len, ids)))

    async def _texts(
        self, loaded: Loaded, texts: list[str | None], prompts: list[list[int]], how: Params, echo: bool
    ) -> AsyncGenerator[Part, None]:
        """Yield the parts of all texts, prompt by prompt. texts: of prompts, None for token ids."""
        n, last = how.sampling.num_samples, "length" if how.sampling.max_new_tokens == 0 else None
        for number, (text, ids) in enumerate(zip(texts, prompts, strict=True)):
            if echo:
                scored = await self._scored(loaded, ids, how) if how.top is not None else []
                if text is not None:  # without the start token, which is not in the text
                    scored = scored[len(ids) - len(loaded.tokenizer.encode(text)) :]
                shown = loaded.tokenizer.decode(ids) if text is None else text
                for row in range(n):
                    yield Part(number * n + row, shown, scored, last)
            elif last:
                for row in range(n):
                    yield Part(number * n + row, "", [], last)
            if last is None:
                async with aclosing(self.engine.stream(loaded.name, ids, how.sampling, top=how.top or 0)) as pieces:
                    async for piece in pieces:
                        yield Part(number * n + piece.row, piece.text, [piece], piece.finish)

    async def _scored(self, loaded: Loaded, ids: list[int], how: Params) -> list[Any]:
        return await self.engine.run(loaded.name, score_prompt, ids, how.top)

    async def chat(self, data: dict[str, Any], answer: Answer) -> None:
        """Answer messages. Turns that don't fit into the context are left out, the oldest first."""
        loaded = find_model(data, self.engine.models)
        if not loaded.chat:
            raise ApiError(
                f"{loaded.name} was not trained on conversations (it has no chat layout); use /v1/completions",
                param="model",
                code="no_chat_layout",
            )
        own = {"messages", "max_completion_tokens", "top_logprobs"}
        found = params.read_params(data, own, self.limits, default_tokens=self.limits.max_tokens)
        top = params.integer(data, "top_logprobs", 0, 0, params.TOP) if params.flag(data, "logprobs") else None
        messages, block = _messages(data.get("messages")), loaded.block_size
        size = sum(len(message["content"]) for message in messages)
        if size > CHARACTERS * block:
            _check_length(None, loaded)
        room = block - min(found.sampling.max_new_tokens, block // 4)
        try:
            prompt = await self._encoded(size, loaded, _chat_prompt, messages, room)
        except UserError as error:
            raise ApiError(str(error), param="messages") from error
        tokens = min(found.sampling.max_new_tokens, block + 1 - len(prompt.ids))
        sampling = dataclasses.replace(found.sampling, max_new_tokens=max(1, tokens))
        if prompt.dropped or prompt.cut:
            answer.extra["pealm"] = {"dropped_turns": prompt.dropped, "cut_tokens": prompt.cut}
        how, form = dataclasses.replace(found, sampling=sampling, top=top), ChatFormat(loaded.tokenizer, top)

        async def parts() -> AsyncGenerator[Part, None]:
            stream = self.engine.stream(loaded.name, prompt.ids, sampling, ends=prompt.ends, top=top or 0)
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    yield Part(piece.row, piece.text, [piece], piece.finish)

        with self.engine.seats(sampling.num_samples):
            await answer.send(loaded.name, form, how, parts(), len(prompt.ids))

    async def tokenizer_info(self, request: Request) -> Response:
        """Return the names of the first model's special tokens, and of the token that an empty prompt starts from."""
        loaded = next(iter(self.engine.models.values()))
        return JSON(
            {
                "eos_token": _name(loaded, loaded.lm.eot_id),
                "bos_token": _name(loaded, _start(loaded)),
                "pad_token": None,
            }
        )

    async def tokenize(self, data: dict[str, Any], answer: Answer) -> None:
        """Return the token ids of a text, without a start token; of a name from `/tokenizer_info`, its id."""
        loaded, text = find_model(data, self.engine.models), data.get("prompt")
        if not isinstance(text, str):
            wrong("prompt", "is not a text")
        named = {_name(loaded, token): token for token in (loaded.lm.eot_id, _start(loaded)) if token is not None}
        ids = [named[text]] if text in named else await self._ids(loaded, text, start=False)
        await answer.send_json({"tokens": ids, "count": len(ids), "max_model_len": loaded.block_size})

    async def detokenize(self, data: dict[str, Any], answer: Answer) -> None:
        """Return the text of token ids."""
        loaded = find_model(data, self.engine.models)
        (ids,) = params.prompts_of({"prompt": [data.get("tokens")]}, loaded, 1)
        if isinstance(ids, str):
            wrong("tokens", "is not a list of token ids")
        await answer.send_json({"prompt": loaded.tokenizer.decode(ids)})

    async def _ids(self, loaded: Loaded, text: str, *, start: bool = True) -> list[int]:
        """Return the token ids of a text, and at its start what `LM.encode` adds. Raises ApiError."""
        if len(text) > CHARACTERS * loaded.block_size:
            _check_length(None, loaded)
        try:
            encoded: list[int] = await self._encoded(len(text), loaded, LM.encode if start else _encode, text)
            return encoded
        except (UserError, ValueError) as error:
            raise ApiError(str(error), param="prompt") from error

    async def _encoded(self, characters: int, loaded: Loaded, function: Any, *args: Any) -> Any:
        if characters <= QUICK:
            return function(loaded.lm, *args)
        return await self.engine.run(loaded.name, function, *args)


def _encode(lm: LM, text: str) -> list[int]:
    return [*map(int, lm.tokenizer.encode(text))]


def _chat_prompt(lm: LM, messages: list[dict[str, str]], room: int) -> Any:
    return chat_prompt(lm.tokenizer, messages, room)


def _start(loaded: Loaded) -> int:
    return start_token(loaded.tokenizer)


def _name(loaded: Loaded, token: int | None) -> str | None:
    return None if token is None else token_text(loaded.tokenizer, token)


def _about(loaded: Loaded) -> dict[str, Any]:
    facts = {"context_length": loaded.block_size, "vocab_size": loaded.vocab_size, "chat": loaded.chat}
    return {"id": loaded.name, "object": "model", "created": loaded.created, "owned_by": "pealm", **facts}


def _check_length(tokens: int | None, loaded: Loaded) -> None:
    """Raise ApiError for a prompt longer than the context. tokens: None, if it is so long that nobody counted."""
    if tokens is None or tokens > loaded.block_size:
        has = "many more tokens" if tokens is None else f"{tokens:,} tokens"
        message = f"the prompt has {has}; the context of {loaded.name} is {loaded.block_size:,} tokens"
        raise ApiError(message, param="prompt", code="context_length_exceeded")


def _messages(value: Any) -> list[dict[str, str]]:
    """Return messages whose contents are texts. Raises ApiError."""
    if not isinstance(value, list) or not value:
        wrong("messages", 'is not a list of messages, such as {"role": "user", "content": "Hi!"}')
    messages = []
    for number, message in enumerate(value):
        message = message if isinstance(message, dict) else {}
        role, content = message.get("role"), message.get("content")
        if isinstance(content, list) and all(isinstance(part, dict) for part in content):
            texts: list[Any] = [part.get("text") if part.get("type") == "text" else None for part in content]
            content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
        if not isinstance(role, str) or not isinstance(content, str):
            wrong(f"messages[{number}]", "is not a role with a text as content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages
