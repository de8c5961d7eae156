"""Writes the prompts of the sample `forms`: python -m benchmarks.form_prompts

Each asks for a thing as JSON with some keys, and has a JSON Schema that the answer is to hold. The test set's things, keys and
wordings are none of the training set's.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[1] / "ptune" / "data" / "samples"
TYPES = {"text": "string", "whole number": "integer", "number": "number", "true or false": "boolean"}
TRAINING: dict[str, tuple[dict[str, str], str]] = {
    "city": (
        {"country": "text", "population": "whole number", "coastal": "true or false"},
        "Paris Lima Cairo Oslo Madrid Nairobi Toronto Kyoto Naples Dublin Hanoi Quito Perth Zagreb Riga Accra",
    ),
    "animal": (
        {"class": "text", "legs": "whole number", "weight_kg": "number"},
        "otter hedgehog pelican salmon beetle giraffe badger gecko walrus heron moth bison toad lynx crab stork",
    ),
    "plant": (
        {"kind": "text", "height_cm": "number", "evergreen": "true or false"},
        "oak fern tulip bamboo holly thistle birch clover ivy cactus pine daisy maple nettle willow moss",
    ),
    "dish": (
        {"country": "text", "minutes": "whole number", "vegetarian": "true or false"},
        "paella ramen goulash pancake risotto curry tagine stew omelette dumpling pizza chili sushi falafel pie soup",
    ),
    "instrument": (
        {"family": "text", "strings": "whole number"},
        "violin oboe harp drum trumpet flute cello banjo organ lute tuba guitar clarinet zither bassoon viola",
    ),
    "tool": (
        {"purpose": "text", "electric": "true or false", "price": "number"},
        "hammer saw drill chisel plane ladder wrench file clamp spade rake lathe sander pliers level axe",
    ),
    "vehicle": (
        {"wheels": "whole number", "fuel": "text"},
        "bicycle tram lorry scooter tractor ferry coach van glider moped barge taxi sledge cart truck train",
    ),
    "profession": (
        {"workplace": "text", "uniform": "true or false"},
        "baker nurse plumber pilot judge farmer mason tailor chemist sailor miner clerk dentist jockey usher cook",
    ),
}
TEST: dict[str, tuple[dict[str, str], str]] = {
    "planet": (
        {"moons": "whole number", "has_rings": "true or false", "radius_km": "number"},
        "Mercury Venus Mars Jupiter Saturn Uranus Neptune Earth",
    ),
    "sport": (
        {"players": "whole number", "equipment": "text"},
        "tennis rugby chess rowing hockey fencing judo curling golf polo cricket handball",
    ),
    "garment": (
        {"material": "text", "season": "text", "waterproof": "true or false"},
        "scarf coat sandal glove jumper boot shawl skirt apron cap mitten poncho",
    ),
}
ASK = (
    "Describe the {kind} {name} as a JSON object with the keys {keys}. Answer with the JSON alone.",
    "Give me a JSON object about the {kind} {name}. Its keys: {keys}. No other text.",
    "{kind}: {name}. Reply only with a JSON object that has {keys}.",
)
ASK_TEST = ("Return one JSON object, and nothing else, for the {kind} {name}, with {keys}.",)


def rows(things: dict[str, tuple[dict[str, str], str]], wordings: tuple[str, ...], seed: int) -> list[Any]:
    """A row for each thing, in random order."""
    chance = random.Random(seed)
    made = []
    for kind, (keys, names) in things.items():
        for name in names.split():
            asked = ["name (text)", *(f"{key} ({type_})" for key, type_ in keys.items())]
            listed = f"{', '.join(asked[:-1])} and {asked[-1]}"
            text = chance.choice(wordings).format(kind=kind, name=name, keys=listed)
            schema = {
                "type": "object",
                "properties": {
                    key: {"type": TYPES[type_]} for key, type_ in {"name": "text", **keys}.items()
                },
                "required": ["name", *keys],
                "additionalProperties": False,
            }
            made.append({"messages": [{"role": "user", "content": text}], "schema": schema})
    chance.shuffle(made)
    return made


def main() -> None:
    """Writes both files."""
    for name, things, wordings in (("train", TRAINING, ASK), ("test", TEST, ASK_TEST)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(things, wordings, seed=0)]
        (SAMPLES / f"forms.{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
