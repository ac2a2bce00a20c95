"""The training-step benchmark: its operation count, and that it measures and reports."""

import json

import pytest

from benchmarks.train_step import main, training_flop


def test_operations_of_a_training_clip():
    """1.76 GMAC a frame, 8 frames, forward and twice that backward."""
    assert training_flop(8, 112) == pytest.approx(84.7e9, rel=1e-3)
    assert training_flop(16, 112) == pytest.approx(2 * training_flop(8, 112), rel=1e-3)


def test_quick_run_reports_rates_and_shares(tmp_path, capsys):
    out = tmp_path / "step.json"
    assert main(["--quick", "--device", "cpu", "--dtypes", "fp32", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["step", "conv3d", "network", "matmul"]
    for name in ("step", "conv3d", "network"):
        work = rows[name]["clips_per_second"] * report["training_gflop_per_clip"]
        assert rows[name]["gflop_per_second"] == pytest.approx(work)
        assert rows[name]["share_of_matmul_peak"] > 0
    assert rows["matmul"]["share_of_matmul_peak"] == 1.0
    assert report["machine"]["torch"]
    assert list(tmp_path.iterdir()) == [out]
    assert "clips/s" in capsys.readouterr().out
