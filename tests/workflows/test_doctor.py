"""The doctor names what is missing and how to get it."""

import importlib.util
from pathlib import Path

import pytest

from topohead.workflows import doctor as module
from topohead.workflows.doctor import DoctorConfig, doctor


def test_every_finding_is_told() -> None:
    report = doctor(DoctorConfig())
    text = report.summary()
    for check in report.checks:
        assert check.name in text and check.found in text and check.advice in text
        assert check.state in {"ok", "optional", "bad"}
        assert check.state == "ok" or check.name == "cuda" or check.advice


def test_missing_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    checks = {check.name: check for check in doctor(DoctorConfig()).checks}
    assert "-m pip install 'mitsuba>=" in checks["mitsuba"].advice
    assert "-m pip install 'gsplat==" in checks["gsplat"].advice


def test_the_head_is_looked_for_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPOHEAD_CACHE", str(tmp_path))
    assert "not built yet" in doctor(DoctorConfig()).summary()
    (tmp_path / "anny-0.safetensors").touch()
    assert f"derived data in {tmp_path}" in doctor(DoctorConfig()).summary()


def test_one_core_is_called_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    assert "to mend: cores" in doctor(DoctorConfig()).summary()
