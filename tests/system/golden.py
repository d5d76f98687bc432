"""What the tests of examples in other languages share: a bundle whose golden examples are somewhat off."""

import hashlib
import json
import shutil
from pathlib import Path

from serving.bundle import FILES
from serving.parity.rungs import Tolerance


def off_by(share: float, bundle: Path, folder: Path) -> Path:
    """A copy of a bundle in which one golden log-probability is off by a share of what parity allows.

    The manifest names the new file, so that only a replay can tell.
    """
    copy = shutil.copytree(bundle, folder / f"off-by-{share}")
    # Not splitlines: texts hold separators such as U+2028 as they are.
    examples = [json.loads(line) for line in (copy / FILES.golden).read_text().split("\n") if line]
    log_probs = examples[1]["log_probs"]
    tolerance = Tolerance()
    log_probs[-1] += share * (tolerance.atol + tolerance.rtol * abs(log_probs[-1]))
    golden = "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples).encode()
    (copy / FILES.golden).write_bytes(golden)
    manifest = json.loads((copy / FILES.manifest).read_text())
    manifest["files"][FILES.golden] = {"sha256": hashlib.sha256(golden).hexdigest(), "size": len(golden)}
    (copy / FILES.manifest).write_text(json.dumps(manifest))
    return copy
