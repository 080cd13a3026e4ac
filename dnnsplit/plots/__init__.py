"""Every figure, as a function of stage objects. Each returns the figure and the numbers it draws.

In: stage objects and tables of any room. Out: matplotlib figures, files, and the sliders of JupyterLab.
May import every room but the command line and sweeps; matplotlib is imported here alone.
"""

from dnnsplit.plots.assignments import layers_per_server, parts_per_server
from dnnsplit.plots.bandwidths import bandwidth, bandwidth_grid
from dnnsplit.plots.captions import described
from dnnsplit.plots.energy import energy_shares
from dnnsplit.plots.execution import execution
from dnnsplit.plots.forms import source_forms
from dnnsplit.plots.grids import energy_limits, latency_energy
from dnnsplit.plots.interactions import interactions
from dnnsplit.plots.measured import durations, prediction_errors
from dnnsplit.plots.noise import latency_noise, learning_curve, limit_coverage, noise_fit, noise_fronts, sensitivity
from dnnsplit.plots.placement import placement
from dnnsplit.plots.regimes import regimes
from dnnsplit.plots.scale import scale
from dnnsplit.plots.slides import device_panels, topologies, weight_panels
from dnnsplit.plots.style import save, save_and_show
from dnnsplit.plots.task import noise_task
from dnnsplit.plots.times import layer_seconds, predicted_measured, split_times, tensor_sizes

__all__ = [
    "bandwidth", "bandwidth_grid", "described", "device_panels", "durations", "energy_limits", "energy_shares", "execution",
    "interactions", "latency_energy", "latency_noise", "layer_seconds", "layers_per_server", "learning_curve",
    "limit_coverage", "noise_fit", "noise_fronts", "noise_task", "parts_per_server", "placement", "predicted_measured",
    "prediction_errors", "regimes", "save", "save_and_show", "scale", "sensitivity", "source_forms", "split_times",
    "tensor_sizes", "topologies", "weight_panels",
]  # fmt: skip
