"""pydantic-ai against a server: URL -> JSON of what it understood. Run by test_clients.py in a venv of its own.

Its agents run their whole loop (question, call of a tool, result, answer) over each of the three APIs that it speaks.
"""

import asyncio
import json
import sys
from typing import Any

sys.path.pop(0)  # this file bears the package's name

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, Tool, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=5)
    old: bool


def weather(place: str) -> str:
    """Tells the weather of a place."""
    return f"4 C in {place}"


async def main(url: str) -> None:
    openai = OpenAIProvider(base_url=url, api_key="any")
    anthropic = AnthropicProvider(base_url=url.removesuffix("/v1"), api_key="any")
    models = {
        "chat": OpenAIChatModel("pirate", provider=openai),
        "responses": OpenAIResponsesModel("pirate", provider=openai),
        "messages": AnthropicModel("pirate", provider=anthropic),
    }
    print(json.dumps({name: await understood(model) for name, model in models.items()}))


async def understood(model: Any) -> dict[str, Any]:
    """What an agent with this model gets: an answer, its stream, the whole loop with a tool, and typed answers."""
    plain = Agent(model, instructions="Be brief.")
    answer = await plain.run("ahoy")
    async with plain.run_stream("ahoy") as stream:
        streamed = await stream.get_output()
    later = await plain.run("more", message_history=answer.all_messages())
    # not strict: under a grammar the test's engine draws what it says
    with_tool = await Agent(model, tools=[Tool(weather, strict=False)]).run("weather?")
    forms = [ToolOutput(Person)]
    if not isinstance(model, AnthropicModel):  # its own check by Claude's names refuses every other model's
        forms += [NativeOutput(Person)]
    typed = [(await Agent(model, output_type=form).run("Who?")).output for form in forms]
    return {
        "answer": answer.output,
        "stream": streamed,
        "later": later.output,
        "output tokens": answer.usage.output_tokens,
        "parts": [part.part_kind for message in with_tool.all_messages() for part in message.parts],
        "after the tool": with_tool.output,
        "typed": [type(output).__name__ for output in typed],
    }


asyncio.run(main(sys.argv[1]))
