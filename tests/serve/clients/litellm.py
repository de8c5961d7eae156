"""litellm against a server: URL -> JSON of what it understood. Run by test_clients.py in a venv of its own."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

sys.path.pop(0)  # this file bears the package's name
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the internet

import litellm

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
SCHEMA = {"type": "object", "properties": {"old": {"type": "boolean"}}, "required": ["old"], "additionalProperties": False}  # fmt: skip


def main(url: str) -> None:
    def ask(text: str, **fields: object) -> Iterator[Any]:
        for provider in ("openai", "hosted_vllm"):
            yield litellm.completion(
                model=f"{provider}/pirate",
                api_base=url,
                api_key="any",
                messages=[{"role": "user", "content": text}],
                num_retries=0,
                **fields,
            )

    found = {
        "plain": [answer.choices[0].message.content for answer in ask("ahoy")],
        "usage": [answer.usage.completion_tokens for answer in ask("ahoy")],
        "choices": [len(answer.choices) for answer in ask("ahoy", n=2)],
        "stream": [
            "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            for answer in ask("ahoy", stream=True)
        ],
        "tools": [
            [
                [call.function.name, json.loads(call.function.arguments)]
                for call in answer.choices[0].message.tool_calls
            ]
            for answer in ask("weather?", tools=[WEATHER])
        ],
        "finish": [answer.choices[0].finish_reason for answer in ask("weather?", tools=[WEATHER])],
        "json": [
            list(json.loads(answer.choices[0].message.content))
            for answer in ask(
                "x",
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                },
            )
        ],
    }
    print(json.dumps(found))


main(sys.argv[1])
