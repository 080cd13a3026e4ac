"""Parameters that make the notebooks small, wherever tests run them."""

from helpers.agents import model

# of those that measure for minutes, so that what each of them writes is enough for the next
SMALL = {
    "02-profile.ipynb": {"runs": 6, "calibration_images": 2, "source_seconds": 0.4, "splits": 3, "held_out": 3},
    "03-noise.ipynb": {
        "count": 6, "train": 40, "budget": 20, "sizes": [10, 20], "noise_images": 2, "calibration_images": 2,
        "verify_images": 8,
    },
    "06-latency-test.ipynb": {"limits": [0.0, 0.05], "repeats": 2, "warm_up": 1, "noise_images": 1},
    "07-scale.ipynb": {"layers": [20, 50], "servers": [2, 3], "at_servers": 2, "at_layers": 50, "slides_layers": [20]},
    "08-figures.ipynb": {"train": 40},
}  # fmt: skip


def small_deployment(folder):
    """Parameters of 09-deploy: a small model, written into a folder, and a link that is worth leaving."""
    path, pictures = model(folder)
    speeds = {"device_cpus": 0.01, "device_edge": 20e6, "dropped": 20e3}
    return {"model": str(path), "images": str(pictures), "max_noise": 0.0, "requests": 2, **speeds}
