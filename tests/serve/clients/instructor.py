"""instructor against a server: URL -> JSON of what it understood. Run by test_clients.py in a venv of its own."""

import json
import sys

sys.path.pop(0)  # this file bears the package's name

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=5)
    tags: list[bool] = Field(max_length=2)


def main(url: str) -> None:
    found = {}
    for mode in ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"):
        client = instructor.from_openai(
            OpenAI(base_url=url, api_key="any", max_retries=0), mode=instructor.Mode[mode]
        )
        person = client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": "Who?"}],
            response_model=Person,
            max_retries=1,
            extra_body={"seed": 3},
        )
        found[mode] = [type(person).__name__, len(person.name) <= 5]
    print(json.dumps(found))


main(sys.argv[1])
