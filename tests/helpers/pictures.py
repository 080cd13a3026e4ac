"""Tensors that hold images of 8 bits, in the ways in which networks want them."""

import numpy as np

from dnnsplit.codecs.pixels import IMAGENET

MEAN, DEVIATION = (numbers.astype(np.float32) for numbers in IMAGENET)


def levels(channels=3, count=1, height=16, width=16, seed=0):
    """Images that have every level in every channel, (count, height, width, channels)."""
    random = np.random.default_rng(seed)
    planes = [random.permutation(np.resize(np.arange(256, dtype=np.uint8), height * width)) for _ in range(count * channels)]
    return np.moveaxis(np.reshape(planes, (count, channels, height, width)), 1, 3).copy()


def laid_out(images, layout):
    """Images as a tensor of a layout, still of 8 bits."""
    batch = np.moveaxis(images, 3, 1) if layout.endswith("CHW") else images
    return np.ascontiguousarray(batch if "N" in layout else batch[0])


def normalized(images, mean=MEAN, deviation=DEVIATION, dtype=np.float32):
    return (images.astype(dtype) / dtype(255) - mean.astype(dtype)) / deviation.astype(dtype)


# by name, what becomes of images (count, height, width, channels)
WAYS = {
    "k/255": lambda k: k.astype(np.float32) / np.float32(255),
    "k*(1/255)": lambda k: k.astype(np.float32) * np.float32(1 / 255),
    "k/127.5-1": lambda k: k.astype(np.float32) / np.float32(127.5) - np.float32(1),
    "k": lambda k: k.astype(np.float32),
    "k-128": lambda k: k.astype(np.float32) - np.float32(128),
    "float64": lambda k: k / 255,
    "float16": lambda k: (k / 255).astype(np.float16),
    "uint8": lambda k: k,
    "int8": lambda k: (k.astype(np.int16) - 128).astype(np.int8),
    "int64": lambda k: k.astype(np.int64),
    "big-endian": lambda k: (k / 255).astype(">f4"),
    "odd": lambda k: (k.astype(np.float32) / np.float32(255) - np.float32(0.4321)) / np.float32(0.317),
}
OF_COLOURS = {
    "imagenet": normalized,
    "imagenet in float64": lambda k: normalized(k, *IMAGENET, np.float64).astype(np.float32),
    "imagenet as BGR": lambda k: normalized(k, MEAN[::-1], DEVIATION[::-1]),
    "caffe": lambda k: k.astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32),
}
