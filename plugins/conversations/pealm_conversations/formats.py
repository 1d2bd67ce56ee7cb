"""Three formats of a line, told apart by their keys, and read as messages: [{"role": "user", "content": "Hi!"}, ...].

OpenAI     {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]}
ShareGPT   {"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]}
Alpaca     {"instruction": "Add the numbers.", "input": "1 and 2", "output": "3"}
"""

import json
from typing import Any

Messages = list[dict[str, str]]
ROLES = {"developer": "system", "human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}
KNOWN = ("system", "user", "assistant")


def read_line(line: str) -> Messages:
    """Return the messages of a line. Raises ValueError with what is wrong with it.

    >>> read_line('{"instruction": "Add.", "input": "1 and 2", "output": "3"}')
    [{'role': 'user', 'content': 'Add.\\n1 and 2'}, {'role': 'assistant', 'content': '3'}]
    """
    try:
        data = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"must be an object with messages, conversations or instruction, not {data!r:.60}")
    if "messages" in data:
        messages = _turns(data["messages"], "messages", "role", "content")
    elif "conversations" in data:
        messages = _turns(data["conversations"], "conversations", "from", "value")
        if data.get("system"):
            messages.insert(0, {"role": "system", "content": _text(data["system"], "system")})
    elif "instruction" in data:
        parts = [_text(data[key], key) for key in ("instruction", "input") if data.get(key)]
        messages = [{"role": "user", "content": "\n".join(parts)}]
        messages.append({"role": "assistant", "content": _text(data.get("output"), "output")})
    else:
        raise ValueError(
            f"has none of messages, conversations and instruction, only {', '.join(map(str, data))[:60]}"
        )
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("has no turn of the assistant, so that nothing could be learned")
    return messages


def _turns(turns: Any, key: str, role: str, content: str) -> Messages:
    if not isinstance(turns, list):
        raise ValueError(f"{key} must be a list, not {turns!r:.60}")
    if not turns:
        raise ValueError("the conversation is empty")
    messages = []
    for number, turn in enumerate(turns, 1):
        place = f"message {number}"
        if not isinstance(turn, dict):
            raise ValueError(f"{place} must be an object with {role} and {content}, not {turn!r:.60}")
        name = turn.get(role)
        name = ROLES.get(name, name) if isinstance(name, str) else name
        if name not in KNOWN:
            raise ValueError(f"{place}: unknown {role} {turn.get(role)!r:.60}; known: {', '.join([*KNOWN, *ROLES])}")
        messages.append({"role": name, "content": _text(turn.get(content), f"{place}: {content}")})
    return messages


def _text(value: Any, place: str) -> str:
    """Return a text, also from OpenAI's list of parts."""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(_text(part.get("text"), place) for part in value)
    if not isinstance(value, str):
        raise ValueError(f"{place} must be text, not {value!r:.60}")
    return value
