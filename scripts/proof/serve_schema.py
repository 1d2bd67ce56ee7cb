"""Send a server what schemathesis makes of a description of its endpoints: right, wrong and malformed requests.

    pip install schemathesis                       (in an environment of its own: it has many dependencies)
    python scripts/proof/serve_schema.py           about ten thousand requests to a server of weights/, some minutes
    python scripts/proof/serve_schema.py -n 20 --schemathesis ~/tools/bin/schemathesis

No answer may have the status 500 or above; each must have the status, type and form that the description names, and
an error that of OpenAI's protocol. schemathesis prints a command that repeats a failed request; the exit code is its
own, or 1 if the server has ended or printed a traceback.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from serve_storm import WEIGHTS, serving  # type: ignore[import-not-found]

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
Json = dict[str, Any]


def number(kind: str, least: float, most: float) -> Json:
    """Describe a number that may be null, as every parameter."""
    return {"type": [kind, "null"], "minimum": least, "maximum": most}


def names(**properties: Any) -> Json:
    """Describe an object of certain properties."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def bodies(models: list[str]) -> dict[str, Json]:
    """Describe the body of each endpoint. models: the names that are served."""
    text: Json = {"type": "string", "maxLength": 40}
    ids: Json = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 64}, "maxItems": 20}
    some_ids, model = {**ids, "minItems": 1}, {"enum": models}
    flag: Json = {"type": ["boolean", "null"]}
    bounds = {name: number("number", 0.01, 1) for name in ("top_p", "min_p")} | {"top_k": number("integer", 1, 100)}
    common = {
        "model": model, "stream": flag, "n": number("integer", 1, 3), "max_tokens": number("integer", 0, 5),
        "temperature": number("number", 0.01, 2), "seed": number("integer", 0, 2**32), **bounds,
        "repetition_penalty": number("number", 0.5, 2),
        "stop": {"type": ["array", "null"], "items": {**text, "minLength": 1}, "maxItems": 4},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    }  # fmt: skip
    prompt: Json = {"anyOf": [text, some_ids, {"type": "array", "items": text, "minItems": 1, "maxItems": 3}]}
    role = {"enum": ["system", "user", "assistant"]}
    message = {**names(role=role, content=text), "required": ["role", "content"]}
    chat = {
        **common, "messages": {"type": "array", "items": message, "minItems": 1, "maxItems": 4},
        "logprobs": flag, "top_logprobs": number("integer", 0, 20),
    }  # fmt: skip
    sampling = names(temperature=number("number", 0.01, 2), seed=number("integer", 0, 2**32), **bounds)
    view, token = {"model": model, "text": text}, {"type": "integer", "minimum": 0, "maximum": 64}
    following = names(model=model, ids=ids, token={**token, "type": ["integer", "null"]}, sampling=sampling)
    write = {"model": model, "n": {"type": "integer", "minimum": 1, "maximum": 5}, "sampling": sampling}
    return {
        "/v1/completions": names(**common, prompt=prompt, echo=flag, logprobs=number("integer", 0, 20)),
        "/v1/chat/completions": {**names(**chat), "required": ["messages"]},
        "/tokenize": {**names(model=model, prompt=text), "required": ["prompt"]},
        "/detokenize": {**names(model=model, tokens=some_ids), "required": ["tokens"]},
        "/view/encode": {**names(**view), "required": ["model", "text"]},
        "/view/inside": {**names(**view), "required": ["model", "text"]},
        "/view/next": {**following, "required": ["model", "ids"]},
        "/view/neighbours": {**names(model=model, token=token), "required": ["model", "token"]},
        "/view/write": {**names(**write, ids=ids, text=text), "required": ["model", "ids"]},
    }


def description(models: list[str]) -> Json:
    """Return the OpenAPI description of the endpoints."""
    nullable, name = {"type": ["string", "null"]}, {"type": "string", "minLength": 1}
    fault = {"message": name, "type": name, "param": nullable, "code": nullable}
    error = {"type": "object", "properties": fault, "required": [*fault], "additionalProperties": False}
    failed = {"type": "object", "properties": {"error": error}, "required": ["error"]}
    good = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    bad = {"description": "", "content": {"application/json": {"schema": failed}}}
    answers = {"200": {"description": "", "content": good}, "4XX": bad, "503": bad}
    paths: Json = {}
    for path, body in bodies(models).items():
        sent = {"required": True, "content": {"application/json": {"schema": body}}}
        paths[path] = {"post": {"requestBody": sent, "responses": answers}}
    for path in ("/v1/models", "/tokenizer_info", "/view/models"):
        paths[path] = {"get": {"responses": answers}}
    part = {"name": "name", "in": "path", "required": True, "schema": name}
    for path in ("/v1/models", "/view/runs"):
        paths[f"{path}/{{name}}"] = {"get": {"parameters": [part], "responses": answers}}
    return {"openapi": "3.1.0", "info": {"title": "pealm serve", "version": "1"}, "paths": paths}


def main() -> int:
    """Start a server, run schemathesis, and end the server. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=700, help="most random requests of an endpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", default=shutil.which("schemathesis"), help="its command")
    parser.add_argument("--ckpt", action="append", help="checkpoints, by default char-bigram and char-transformer")
    args = parser.parse_args()
    if args.schemathesis is None:
        parser.error("schemathesis is not installed: pip install schemathesis, or name its command")
    paths = args.ckpt or [str(WEIGHTS / "char-bigram"), str(WEIGHTS / "char-transformer")]
    with serving(paths) as server, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "openapi.json")
        file.write_text(json.dumps(description(server.models)))
        command = [args.schemathesis, "run", str(file), "--url", f"http://{server.host}", "--checks", CHECKS]
        command += ["--max-examples", str(args.n), "--seed", str(args.seed), "--phases", "examples,coverage,fuzzing"]
        command += ["--request-timeout", "30", "--generation-database", "none", "--warnings", "off"]
        command += ["--suppress-health-check", "all", "--continue-on-failure"]
        code = subprocess.run(command, cwd=folder).returncode
        alive = server.alive()
    print(f"the server is {'still there' if alive else 'GONE'}\n{server.log}".strip())
    return code or int(not alive or "Traceback" in server.log)


if __name__ == "__main__":
    sys.exit(main())
