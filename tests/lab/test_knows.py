"""The strip: what each peer knows is what its objects hold."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import re
import sys
from pathlib import Path

from conftest import run
from faults import calling
from pages import changed_in, rows_of, words

from loopback import STATES

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

import lab


def test_the_strip_names_what_a_step_has_changed() -> None:
    async def scenario() -> None:
        async with calling() as call:
            first = lab.strip(call).data
            assert not changed_in(first)
            steps = {f"{step.who} {step.what}": step for step in call.steps}
            await steps["pc1 addTrack"].run()
            await steps["pc1 createOffer"].run()
            assert "pc1 knows its own description" in words(lab.strip(call).data)
            await steps["pc1 setLocalDescription(offer)"].run()
            page = lab.strip(call).data
            assert {"have-local-offer", "complete"} <= set(changed_in(page))
            assert "pc1 signalingState: stable → have-local-offer" in words(page)
            assert not changed_in(lab.strip(call).data)
            await steps["pc1 send the offer"].run()
            assert not changed_in(lab.strip(call).data), "sending changes nothing that a peer knows"
            await steps["pc2 setRemoteDescription(offer)"].run()
            page = lab.strip(call).data
            assert "have-remote-offer" in changed_in(page)
            assert "pc2 knows the other's fingerprint" in words(page)

    run(scenario())


def test_the_strip_shows_what_the_peers_have() -> None:
    async def scenario() -> None:
        async with calling() as call:
            rows = rows_of(lab.strip(call).data)
            assert rows[0][2:] == ["pc1 knows", "pc2 knows", "state", "pc1", "pc2"]
            assert rows[-1] == ["both", "keys", "-", "-"]
            await call.run()
            page = lab.strip(call).data
            rows = rows_of(page)
            by_name = {row[-3] if len(row) == 4 else row[0]: row for row in rows}
            assert by_name["keys"][-2:] == ["● yes", "● yes"]
            own = re.search(r"a=ice-ufrag:(\S+)", call.pc1.pc.localDescription.sdp)
            assert own is not None
            assert f'title="a=ice-ufrag:{own[1]}"' in page
            certificate = re.search(r"a=(fingerprint:sha-256 \S+)", call.pc2.pc.localDescription.sdp)
            assert certificate is not None
            assert page.count(certificate[1]) == 2, "pc2's own, and what pc1 knows of it"
            port = re.search(r"candidate:.* (\d+) typ host", call.pc1.pc.localDescription.sdp)
            assert port is not None
            assert page.count(f"host 127.0.0.1:{port[1]}") == 2
            states = {row[-3]: row[-2:] for row in rows if len(row) > 4 and row[-3] in STATES}
            expected = {name: [call.pc1.states[name], call.pc2.states[name]] for name in STATES}
            assert {name: [cell.removeprefix("● ") for cell in cells] for name, cells in states.items()} == expected

    run(scenario())
