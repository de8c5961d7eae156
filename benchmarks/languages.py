"""How often the doctor's rule about languages is right: python -m benchmarks.languages --data FOLDER

FOLDER/translation has gnome_en_es.train.jsonl (`en`, `es`) and gnome_en_de.train.jsonl (`en`, `de`); with ptune's own sample of
Django's messages. Counted among texts that are long enough to be looked at: right ones that are told to be of another language;
English and German ones in Spanish's place that are found. Writes results/languages.json (a minute).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ptune
from benchmarks.sides import write

PACKAGES = ("ptune", "py3langid")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data / "translation"
    sample = Path(ptune.__file__).parent / "data" / "samples" / "django_es.train.jsonl"
    spanish = _rows(data / "gnome_en_es.train.jsonl") + _rows(sample)
    german = _rows(data / "gnome_en_de.train.jsonl")
    found = {
        "right texts told to be of another language": _counted(
            [(row["en"], "en") for row in spanish] + [(row["es"], "es") for row in spanish]
        ),
        "English texts as Spanish, found": _counted([(row["en"], "es") for row in spanish]),
        "German texts as Spanish, found": _counted([(row["de"], "es") for row in german]),
    }
    print(json.dumps(found, indent=1))
    write("languages", {"command": "python -m benchmarks.languages", "rows": found}, PACKAGES)
    return 0


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _counted(texts: list[tuple[str, str]]) -> dict[str, int]:
    """Of texts and the language that each is said to be in: how many were looked at, and how many are said to be of another."""
    from py3langid import rank

    from ptune.doctor.translation import FEWEST_LETTERS, WrongLanguage

    rule = WrongLanguage((None, None), rank)
    looked_at = [(text, code) for text, code in texts if sum(map(str.isalpha, text)) >= FEWEST_LETTERS]
    told = sum(rule.other_than(code, text) is not None for text, code in looked_at)
    return {"texts": len(looked_at), "told": told}


if __name__ == "__main__":
    raise SystemExit(main())
