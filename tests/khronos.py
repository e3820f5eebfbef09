"""What the Khronos validator says of a GLB; skips where node or the validator is missing."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

VALIDATE = """
const validator = require(process.argv[1]);
const bytes = new Uint8Array(require('fs').readFileSync(process.argv[2]));
validator.validateBytes(bytes, {maxIssues: 50}).then(r => console.log(JSON.stringify(r.issues)));
"""


def issues(path: Path) -> list[dict[str, Any]]:
    """Errors and warnings; the module comes from tests/node or TOPOHEAD_GLTF_VALIDATOR."""
    installed = Path(__file__).parent / "node" / "node_modules" / "gltf-validator"
    module = os.environ.get("TOPOHEAD_GLTF_VALIDATOR") or str(installed)
    if not Path(module).is_dir() or not shutil.which("node"):
        pytest.skip("needs node and the validator: npm ci --prefix tests/node")
    done = subprocess.run(
        ["node", "-e", VALIDATE, module, str(path)], capture_output=True, text=True, check=True
    )
    # 0 errors and 1 warnings may not be; 2 and 3 are remarks
    return [said for said in json.loads(done.stdout)["messages"] if said["severity"] <= 1]
