"""The page's server: what it gives, what it refuses, and to whom."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shown_things import (
    FRAMES,
    PAGE_PARTS,
    RATE,
    ask,
    hide_frames,
    planted_errors,
    write_shown_run,
)

from planted_run import ellipsoid_topology, performance
from topohead import cli
from topohead.core import InputError, Mesh
from topohead.io.meshes import write_obj
from topohead.io.results import open_run, open_source
from topohead.io.undistortion import undistorted_views
from topohead.viewer import view as views
from topohead.viewer.bodies import Kept
from topohead.viewer.pages import built_page, json_in_html, offline_html
from topohead.viewer.scenes import open_scene
from topohead.viewer.server import SceneServer, byte_range


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shown_run(tmp_path_factory.mktemp("shown"))


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[SceneServer]:
    server = SceneServer(open_scene(run), PAGE_PARTS)
    yield server
    server.close()


def body(server: SceneServer, name: str) -> bytes:
    status, _, data = ask(server, f"/data/{name}")
    assert status == 200, data
    return data


def test_the_document_describes_the_run(server: SceneServer) -> None:
    status, headers, data = ask(server, "/api/scene")
    assert status == 200 and headers["Content-Type"] == "application/json"
    scene = json.loads(data)
    capture = scene["subjects"][0]
    assert scene["title"].endswith("/run") and capture["kind"] == "sequence"
    assert capture["frames"] == [f"{t + 1:06d}" for t in range(FRAMES)]
    assert np.allclose(capture["times"], np.arange(FRAMES) / RATE)
    assert capture["doubtful"] == [3] and capture["errors"] == ["surface"]
    assert [entry["name"] for entry in capture["cameras"]] == ["left", "middle", "right", "spare"]
    assert all(entry["pictures"] for entry in capture["cameras"])


def arrays(server: SceneServer) -> dict[str, np.ndarray]:
    data, offset, found = body(server, "0/topology"), 0, {}
    for name, kind, count in server.scene.document["subjects"][0]["arrays"]:
        found[name] = np.frombuffer(data, kind, count, offset)
        offset += found[name].nbytes
    assert offset == len(data)
    return found


def test_frames_come_back_within_half_a_step(server: SceneServer) -> None:
    base = arrays(server)["base"].reshape(-1, 3)
    decoded = []
    for chunk in (0, 1):
        data = body(server, f"0/frames/{chunk}")
        step = np.frombuffer(data, np.float32, 1)[0]
        assert step < 1e-6  # metres
        decoded.append(base + step * np.frombuffer(data, np.int16, -1, 4).reshape(-1, *base.shape))
    truth = performance(FRAMES).float().numpy()
    assert np.abs(np.concatenate(decoded) - truth).max() < 1e-6


def test_split_arrays_rebuild_the_topology(server: SceneServer) -> None:
    found, topology = arrays(server), ellipsoid_topology()
    source = found["source"].astype(int)
    assert (source[found["triangles"].reshape(-1, 3)] == topology.triangles.numpy()).all()
    assert (source[found["edges"].reshape(-1, 2)] == topology.edges.numpy()).all()
    corner_uv = found["uv"].reshape(-1, 2)[found["triangles"].reshape(-1, 3)]
    assert np.allclose(corner_uv, topology.uv[topology.triangle_uv].numpy())
    assert len(source) > topology.vertex_count  # the seam was split


def test_errors_are_whole_micrometres(server: SceneServer) -> None:
    measured = arrays(server)["measured"]
    rows = [np.frombuffer(body(server, f"0/errors/surface/{c}"), np.uint16) for c in (0, 1)]
    found = np.concatenate(rows).reshape(FRAMES, len(measured))
    assert (measured == planted_errors()["face_vertices"].numpy()).all()
    assert (found[:, 0] == 65_535).all()
    assert (found[:, 1:] == (np.arange(FRAMES) * 100)[:, None]).all()


def test_pictures_are_the_undistorted_views(server: SceneServer, run: Path) -> None:
    pixels = cv2.imdecode(np.frombuffer(body(server, "0/picture/2/4"), np.uint8), 1)[..., ::-1]
    capture = open_source(open_run(run))
    assert capture is not None
    view = undistorted_views(capture, "000005", ["right"]).images[0].numpy() * 255
    assert pixels.shape == view.shape
    assert np.abs(pixels - view).mean() < 2
    assert ask(server, "/data/0/picture/2/4/full")[0] == 200
    assert ask(server, "/data/0/picture/4/0")[0] == 404  # there are four cameras


def test_textures_in_the_size_asked_for(tmp_path: Path) -> None:
    mesh = tmp_path / "head.obj"
    write_obj(Mesh(ellipsoid_topology(), performance(1)[0].float()), mesh, texture="skin.png")
    cv2.imwrite(str(tmp_path / "skin.png"), np.full((60, 5000, 3), (200, 100, 50), np.uint8))
    subject = open_scene(mesh).subjects[0]
    assert subject.document["maps"]["texture"]["sizes"] == [2048, 4096, 5000]
    preview = subject.body(["texture", "0", "2048"])
    assert preview is not None and preview.mime == "image/jpeg"
    pixels = cv2.imdecode(np.frombuffer(preview.read(), np.uint8), 1)
    assert pixels.shape == (25, 2048, 3)
    assert np.abs(pixels.mean((0, 1)) - [200, 100, 50]).max() < 2
    full = subject.body(["texture", "0", "5000"])
    assert full is not None and full.mime == "image/png"
    assert full.read() == (tmp_path / "skin.png").read_bytes()
    assert subject.body(["texture", "0", "1024"]) is None


def test_a_frame_wears_its_own_maps(tmp_path: Path) -> None:
    run = write_shown_run(tmp_path)
    for frame in ("000003", "000005"):
        cv2.imwrite(str(run / "frames" / frame / "normal.png"), np.full((8, 8, 3), 128, np.uint8))
        shutil.copy(run / "frames/000001/texture_srgb.png", run / "frames" / frame)
    maps = open_scene(run).subjects[0].document["maps"]
    assert maps["texture"]["of"] == [0, 0, 1, 0, 2, *[0] * 6]  # else the first frame's
    assert maps["relief"]["of"] == [-1, -1, 0, -1, 1, *[-1] * 6]  # else none
    few = open_scene(run).subjects[0].reduced(5)  # frames 1, 3 or 4, 6, 8 or 9, 11
    assert [name for name in few.names() if name.startswith("relief/")] == ["relief/0/8"]


HOSTILE = [
    "/../run.json", "/%2e%2e/%2e%2e/etc/passwd", "/data/../run.json", "/data/0/../../run.json",
    "/data/0/..%2f..%2frun.json", "/data//etc/passwd", "/data/0/frames/-1", "/data/0/frames/99",
    "/data/0/frames/0x0", "/data/0/frames/%D9%A3", "/data/0/frames/1e0", "/data/9/topology",
    "/data/0/errors/../../run.json/0", "/data/0/errors/face_vertices/0", "/data/0/picture/0/000001",
    "/data/0/picture/left/0", "/config.yaml", "/frames/000001/mesh.obj", "/data/0/texture/0/1",
    "/\\..\\run.json", "/%00", "/data/0/topology%00.txt", "/data/" + "0/" * 2000, "//evil.example/",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_but_bodies_is_served(server: SceneServer, path: str) -> None:
    status, headers, data = ask(server, path)
    assert status == 404 and len(data) < 200
    assert headers["Content-Type"].startswith("text/plain")


def test_every_answer_forbids_other_hosts(server: SceneServer) -> None:
    for path in ("/", "/style.css", "/page.js", "/api/scene", "/nothing"):
        _, headers, _ = ask(server, path)
        rules = dict(
            rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";")
        )
        assert rules["default-src"] == "'none'"
        for rule in ("script-src", "style-src", "connect-src", "img-src", "worker-src"):
            for source in rules[rule].split():
                own = [f"ws://{name}:{server.port}" for name in ("127.0.0.1", "localhost")]
                assert source in ("'self'", "'wasm-unsafe-eval'", "blob:", "data:", *own)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


def test_only_this_machine_may_ask(server: SceneServer) -> None:
    assert server._http.server_address[0] == "127.0.0.1"
    assert ask(server, "/", Host=f"localhost:{server.port}")[0] == 200
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", ""):
        assert ask(server, "/api/scene", Host=host)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: SceneServer, method: str) -> None:
    assert ask(server, "/", method)[0] == 501


def test_head_has_no_body(server: SceneServer) -> None:
    status, headers, data = ask(server, "/data/0/topology", "HEAD")
    assert status == 200 and data == b"" and int(headers["Content-Length"]) > 1000


def test_ranges(server: SceneServer) -> None:
    whole = body(server, "0/topology")
    status, headers, data = ask(server, "/data/0/topology", Range="bytes=10-19")
    assert status == 206 and data == whole[10:20]
    assert headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
    assert ask(server, "/data/0/topology", Range="bytes=-7")[2] == whole[-7:]
    status, headers, data = ask(server, "/data/0/topology", Range=f"bytes={len(whole)}-")
    assert status == 416 and data == b"" and headers["Content-Range"] == f"bytes */{len(whole)}"


@given(st.integers(0, 60), st.integers(0, 99), st.integers(0, 99))
def test_ranges_agree_with_slices(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    found = byte_range(f"bytes={first}-{last}", size)
    if last < first:
        assert found is None
    elif first >= size:
        assert found == "unsatisfiable"
    else:
        assert isinstance(found, range)
        assert bytes(found) == data[first : last + 1]
    for nonsense in ("bytes=a-b", "lines=0-1", "bytes=0-1,3-4", "bytes=-", "", None):
        assert byte_range(nonsense, size) is None


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(1)>\n<b>\u202e&.obj'
    mesh = tmp_path / evil
    write_obj(Mesh(ellipsoid_topology(), performance(1)[0].float()), mesh)
    server = SceneServer(open_scene(mesh), PAGE_PARTS)
    try:
        scene = json.loads(ask(server, "/api/scene")[2])
        assert scene["title"] == scene["subjects"][0]["title"] == evil
        assert body(server, "0/topology")
    finally:
        server.close()
    html = offline_html(PAGE_PARTS, open_scene(mesh), 1)
    assert "onerror" in html and "<img" not in html
    assert html.count("</script>") == html.count("<script")
    text = html.split('id="scene">')[1].split("</script>")[0]
    assert json.loads(text)["title"] == evil


@given(st.text())
def test_json_cannot_leave_its_element(text: str) -> None:
    written = json_in_html({"name": text})
    assert json.loads(written) == {"name": text}
    assert not set("<>&") & set(written)


def test_links_out_of_the_run_are_refused(tmp_path: Path) -> None:
    run = write_shown_run(tmp_path)
    texture = run / "frames" / "000002" / "texture_srgb.png"
    (tmp_path / "secret.png").write_bytes(b"secret")
    texture.symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="leads out of"):
        open_scene(run)


def test_a_mesh_names_no_texture_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    write_obj(Mesh(ellipsoid_topology(), performance(1)[0].float()), folder / "head.obj")
    (folder / "head.mtl").write_text("newmtl head\nmap_Kd ../secret.png\n")
    with pytest.raises(InputError, match="leads out of"):
        open_scene(folder / "head.obj")


def test_a_broken_frame_is_told_and_others_play(tmp_path: Path) -> None:
    run = write_shown_run(tmp_path)
    (run / "frames" / "000010" / "state.safetensors").write_bytes(b"\0" * 40)
    server = SceneServer(open_scene(run), PAGE_PARTS)
    try:
        assert ask(server, "/data/0/frames/0")[0] == 200
        status, _, said = ask(server, "/data/0/frames/1")
        assert status == 404 and b"000010" in said
    finally:
        server.close()


def test_a_running_capture_grows(tmp_path: Path) -> None:
    run = write_shown_run(tmp_path)
    later = hide_frames(run, 5)
    server = SceneServer(open_scene(run), PAGE_PARTS)
    try:
        assert len(body(server, "0/frames/0")) == 4 + 5 * 6 * ellipsoid_topology().vertex_count
        assert json.loads(ask(server, "/api/scene")[2])["growing"]
        for hidden, state in later.items():
            hidden.rename(state)
        capture = json.loads(ask(server, "/api/scene")[2])["subjects"][0]
        assert len(capture["frames"]) == FRAMES
        # the same name means more frames now: nothing old may be kept
        assert len(body(server, "0/frames/0")) == 4 + 8 * 6 * ellipsoid_topology().vertex_count
        scene = server.scene
        ask(server, "/api/scene")
        assert server.scene is scene  # nothing changed, nothing was read again
        (run / "stages" / "track").mkdir(parents=True)
        (run / "stages" / "track" / "done.json").write_text("{}")
        assert not json.loads(ask(server, "/api/scene")[2])["growing"]
    finally:
        server.close()


def test_offline_file_asks_for_nothing(run: Path, tmp_path: Path) -> None:
    html = offline_html(PAGE_PARTS, open_scene(run), 3)
    assert "connect-src blob: data:" in html and "'self'" not in html
    assert 'src="' not in html and "href=" not in html
    assert html.count("data-name=") == len(open_scene(run).subjects[0].reduced(3).names())


# -- the verb


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["view", str(tmp_path / "nothing")]) == 2
    assert "expected a run folder" in capsys.readouterr().err


def test_without_a_page_it_says_what_is_missing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("topohead.viewer.pages.built_page", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.run(["view", str(run), "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert "npm ci" in said and "topohead[viewer]" in said
    assert cli.run(["view", str(run), "--html", str(run / "x.html")]) == 2
    assert not (run / "x.html").exists()


def test_a_taken_port(run: Path, server: SceneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "DEFAULT_PORT", server.port)
    monkeypatch.setattr("topohead.viewer.pages.built_page", lambda: PAGE_PARTS)
    viewing = views.view(views.ViewConfig(run, browser=False))
    assert isinstance(viewing, views.Viewing)
    assert viewing.url != server.url
    viewing.close()
    with pytest.raises(InputError, match="--port"):
        views.view(views.ViewConfig(run, browser=False, port=server.port))


def test_the_address_is_told_before_it_waits(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("topohead.viewer.pages.built_page", lambda: PAGE_PARTS)
    told = []

    def interrupted(server: SceneServer) -> None:
        told.append((server.url, capsys.readouterr().out))
        raise KeyboardInterrupt

    monkeypatch.setattr(SceneServer, "wait", interrupted)
    assert cli.run(["view", str(run), "--no-browser", "--port", "0"]) == 0
    assert cli.run(["view", str(run), "--no-browser", "--port", "0", "--json"]) == 0
    (first, line), (second, document) = told
    assert line.startswith(f"{first} ") and json.loads(document)["url"] == second
    with pytest.raises(OSError):  # an interrupt closes the server
        urllib.request.urlopen(second, timeout=5)


def test_kept_bodies_have_a_limit() -> None:
    kept, made = Kept(limit=10), []

    def make(name: str) -> bytes:
        made.append(name)
        return b"12345"

    for name in ("a", "b", "a", "c", "a", "b"):
        assert kept.get(name, lambda name=name: make(name)) == b"12345"
    assert made == ["a", "b", "c", "b"]  # b was used least lately when c came


def test_built_page_is_all_or_nothing(tmp_path: Path) -> None:
    assert built_page(tmp_path) is None
    for name in ("index.html", "style.css", "page.js"):
        (tmp_path / name).write_text(name)
    assert built_page(tmp_path) is None
    (tmp_path / "page-splats.js").write_text("splats")
    page = built_page(tmp_path)
    assert page is not None and page.splats == "splats"
