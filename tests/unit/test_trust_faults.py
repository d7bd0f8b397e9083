"""A flood against a server: its account of the frames holds, and each way in which it could be wrong is seen."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

pytest.importorskip("uvicorn", reason="the server's parts are not installed: pip install -e '.[serve]'")
pytest.importorskip("websockets", reason="the server's parts are not installed: pip install -e '.[serve]'")
from serving import serving  # noqa: E402

from benchmarks.trust import faults  # noqa: E402
from benchmarks.trust.host import KeepingMetrics, state  # noqa: E402
from benchmarks.trust.load import Tally  # noqa: E402
from benchmarks.trust.peers import Flooding, Opcodes, flood  # noqa: E402
from infer.server.limits import Limits  # noqa: E402

BEFORE = {"received": 100, "frames": 90, "dropped": {"silent": 3, "oldest": 4, "ahead": 3}}
AFTER = {"received": 480, "frames": 232, "dropped": {"silent": 3, "oldest": 4, "ahead": 238}}
FLOODING, BESIDE = Flooding(531, 290, 4.2), Tally(1, sent=100, received=100)


def judged(after=AFTER, flooding=FLOODING, **options):
    return faults.accounted(BEFORE, after, flooding, BESIDE, **options)


def test_every_frame_is_accounted_for():
    good = judged()
    assert good.met and good.measured == "280 received: 235 counted as dropped, 42 answered, 3 in the queue at the end"
    assert "of 531 sent, 251 were never received" in good.how and "241 were sent after" in good.how
    assert not judged(AFTER | {"dropped": BEFORE["dropped"]}).met  # what was let go is not counted,
    assert not judged(AFTER | {"dropped": AFTER["dropped"] | {"ahead": 228}}).met  # nor ten frames of it;
    assert not judged(AFTER | {"dropped": AFTER["dropped"] | {"ahead": 248}}).met  # or more is counted than came;
    assert not judged(AFTER | {"frames": 132}).met  # answers are missing;
    lost = AFTER | {"received": 280, "dropped": AFTER["dropped"] | {"ahead": 38}}
    assert not judged(lost).met  # two hundred frames never reach the conversation, which goes on;
    assert not judged(flooding=replace(FLOODING, seconds=20.0)).met  # it is never ended.
    late = replace(FLOODING, told=400)
    assert not judged(flooding=late).met and judged(flooding=late, busy=True).met


def test_a_server_knows_what_became_of_a_flood():
    with serving(Limits(slots=2, give_up_seconds=0.4)) as running:
        running.service.metrics = KeepingMetrics()
        before = running.call(lambda: state(running.service, 0.0))
        flooding = flood(running.port, faults.TIMES, faults.FLOOD_SECONDS)
        running.wait_free()
        time.sleep(0.2)  # the answer to what was in the step
        after = running.call(lambda: state(running.service, 0.0))
    promise = faults.accounted(before, after, flooding, Tally(), busy=True)
    assert promise.met, promise
    for kind in (kind for kind, count in after["dropped"].items() if count > faults.LEFT):  # had it not been counted
        assert not faults.accounted(before, after | {"dropped": after["dropped"] | {kind: 0}}, flooding, Tally(), busy=True).met


def test_messages_cut_anywhere_are_told_apart():
    stream = b"\x82\x01\0" + b"\x82\x7e\x0f\x01" + bytes(3841) + b"\x89\0" + b"\x88\x02\x03\xf0"
    whole, parts = Opcodes(), Opcodes()
    assert whole.push(stream) == [2, 2, 9, Opcodes.CLOSE]
    assert sum((parts.push(stream[n : n + 3]) for n in range(0, len(stream), 3)), []) == [2, 2, 9, Opcodes.CLOSE]
