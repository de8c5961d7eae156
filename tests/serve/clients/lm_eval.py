"""lm-eval's local-completions against a server: URL and folder -> JSON of the figures. Run by test_clients.py.

The stand-in model gives each token the log-probability -0.5, so the shorter choice is the likelier one.
"""

import json
import sys
from pathlib import Path

sys.path.pop(0)  # this file bears the package's name

import lm_eval
from lm_eval.tasks import TaskManager

QUESTIONS = [
    {"question": "Which?", "choices": ["no", "certainly"], "answer": 0},
    {"question": "And?", "choices": ["perhaps", "yes"], "answer": 1},
    {"question": "Really?", "choices": ["indeed", "no"], "answer": 0},
    {"question": "So?", "choices": ["ja", "nein"], "answer": 0},
]
CHOICES = """
task: shorter
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
ANSWERS = """
task: echoes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "pirate heard: {{{{question}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 50}}
metric_list: [{{metric: exact_match}}]
"""


def main(url: str, folder: Path) -> None:
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    for name, source in (("shorter", CHOICES), ("echoes", ANSWERS)):
        (folder / f"{name}.yaml").write_text(source.format(data=data), encoding="utf-8")
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "pirate",
            "base_url": f"{url}/completions",
            "num_concurrent": 2,
            "max_length": 512,
        },
        tasks=["shorter", "echoes"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )["results"]
    print(json.dumps({"acc": results["shorter"]["acc,none"], "exact": results["echoes"]["exact_match,none"]}))


main(sys.argv[1], Path(sys.argv[2]))
