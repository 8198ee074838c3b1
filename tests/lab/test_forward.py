"""The server that forwards packets without decoding them: notebooks/lab/forward.py."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import sys
from pathlib import Path

from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import Loss, Tap
from lab.changes import arrivals
from lab.forward import passed, publish

from loopback import SyntheticSource, read_time_code


def test_packets_reach_two_viewers_with_other_marks_and_the_same_payload() -> None:
    async def scenario() -> None:
        server = await publish(SyntheticSource(160, 120, 30))
        try:
            one, two = await server.join(), await server.join()
            with Tap(server.call) as came, Tap(one) as out, Tap(two) as other:
                await asyncio.sleep(0.3)
            assert server.call.pc2.picture is None
            assert all(read_time_code(call.pc2.picture) is not None for call in (one, two))
            table = passed({"in": (came, server.call.pc2), "1": (out, one.pc2), "2": (other, two.pc2)})
            same = {row[0].partition(":")[0]: row[-1] for row in table.rows}
            assert [name for name, verdict in same.items() if verdict == "different"] == [
                *("SSRC", "last 4 bytes as sent"),
            ]
            cost = await server.cost(0.3)
            assert (cost.encoders, cost.connections) == (1, 3)
            assert cost.decoded >= cost.encoded
            assert "sent on to ≈" in repr(server)
        finally:
            await server.close()

    run(scenario())


def test_a_late_viewer_sees_nothing_until_its_request_is_passed_on() -> None:
    async def scenario() -> None:
        server = await publish(SyntheticSource(160, 120, 30))
        try:
            await server.join()
            await asyncio.sleep(0.2)
            late = await server.join(ask=False)
            assert not await arrivals(late, 0.3)
            assert server.inside.legs[-1].sent > 3
            server.listen_to(late)
            await late.steps[-1].run()
            assert await arrivals(late, 0.2)
        finally:
            await server.close()

    run(scenario())


def test_the_server_repairs_what_a_viewer_has_lost() -> None:
    async def scenario() -> None:
        server = await publish(SyntheticSource(320, 240, 30))
        try:
            viewer = await server.join()
            lossy = [Loss(0.2, seed=1, layer="SRTP", who="pc1")]
            with Tap(server.call) as above, Tap(viewer, faults=lossy) as below:
                assert await arrivals(viewer, 0.6)
            sent_again = [any(d.codec == "rtx" for d in tap.only("SRTP", "pc1", "out")) for tap in (above, below)]
            assert sent_again == [False, True]
        finally:
            await server.close()

    run(scenario())
