"""Folders of the repository, and files that it ships, as a command line takes them."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent

MODEL, NETWORK, TIMES, NOISE = (
    str(ROOT / "data" / part)
    for part in (
        "models/yolo11n-ppe-320.onnx",
        "networks/device-edge.yaml",
        "profiles/yolo11n-ppe-320.csv",
        "noise/yolo11n-ppe-320.csv",
    )
)
