"""Several plans of one model in one folder: ``adaptive.json``, which prices them, and a bundle for each.

The folder and the model name of a bundle end in a hash of what its plan decides, so a plan is stored once however many
conditions it is the best for. Parts that plans have in common are one file on disk, where the file system has hard links.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.checks import read_document
from dnnsplit.cutting.prices import FollowedLink, Prices
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import sha256, write_json
from dnnsplit.ground.forms import formed
from dnnsplit.ground.markup import folded
from dnnsplit.ground.paths import is_file

FILE = "adaptive.json"
SCHEMA = 2


@dataclass(frozen=True)
class _Plan:
    folder: str
    digest: str
    noise: float
    fixed: float
    per_bandwidth: tuple[float, ...]

    def __post_init__(self) -> None:
        if Path(self.folder).name != self.folder:
            message = f"the plan folder {self.folder!r} is not a plain name; cut the plans again"
            raise DeployError(message)


@dataclass(frozen=True)
class _Document:
    """The form of the file."""

    model_name: str
    links: tuple[FollowedLink, ...]
    plans: tuple[_Plan, ...]


@dataclass(frozen=True)
class PlanSet:
    """What ``adaptive.json`` says."""

    folder: Path  # where it is
    model_name: str  # under which the deployment answers, whatever the plan
    links: tuple[FollowedLink, ...]
    folders: tuple[str, ...]  # of the plans, in `folder`
    digests: tuple[str, ...]  # hash of each plan's ``bundle.json``
    prices: Prices

    @staticmethod
    def load(folder: str | Path) -> PlanSet:
        """Read and check the file; the bundles are checked when they are loaded."""
        path = Path(folder) / FILE
        document = formed(read_document(path, SCHEMA), _Document, DeployError, str(path), complete=True)
        columns = (tuple(getattr(plan, field.name) for plan in document.plans) for field in fields(_Plan))
        folders, digests, noise, fixed, per_bandwidth = columns
        try:
            prices = Prices(tuple(link.ends for link in document.links), noise, fixed, per_bandwidth)
        except DeployError as error:
            message = f"{path}: {error}; cut the plans again"
            raise DeployError(message) from None
        return PlanSet(Path(folder), document.model_name, document.links, folders, digests, prices)

    def save(self) -> Path:
        """Write ``adaptive.json``."""
        prices = self.prices
        rows = zip(self.folders, self.digests, prices.noise, prices.fixed, prices.per_bandwidth, strict=True)
        document = _Document(self.model_name, self.links, tuple(_Plan(*row) for row in rows))
        return write_json(self.folder / FILE, {"schema": SCHEMA} | asdict(document))

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """The bundle of each plan, loaded and checked."""
        bundles = tuple(Bundle.load(self.folder / name) for name in self.folders)
        for bundle, digest in zip(bundles, self.digests, strict=True):
            if bundle.digest != digest:
                message = f"{bundle.folder} was changed after the cut; cut the plans again"
                raise DeployError(message)
            if (bundle.source, bundle.model_sha256) != (bundles[0].source, bundles[0].model_sha256):
                message = f"{bundle.folder} is of another model or source than {bundles[0].folder}; cut the plans again"
                raise DeployError(message)
        return bundles

    @property
    def stages(self) -> tuple[str, ...]:
        """The servers that need a running stage for one plan or another."""
        return tuple(dict.fromkeys(server for bundle in self.bundles for server in bundle.stages))

    @property
    def source(self) -> str:
        """The server where requests arrive."""
        return self.bundles[0].source

    @property
    def digest(self) -> str:
        """Hash of ``adaptive.json``, which holds those of all bundles: stages of one deployment agree in it."""
        return sha256(self.folder / FILE)

    def __repr__(self) -> str:
        ways = ", ".join(f"{link.source} -> {link.target}" for link in self.links) or "no link"
        many = f"{len(self.folders)} plan{'s' * (len(self.folders) != 1)}"
        return folded(f"PlanSet({self.model_name}: {many} on {', '.join(self.stages)}; follows {ways})")


def load_cut(folder: str | Path) -> Bundle | PlanSet:
    """Return what a folder holds: several plans, or one bundle."""
    return PlanSet.load(folder) if is_file(Path(folder) / FILE) else Bundle.load(folder)
