"""The process in which a chat template is rendered, with limits on its time and memory. It imports jinja2 alone.

Each line of standard input is a request in JSON, each line of standard output its answer: {"text": ...} or
{"error": ...}. The first request has the template. Nothing ends a template that computes for ever but the end of the
process, and no check of its parts says how much memory it takes.
"""

import json
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

SECONDS = 1.0  # of a processor, for one conversation
MEMORY = 2**29  # bytes
CHARACTERS = 2**26  # of a rendered conversation
MARKS = ["", ""]  # around what the tag `generation` encloses
A_DAY = datetime(2024, 7, 26)  # the day in conversations to learn from: the same whenever they are rendered


class Generation(Extension):
    """The tag `generation` of transformers, which is around what an assistant writes: puts marks around it."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's)

    def parse(self, parser: Any) -> Any:
        """Return a call of `_marked` with the tag's content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        first, last = MARKS
        return f"{first}{caller()}{last}"


class Attributes(Namespace):
    """The sandbox's namespaces, without names that lead into Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may write namespace(self=...)
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        super().__setitem__(name, value)


def _check(name: str) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"the name {name!r:.40} of a namespace begins with _")


def environment() -> ImmutableSandboxedEnvironment:
    """Return jinja2's sandbox with what chat templates expect, which is what transformers gives them."""

    def raise_exception(message: Any) -> NoReturn:
        raise jinja2.exceptions.TemplateError(str(message))

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **how)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals.update(raise_exception=raise_exception, namespace=Attributes)
    made.globals.pop("lipsum", None)
    return made


def render(template: jinja2.Template, request: dict[str, Any]) -> str:
    """Return the text of a conversation. Raises ValueError if it is too long, and what jinja2 raises."""
    day = datetime.now() if request["answer"] else A_DAY
    MARKS[:] = request["marks"]
    values = {"tools": None, "documents": None, "strftime_now": day.strftime, **request["names"]}
    pieces, size = [], 0
    for piece in template.generate(messages=request["messages"], add_generation_prompt=request["answer"], **values):
        pieces.append(piece)
        size += len(piece)
        if size > CHARACTERS:
            raise ValueError(f"it writes more than {CHARACTERS:,} characters")
    return "".join(pieces)


def limit() -> None:
    """Limit this process: memory, files, processes. What a system doesn't have is left out."""
    with suppress(ImportError):
        import resource

        for kind, most in (("RLIMIT_AS", MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_NPROC", 0), ("RLIMIT_CORE", 0)):
            with suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, kind), (most, most))


def timer(seconds: float) -> None:
    """End this process after seconds of computing, or with 0, no more."""
    with suppress(ImportError, AttributeError):
        import signal

        signal.setitimer(signal.ITIMER_PROF, seconds)  # the signal's default is to end the process


def main() -> None:
    """Answer requests until the input ends."""
    template, made = None, environment()
    limit()
    for line in sys.stdin.buffer:
        timer(SECONDS)
        try:
            request = json.loads(line)
            template = template or made.from_string(request["template"])
            reply = {"text": render(template, request)}
        except MemoryError:
            reply = {"error": f"it takes more than {MEMORY // 2**20} MiB"}
        except RecursionError:
            reply = {"error": "it is nested too deeply"}
        except jinja2.exceptions.SecurityError as error:
            reply = {"error": f"it does what the sandbox forbids: {error}"}
        except Exception as error:
            reply = {"error": str(error) or type(error).__name__}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
        timer(0)


if __name__ == "__main__":
    main()
