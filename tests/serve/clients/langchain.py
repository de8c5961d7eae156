"""langchain-openai against a server: URL -> JSON of what it understood. Run by test_clients.py in a venv of its own."""

import json
import sys
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=5)
    old: bool


@tool
def weather(place: str) -> str:
    """Tells the weather of a place."""
    return f"4 C in {place}"


def main(url: str) -> None:
    model = ChatOpenAI(base_url=url, api_key="any", model="pirate", temperature=0, seed=1)
    found = {
        "invoke": model.invoke("ahoy").content,
        "stream": "".join(chunk.content for chunk in model.stream("ahoy")),
        "batch": [answer.content for answer in model.batch(["a", "b"])],
        "completion": OpenAI(base_url=url, api_key="any", model="base", max_tokens=50).invoke("abc"),
    }
    for method in ("json_schema", "function_calling", "json_mode"):
        parsed = model.with_structured_output(Person, method=method, include_raw=True).invoke("Who?")
        found[method] = (
            type(parsed["parsed"]).__name__ if method != "json_mode" else parsed["raw"].content[:1]
        )
    with_tools = model.bind_tools([weather])
    asked = HumanMessage("weather?")
    call = with_tools.invoke([asked])
    found["tool_calls"] = [[each["name"], each["args"]] for each in call.tool_calls]
    streamed: Any = None
    for chunk in with_tools.stream([asked]):
        streamed = chunk if streamed is None else streamed + chunk
    found["streamed_calls"] = [[each["name"], each["args"]] for each in streamed.tool_calls]
    result = ToolMessage(weather.invoke(call.tool_calls[0]["args"]), tool_call_id=call.tool_calls[0]["id"])
    history = [asked, AIMessage(call.content, tool_calls=call.tool_calls), result, HumanMessage("so?")]
    found["after"] = with_tools.invoke(history).content
    found["required"] = [each["name"] for each in model.bind_tools([weather], tool_choice="required", parallel_tool_calls=False).invoke("x").tool_calls]  # fmt: skip
    print(json.dumps(found))


main(sys.argv[1])
