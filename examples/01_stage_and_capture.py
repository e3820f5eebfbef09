"""Film a virtual head, capture it, and compare with the truth: the demo in a few lines of Python.

    python examples/01_stage_and_capture.py [OUT]

Every verb of the command line is a Config and a function; what the command prints is what the
function returns.
"""

import sys
from pathlib import Path

from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.evaluate import EvaluateConfig, evaluate
from topohead.workflows.stage import StageConfig, stage

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")

take = out / "take"
stage(StageConfig(take, preset="tiny", cameras=8, seed=7))

run = out / "run"
capture(CaptureConfig(source=take, out=run, texture_size=1024))

evaluation = evaluate(EvaluateConfig(run))
print(evaluation.summary())
