"""llama-index against a server: URL -> JSON of what it understood. Run by test_clients.py in a venv of its own."""

import asyncio
import json
import sys
from typing import Any

sys.path.pop(0)  # this file bears the package's name

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=5)
    old: bool


def weather(place: str) -> str:
    """Tells the weather of a place."""
    return f"4 C in {place}"


async def main(url: str) -> None:
    of_server = {"api_base": url, "api_key": "any", "model": "pirate", "context_window": 2048}
    model = OpenAILike(**of_server, is_chat_model=True, is_function_calling_model=True)
    asked = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="ahoy")]
    tool = FunctionTool.from_defaults(weather)
    called = model.get_tool_calls_from_response(model.chat_with_tools([tool], user_msg="weather?"))
    found: dict[str, Any] = {
        "chat": model.chat(asked).message.content,
        "stream": "".join(part.delta or "" for part in model.stream_chat(asked)),
        "completion": OpenAILike(**of_server | {"model": "base"}, max_tokens=50).complete("abc").text,
        "calls": [[call.tool_name, call.tool_kwargs] for call in called],
        "typed": type(model.as_structured_llm(Person).chat(asked).raw).__name__,
        "agent": str(await FunctionAgent(tools=[tool], llm=model, streaming=True).run("weather?")),
    }
    print(json.dumps(found))


asyncio.run(main(sys.argv[1]))
