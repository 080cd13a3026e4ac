"""Execution providers that are packages of their own, ``onnxruntime-ep-*``: libraries that ONNX Runtime loads when it is told to.

They stand beside any package of ONNX Runtime. By its packaging guide each has a module that tells the names of its providers and
where its library is; a library is loaded when a session first needs it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

import onnxruntime as ort

from dnnsplit.ground.errors import OptionError
from dnnsplit.runtime.providers import Provider

PREFIX = "onnxruntime_ep_"
BUILT_IN = tuple(ort.get_available_providers())  # read here once: ONNX Runtime adds to them those of every library that is loaded


@cache
def plugins() -> dict[str, ModuleType]:
    """Return the module of every plugin that is installed, by the full name of its provider."""
    found: dict[str, ModuleType] = {}
    for package in metadata.distributions():
        if not re.sub(r"[-_.]+", "_", package.metadata["Name"] or "").lower().startswith(PREFIX):  # what is half removed has none
            continue
        tops = {file.parts[0] for file in package.files or () if file.name == "__init__.py" and len(file.parts) == 2}
        for top in sorted(tops):
            try:
                module = import_module(top)
                if hasattr(module, "get_library_path"):  # a package may hold a name only, or stand for another one
                    names = module.get_ep_names() if hasattr(module, "get_ep_names") else [module.get_ep_name()]
                    found |= dict.fromkeys(names, module)
            except Exception as error:  # whatever its code raises
                message = f"the package {package.name!r} does not tell its execution providers: {error}; mend or uninstall it"
                raise OptionError(message) from None
    return found


def installed() -> list[str]:
    """Return the full names of all providers: built in, of plugins, and of libraries that others have loaded."""
    return list(dict.fromkeys([*BUILT_IN, *plugins(), *(device.ep_name for device in ort.get_ep_devices())]))


def is_plugin(name: str) -> bool:
    """Whether a provider is asked for by its device; ONNX Runtime would take the CPU where it is asked for by its name."""
    loaded = (device for device in ort.get_ep_devices() if device.ep_name == name)
    return name not in BUILT_IN or any("library_path" in device.ep_metadata for device in loaded)


def device_of(provider: Provider) -> Any:
    """Return the one device of a plugin's provider that sessions are made on; its library is loaded when it is not yet."""
    if provider.ort_name in plugins():
        _load(provider.ort_name)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider.ort_name]
    if not devices:
        message = (
            f"execution provider {provider.name!r} is installed but finds no device on this machine that it can use (or its "
            "driver is missing); use 'cpu', or another package that brings it"
        )
        raise OptionError(message)
    names = [device.ep_metadata.get("ov_device", device.device.type.name) for device in devices]  # OpenVINO's: GPU.1
    wanted = provider.wanted
    if not wanted:
        return devices[0]
    if wanted.isdecimal() and int(wanted) < len(devices):
        return devices[int(wanted)]
    if wanted.upper() in names:
        return devices[names.index(wanted.upper())]
    there = ", ".join(f"{provider.name}:{name}" for name in dict.fromkeys([*names, *map(str, range(len(devices)))]))
    message = f"execution provider {provider.name!r} has no device {wanted!r} on this machine; it has {there}"
    raise OptionError(message)


@cache
def _load(name: str) -> None:
    """Load a provider's library, once; under the provider's own name, which some libraries take theirs from."""
    try:
        ort.register_execution_provider_library(name, plugins()[name].get_library_path())
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        message = (
            f"the library of execution provider {name!r} cannot be loaded by ONNX Runtime {ort.__version__}: "
            f"{str(error).strip().splitlines()[0]}; install versions of both that fit each other, or use 'cpu'"
        )
        raise OptionError(message) from None
