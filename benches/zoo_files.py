"""The networks that compare-gpu and compare-step train on both sides."""

import subprocess
from pathlib import Path

BENCHES = Path(__file__).resolve().parent


def compared(networks: str | None, models: str | None, interpreter: str, env: dict, folder: Path) -> dict[str, str]:
    """How PyTorch's side names each network, and how ours does: presets alike, those of zoo.py by the file that
    PyTorch exports into `folder`."""
    presets = [name for name in (networks or "").split(",") if name]
    if not models:
        return {name: name for name in presets or ["tds_lstm"]}
    names = [] if models == "all" else models.split(",")
    env = env | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([interpreter, str(BENCHES / "zoo.py"), str(folder), *names], env=env, check=True)
    files = {path.stem: str(path) for path in sorted(Path(folder).glob("*.onnx"))}
    return {name: files[name] for name in names or files} | {name: name for name in presets}
