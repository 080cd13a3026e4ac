"""Several plans of one model in one folder: ``adaptive.json``, which prices them, and a bundle for each.

The folder and the model name of a bundle end in a hash of what its plan decides, so a plan is stored once however many
conditions it is the best for. Parts that plans have in common are one file on disk, where the file system has hard links.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.prices import FollowedLink, Prices
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import sha256, write_json

FILE = "adaptive.json"
SCHEMA = 2


@dataclass(frozen=True)
class PlanSet:
    """What ``adaptive.json`` says.

    Parameters
    ----------
    folder : where it is
    model_name : under which the deployment answers, whatever the plan
    links : those whose bandwidth decides between the plans
    folders : of the plans, in `folder`
    digests : hash of each plan's ``bundle.json``
    prices : what the plans are worth at any bandwidths of the links, and their noise
    """

    folder: Path
    model_name: str
    links: tuple[FollowedLink, ...]
    folders: tuple[str, ...]
    digests: tuple[str, ...]
    prices: Prices

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds a set of plans rather than one bundle."""
        return (Path(folder) / FILE).is_file()

    @staticmethod
    def load(folder: str | Path) -> PlanSet:
        """Read and check the file; the bundles are checked when they are loaded.

        Raises
        ------
        DeployError : it is missing, damaged or of another version
        """
        path = Path(folder) / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.pop("schema") != SCHEMA:
                raise ValueError(f"it is not of schema {SCHEMA}")
            plans, links = document.pop("plans"), tuple(FollowedLink(**link) for link in document.pop("links"))
            folders, digests, noise, fixed = (
                tuple(plan.pop(key) for plan in plans) for key in ("folder", "digest", "noise", "fixed")
            )
            slopes = tuple(tuple(map(float, plan.pop("per_bandwidth"))) for plan in plans)
            prices = Prices(tuple(x.ends for x in links), tuple(map(float, noise)), tuple(map(float, fixed)), slopes)
            found = PlanSet(Path(folder), str(document.pop("model_name")), links, folders, digests, prices)
            if document or any(plans):
                raise ValueError(f"there must be nothing else in it: {', '.join([*document, *(k for p in plans for k in p)])}")
            if wrong := [name for name in folders if Path(name).name != name]:
                raise ValueError(f"the plan folder {wrong[0]!r} is not a plain name")
            if not all(x.bandwidth_bytes_per_s > 0 and x.latency_s >= 0 and x.serialise_s_per_byte >= 0 for x in links):
                raise ValueError("the bandwidth of a link must be above 0, its times 0 or more")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"the key {error} is missing" if isinstance(error, KeyError) else error
            raise DeployError(f"{path} is not usable as a set of plans: {reason}; cut the plans again") from None
        return found

    def save(self) -> Path:
        """Write ``adaptive.json``."""
        keys = ("folder", "digest", "noise", "fixed", "per_bandwidth")
        prices = self.prices
        rows = zip(self.folders, self.digests, prices.noise, prices.fixed, prices.per_bandwidth, strict=True)
        plans = [dict(zip(keys, row, strict=True)) for row in rows]
        links = [asdict(link) for link in self.links]
        document = {"schema": SCHEMA, "model_name": self.model_name, "links": links, "plans": plans}
        return write_json(self.folder / FILE, document)

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """The bundle of each plan, loaded and checked."""
        bundles = tuple(Bundle.load(self.folder / name) for name in self.folders)
        for bundle, digest in zip(bundles, self.digests, strict=True):
            if bundle.digest != digest:
                raise DeployError(f"{bundle.folder} was changed after the cut; cut the plans again")
            if (bundle.source, bundle.model_sha256) != (bundles[0].source, bundles[0].model_sha256):
                raise DeployError(f"{bundle.folder} is of another model or source than {bundles[0].folder}; cut the plans again")
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
        return f"PlanSet({self.model_name}: {len(self.folders)} plans on {', '.join(self.stages)}; follows {ways})"
