"""The deadline that a test-bed takes, and what it says where none fits; nothing is started here but in the last test."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.bundle_models import detector, mlp
from helpers.deployments import images, network

from dnnsplit.cutting.bundle import Coding, Hop
from dnnsplit.deployment.testbed.deadlines import deadline
from dnnsplit.deployment.testbed.testbed import testbed
from dnnsplit.ground.errors import DeployError

LINK = 0.5 + 65536 * (1e-6 + 1e-9)  # seconds of h0 and of h2 over `slow`
INT8 = 0.5 + 16384 * (1e-6 + 1e-9)  # of q1


@pytest.fixture
def slow():
    return network(1e6, 0.5)


def test_it_is_a_minute_unless_a_request_takes_longer(mlp_bundle, slow):
    assert deadline(mlp_bundle, network(), False, 1.0, None) == 60.0
    # h0 to the edge, q1 to the cloud, h2 to the device; q1 to the device and h0 to the cloud are there sooner
    assert round(2 * LINK + INT8, 4) == 1.6476
    assert deadline(mlp_bundle, slow, False, 36.0, None) == 600.0  # ten times 36 * 1.6476 s = 593.1 s
    assert deadline(mlp_bundle, slow, False, 360.0, None) == 6000.0


def test_what_the_plan_says_counts_where_servers_are_slowed_down(mlp_bundle, slow):
    planned = replace(mlp_bundle, plan={"cost": {"compute_s": {"device": 2.0, "cloud": 1.0}}})
    assert deadline(planned, slow, False, 36.0, None) == 600.0
    assert deadline(planned, slow, True, 36.0, None) == 1700.0  # ten times 36 * 4.6476 s = 1673 s
    assert deadline(planned, slow, True, 1.0, None, {"cloud": 0.1}) == 150.0  # ten times 4.6476 s and 10 s that a watch stands
    assert deadline(planned, slow, False, 1.0, None, {"cloud": 0.1}) == 60.0
    assert deadline(planned, slow, True, 1.0, 2.1) == 2.1
    with pytest.raises(DeployError, match=r"about 4\.65 s .* more than deadline_s=1\.9; give deadline_s=9\.3, or leave it out"):
        deadline(planned, slow, True, 1.0, 1.9)


def test_one_that_no_request_can_keep_is_refused(mlp_bundle, slow):
    assert deadline(mlp_bundle, slow, False, 36.0, 59.4) == 59.4
    text = (
        r"a request takes about 59\.3 s of wall time \(dilation 36\), which is more than deadline_s=59; "
        "give deadline_s=120, or leave it out"
    )
    with pytest.raises(DeployError, match=text), testbed(mlp_bundle, slow, time_dilation=36.0, deadline_s=59.0):
        pass


def test_relays_and_parts_without_inputs(tmp_path, slow):
    relayed = replace(mlp(tmp_path), hops=(Hop("h2", "cloud", "edge"), Hop("h2", "edge", "device")))
    assert deadline(relayed, slow, False, 36.0, None) == 800.0  # ten times 36 * 2.2132 s = 796.8 s
    (tmp_path / "other").mkdir()
    found = detector(tmp_path / "other")  # tiny tensors, there and back: the size of the boxes is not known
    assert deadline(found, slow, False, 36.0, None) == 370.0  # ten times 36 * 1.0002 s


def test_forms_may_make_tensors_small_or_leave_them_as_they_are(mlp_bundle, slow):
    """Who asks for less than a request may take is refused where no request can keep it; the default allows for all of them."""
    transfers = [{"tensor": "h0", "source": "device", "target": "edge", "size_bytes": 9.0, "form": "zstd-1",
                  "encode_s": 1.0, "decode_s": 0.5}]  # fmt: skip
    coded = replace(mlp_bundle, codings=(Coding("h0", "device", "edge", "zstd-1"), Coding("h2", "cloud", "device", "zstd-1")))
    planned = replace(coded, plan={"cost": {"compute_s": {}, "transfers": transfers}})
    assert deadline(planned, slow, False, 36.0, None) == 600.0  # as without forms
    assert deadline(planned, slow, True, 36.0, None) == 1200.0  # ten times 36 * 3.1476 s = 1133.1 s
    assert deadline(planned, slow, False, 36.0, 55.0) == 55.0  # 36 * 1.5164 s = 54.6 s: h0 and h2 may take the latency alone
    with pytest.raises(DeployError, match=r"about 59\.3 s"):
        deadline(planned, slow, False, 36.0, 54.0)


def test_the_client_tells_it(mlp_bundle, slow):
    with testbed(mlp_bundle, slow, time_dilation=5.0) as client:
        assert repr(client) == f"Client(mlp at {client.address}, deadline 83 s)"
        assert np.isfinite(client.infer({"x": images()})["y"]).all()
