"""Speed of the page: a run of 600 frames and 18.7 k vertices in headless Chromium.

    python benchmarks/view.py --out view.json
    python benchmarks/view.py --run demo/run --picture docs/images/view.jpg
    python benchmarks/view.py --run demo/run/export/glb/run.glb --picture docs/images/bundle.jpg

`open_s` is from the request of the page to its first image, `server_s` from the start of the
Python process to an answering server (importing torch is most of it; `server_cpu_s` is its time on
a processor, `load` how many others wanted one). `script_ms` is the time of script for each image
while the sequence plays (clock, decoding a frame, normals, upload calls, draw calls): what the
processor has to do before the graphics card begins. Chromium draws by software here, so the rate at
which images appear says nothing of a graphics card and is not reported. `memory` is after the whole
sequence was fetched. The run is the reference head in a made-up motion, written to a temporary
folder; nothing is random. `bundles` are the same head as a rig that plays under 100,000, 200,000
and 300,000 Gaussians with harmonics of degree 1 and eight codes of expression, as avatars have
them: `splats` shows them, `mesh` the mesh alone. An image of Gaussians takes this renderer seconds,
so there are fewer. `sort_ms` is the time of putting all of them in order, which a worker does
beside the page, and `html_mb` the same bundle as one offline file. What others do on this machine
makes times longer, so each has its least value too.
"""

import argparse
import io
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from measured_on import commit, hardware
from PIL import Image
from playwright.sync_api import sync_playwright
from safetensors.torch import save_file

from topohead.core import BoundSplats, Mesh
from topohead.geometry.avatars import ExpressionChange
from topohead.geometry.skinning import RigPerformance, rigged
from topohead.geometry.surface_cells import cell_gaussians, surface_cells
from topohead.io.assets import reference_head
from topohead.io.gltf_rig import write_rig_glb
from topohead.io.meshes import write_obj
from topohead.viewer.view import ViewConfig, view

CODES = 8
CHROMIUM = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def main() -> None:
    """Measure, write JSON, print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("view.json"))
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--images", type=int, default=60, help="images a shading plays")
    parser.add_argument("--gaussians", default="100000,200000,300000")
    parser.add_argument("--bundle", action="store_true", help="bundles alone, kept in --out")
    parser.add_argument("--picture", type=Path, help="only a screenshot of --run, as JPEG")
    parser.add_argument("--run", type=Path, help="a run folder with its take, or a bundle (.glb)")
    args = parser.parse_args()
    if args.picture:
        draw = write_bundle_picture if args.run.suffix == ".glb" else write_picture
        draw(args.run, args.picture)
        return
    with tempfile.TemporaryDirectory(prefix="topohead-view-") as folder:
        moved = []
        for count in (int(part) for part in args.gaussians.split(",")):
            bundle = write_bundle(Path(folder) / "bundle.glb", args.frames, count)
            row = {"commit": commit(), "load": hardware()["load"], "gaussians": count}
            moved.append(row | measure_bundle(bundle, args.images // 3))
            print(json.dumps(moved[-1]), flush=True)
        measured = (
            {}
            if args.bundle
            else measure(write_run(Path(folder) / "run", args.frames), args.images)
        )
    if args.bundle:
        kept = json.loads(args.out.read_text()) if args.out.exists() else {}
        args.out.write_text(json.dumps({**kept, "bundles": moved}, indent=1) + "\n")
        print(json.dumps(moved, indent=1))
        return
    document = {
        "benchmark": "view",
        "commit": commit(),
        "hardware": hardware(),
        "run": {"frames": args.frames, "vertices": reference_head(1).topology.vertex_count},
        **measured,
        "bundles": moved,
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


def write_run(run: Path, frames: int) -> Path:
    """A run folder with one texture and per-vertex errors; the jaw opens and the head sways."""
    head = reference_head(1)
    topology = head.topology
    jaw = head.expression_basis[17]
    folders = [run / "frames" / f"{t + 1:06d}" for t in range(frames)]
    for t, folder in enumerate(folders):
        folder.mkdir(parents=True)
        sway = torch.tensor([0.02 * np.sin(t / 40), 0.0, 0.0], dtype=torch.float32)
        vertices = head.template + 0.5 * (1 - np.cos(t / 8)) * jaw + sway
        save_file(
            {"vertices": vertices.float().contiguous(), "pose": torch.eye(4)},
            folder / "state.safetensors",
        )
        if t == 0:
            write_obj(Mesh(topology, vertices.float()), folder / "mesh.obj")
        else:
            (folder / "mesh.obj").hardlink_to(folders[0] / "mesh.obj")
    u, v = np.meshgrid(np.linspace(0, 255, 2048), np.linspace(0, 255, 2048))
    texture = np.stack([u, v, 255 - u], -1).astype(np.uint8)
    Image.fromarray(texture).save(folders[0] / "texture_srgb.png", compress_level=1)
    face = topology.regions["face"]
    errors = torch.linspace(0, 1, len(face)).expand(frames, -1).contiguous()
    save_file({"face_vertices": face, "surface_mm": errors}, run / "evaluation.safetensors")
    (run / "config.yaml").write_text("source: null\n")
    (run / "run.json").write_text(json.dumps({"verb": "capture"}))
    return run


def write_bundle(path: Path, frames: int, count: int) -> Path:
    """An avatar that nobody was fitted to; the jaw opens, the eyes blink and the head sways."""
    head = reference_head(1)
    rig = rigged(head.topology, head.template, head.expression_basis, torch.eye(4))
    cells = surface_cells(head.template, head.topology.triangles, count)
    colors = cells.centers - 0.5
    generator = torch.Generator().manual_seed(0)
    lit = 0.05 * torch.randn(count, 3, 3, generator=generator)
    harmonics = torch.cat([colors[:, None], lit], 1)
    splats = BoundSplats(cell_gaussians(cells), torch.full((count,), 0.97), harmonics)
    changes = 0.02 * torch.randn(2, count, CODES, 3, generator=generator)
    axes, ends = torch.randn(52, CODES, generator=generator), torch.full((CODES,), 2.0)
    change = ExpressionChange(torch.zeros(52), axes, -ends, ends, *changes)
    steps = torch.arange(frames)
    weights = torch.zeros(frames, 52)
    weights[:, 17] = 0.5 * (1 - torch.cos(steps / 8))
    weights[:, [0, 7]] = 0.5 * (1 - torch.cos(steps / 5))[:, None]
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = 0.02 * torch.sin(steps / 40)
    write_rig_glb(path, RigPerformance(rig, weights, poses, 30.0), splats=splats, change=change)
    return path


def measure_bundle(path: Path, images: int) -> dict[str, Any]:
    """Script a frame while a bundle plays, as Gaussians and as a mesh, and how it opened."""
    viewing = view(ViewConfig(path, browser=False, port=0))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*CHROMIUM, "--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 480, "height": 360})
        opened = time.perf_counter()
        page.goto(viewing.url, wait_until="commit")
        page.wait_for_selector("body[data-shown]")
        seconds = time.perf_counter() - opened
        script = {}
        for shown in ("splats", "mesh"):
            page.evaluate(f"() => topohead.subject.setShowing('{shown}')")
            script[shown] = timed(page, images)
        sorts = page.evaluate(SORTS)
        browser.close()
    viewing.close()
    file = path.with_suffix(".html")
    view(ViewConfig(path, html=file, browser=False))
    return {
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "html_mb": round(file.stat().st_size / 1e6, 1),
        "open_s": round(seconds, 2),
        "script_ms": script,
        "sort_ms": summary(sorts),
    }


SORTS = """async () => {
    const { spark } = topohead.subject.choice, { numSplats } = spark.current, times = [];
    while (spark.sorting || !spark.readback32) await new Promise((done) => setTimeout(done, 100));
    let held = { readback: spark.readback32.slice(), ordering: new Uint32Array(spark.maxSplats) };
    for (let k = 0; k < 30; k++) {
        const began = performance.now();
        held = await spark.sortWorker.call("sortSplats32", { numSplats, ...held });
        times.push(performance.now() - began);
    }
    return times;
}"""


def summary(times: list[float]) -> dict[str, float]:
    """How many there are; the least, the median and the 95th percentile."""
    return {
        "images": len(times),
        "least": round(float(np.min(times)), 2),
        "median": round(float(np.median(times)), 2),
        "p95": round(float(np.percentile(times, 95)), 2),
    }


def measure(run: Path, images: int) -> dict[str, Any]:
    """Opens the run as the command line does, plays it in every shading."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "topohead", "view", str(run), "--no-browser", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        line = ""
        while '"url"' not in line:
            line = server.stdout.readline()
            assert line, "the server did not start"
        url = line.split('"')[3]
        urllib.request.urlopen(f"{url}api/scene").read()
        ready = time.perf_counter() - began
        busy = sum(psutil.Process(server.pid).cpu_times()[:2])
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=[*CHROMIUM, "--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 480, "height": 360})
            page.goto("about:blank")
            opened = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("body[data-shown]")
            seconds = time.perf_counter() - opened
            script = {name: played(page, name, images) for name in ("texture", "clay", "error")}
            memory = fetched_memory(page)
            browser.close()
        return {
            "server_s": round(ready, 2),
            "server_cpu_s": round(busy, 2),
            "open_s": round(seconds, 2),
            "script_ms": script,
            "memory": memory,
        }
    finally:
        server.terminate()
        server.wait()


def write_picture(run: Path, path: Path) -> None:
    """The page on a desktop: a frame's wireframe on its own picture."""
    viewing = view(ViewConfig(run, browser=False, port=0))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*CHROMIUM, "--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1120, "height": 680})
        page.goto(viewing.url)
        page.wait_for_selector("body[data-shown]")
        for key in ("5", "c", "ArrowRight"):
            page.keyboard.press(key)
            page.wait_for_timeout(3000)
        page.screenshot(path=path, type="jpeg", quality=82)
        browser.close()
    viewing.close()


def write_bundle_picture(path: Path, picture: Path) -> None:
    """A bundle three times: its Gaussians, a smile and open jaw, the mesh's wires over them."""
    states = (
        "return 0",
        "const face = topohead.subject; face.setWeight('jawOpen', 0.55);"
        "face.setWeight('mouthSmileLeft', 0.8); face.setWeight('mouthSmileRight', 0.8);"
        "face.setWeight('eyeBlinkLeft', 1)",
        "topohead.subject.setShowing('both')",
    )
    viewing = view(ViewConfig(path, browser=False, port=0))
    parts = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*CHROMIUM, "--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 480, "height": 680})
        page.goto(viewing.url)
        page.wait_for_selector("body[data-shown]")
        for state in states:
            page.evaluate(f"() => {{ {state} }}")
            page.wait_for_timeout(6000)  # Gaussians are sorted by a worker
            box = {"x": 30, "y": 60, "width": 420, "height": 520}
            parts.append(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB"))
        browser.close()
    viewing.close()
    sheet = Image.new("RGB", (3 * 420, 520))
    for k, part in enumerate(parts):
        sheet.paste(part, (420 * k, 0))
    sheet.save(picture, quality=84)


def played(page: Any, shading: str, images: int) -> dict[str, float]:
    """Median and 95th percentile of script a frame, over so many images of playing."""
    page.evaluate(f"() => topohead.setShading('{shading}')")
    return timed(page, images)


def timed(page: Any, images: int) -> dict[str, float]:
    """The same of whatever is shown."""
    page.wait_for_timeout(1500)
    page.evaluate("() => { topohead.timeline.toggle(); topohead.scriptTimes.length = 0; }")
    for _ in range(600):
        page.wait_for_timeout(200)
        if page.evaluate("() => topohead.scriptTimes.length") >= images:
            break
    times = page.evaluate("() => topohead.scriptTimes")
    page.evaluate("() => topohead.timeline.pause()")
    return summary(times)


def fetched_memory(page: Any) -> dict[str, float]:
    """Megabytes of the frames alone and of the page's whole process, all chunks being in."""
    page.evaluate("() => topohead.setShading('texture')")
    chunks = page.evaluate(
        "() => Math.ceil(topohead.subject.frames.length / topohead.subject.frames.chunk)"
    )
    for index in range(chunks):
        page.evaluate(f"() => topohead.subject.frames.chunks.want({index})")
        page.wait_for_timeout(20)
    for _ in range(300):
        if page.evaluate("() => topohead.subject.frames.chunks.kept.size") >= chunks:
            break
        page.wait_for_timeout(100)
    frames = page.evaluate("() => topohead.subject.frames.bytes")
    resident = max(
        process.memory_info().rss
        for process in psutil.Process().children(recursive=True)
        if "--type=renderer" in process.cmdline()
    )
    return {"frames_mb": round(frames / 1e6, 1), "page_process_mb": round(resident / 1e6, 1)}


def processor() -> str:
    """The processor's name as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
