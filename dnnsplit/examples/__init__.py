"""Ready-made inputs: the shipped YOLO11n with its profile and noise, PP-OCR, exported YOLO11, the slides' networks, small graphs.

In: the files of ``data/``. Out: graphs, networks, times, noise, images. May import every room up to solving.
"""

from dnnsplit.examples.ppe import scenes, scoring
from dnnsplit.examples.ppocr import ppocr_det, text_pages
from dnnsplit.examples.shipped import (
    SHIPPED,
    TOPOLOGIES,
    data_folder,
    load_images,
    network,
    random_problem,
    tiny,
    yolo11n,
    yolo11n_task,
)
from dnnsplit.examples.yolo11 import export_yolo11

__all__ = [
    "SHIPPED",
    "TOPOLOGIES",
    "data_folder",
    "export_yolo11",
    "load_images",
    "network",
    "ppocr_det",
    "random_problem",
    "scenes",
    "scoring",
    "text_pages",
    "tiny",
    "yolo11n",
    "yolo11n_task",
]
