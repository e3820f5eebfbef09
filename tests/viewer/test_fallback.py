"""Where the page was not built, viser serves the meshes: here alone, and without a word."""

import http.client
from pathlib import Path

import pytest
from shown_things import write_shown_run

from topohead.viewer.fallback import serve_meshes
from topohead.viewer.scenes import open_scene

pytest.importorskip("viser")


def test_meshes_are_served_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve_meshes(open_scene(write_shown_run(tmp_path)), 0)
    host = server.url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 200 and b"<html" in answer.read()[:2000].lower()
    connection.close()
    server.close()
    assert host.startswith("127.0.0.1:")
    assert capsys.readouterr().out == ""  # stdout is for results
