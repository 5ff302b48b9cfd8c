"""A short soak: `scripts/soak.py` for a minute instead of ten, with the same judgement."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from server import ROOT

SECONDS = 60


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_answer_is_lost_or_wrong_and_nothing_grows(tmp_path: Path) -> None:
    figures, plot = tmp_path / "soak.json", tmp_path / "soak.png"
    command = [sys.executable, "scripts/soak.py", f"--seconds={SECONDS}", f"--json={figures}", f"--plot={plot}"]
    command.append("--growth-mb=150")  # in a minute not everything has been loaded once; ten minutes are for this
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 120)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(figures.read_text())
    assert (report["lost"], report["wrong"], report["complaints"]) == (0, 0, [])
    assert report["requests"] > 3 * SECONDS
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_judgement_sees_what_is_wrong() -> None:
    """Or the test above could not fail."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from soak import Outcome, Sample

    def outcome(growth: float = 0, **values: object) -> Outcome:
        samples = [Sample(float(n), 500 + growth * n, 20, 20, n) for n in range(100)]
        return Outcome(**{"samples": samples, "exit_code": 0, **values})  # type: ignore[arg-type]

    assert outcome().complaints() == []
    assert outcome(growth=1.0).complaints() == ["memory grew by 50 MB"]
    assert outcome(lost=["a"]).complaints() == ["a"]
    assert outcome(wrong=["b"]).complaints() == ["b"]
    assert outcome(stop_s=25).complaints() == ["the server took 25 s to end"]
    assert outcome(tracebacks=1, exit_code=1).complaints() == ["1 tracebacks in the log", "the server ended with 1"]
