"""The laboratory of the lessons: what it draws and says is what the log, the objects and the source say."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import asyncio
import base64
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiortc.exceptions import InvalidStateError
from conftest import run
from faults import calling, logged, pictures
from jupyter_client.manager import start_new_kernel
from PIL import Image

from loopback import STATES, Call, Event, Log, Peer

NOTEBOOKS = Path(loopback.__file__).resolve().parent / "notebooks"
sys.path.append(str(NOTEBOOKS))
import lab  # noqa: E402 - lies beside the lessons, not installed
from lab.check import Question, register, register_quiz  # noqa: E402
from lab.draw import text_width  # noqa: E402


def image(png: bytes) -> np.ndarray:
    """Return the pixels of a PNG or JPEG."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def words(page: str) -> str:
    """Return the text of some HTML."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def rows_of(page: str) -> list[list[str]]:
    """Return the texts of an HTML table's cells."""
    return [
        [words(cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row)] for row in re.findall(r"<tr>.*?</tr>", page)
    ]


def changed_in(page: str) -> list[str]:
    """Return the cells of a strip that are marked as changed."""
    return [words(cell).removeprefix("● ") for cell in re.findall(r"<td[^>]*><b>●.*?</td>", page)]


# ---- The rooms -------------------------------------------------------------------------------------------------------


def test_a_star_import_gives_what_the_rooms_say_they_have() -> None:
    for name in lab.__all__:
        assert callable(getattr(lab, name)), name
        assert inspect.getdoc(getattr(lab, name)), name
    assert lab.__all__ == sorted(lab.__all__)


def test_lab_imports_cv2_before_av() -> None:
    seen = "import sys, lab; loaded = list(sys.modules); print(loaded.index('cv2') < loaded.index('av'))"
    ended = subprocess.run([sys.executable, "-c", seen], cwd=NOTEBOOKS, capture_output=True, text=True, timeout=30)
    assert ended.stdout == "True\n", ended.stderr


# ---- The sequence diagram --------------------------------------------------------------------------------------------


async def whole_call() -> Call:
    """Make a call, hang up, and return it with its log."""
    async with calling() as call:
        await call.run()
        await call.hang_up()
    return call


def test_the_diagram_has_an_arrow_for_each_message_in_its_direction() -> None:
    call = run(whole_call())
    drawing = lab.sequence(call.log)
    sent = [(event.who, event.what.removeprefix("send ")) for event in logged(call, "send ")]
    assert [one for one in sent if "candidate" not in one[1]] == [("pc1", "offer"), ("pc2", "answer"), ("pc1", "bye")]
    assert sorted((arrow.who, arrow.kind) for arrow in drawing.messages) == sorted(sent)
    for arrow in drawing.messages:
        assert arrow.sent is not None
        assert arrow.received is not None
        assert arrow.received > arrow.sent
        assert drawing.rows[arrow.sent].who == arrow.who
        assert drawing.rows[arrow.received].who != arrow.who
        assert not arrow.lost
    offer = next(arrow for arrow in drawing.messages if arrow.kind == "offer")
    assert drawing.rows[offer.received or 0].text == "setRemoteDescription(offer)"  # beside the arrow's tip


def test_the_diagram_has_every_state_change_and_call_in_order() -> None:
    async def scenario() -> Call:
        async with calling() as call:
            await call.run()
        return call

    call = run(scenario())
    rows = lab.sequence(call.log).rows
    drawn = [(row.who, *state) for row in rows for state in row.states]
    assert drawn == [(e.who, e.what, e.detail.removeprefix("→ ")) for e in call.log.events if e.what in STATES]
    calls = [(e.who, e.what) for e in call.log.events if e.what not in STATES and " " not in e.what]
    assert [(row.who, row.text) for row in rows if (row.who, row.text) in calls] == calls
    assert [row.t for row in rows] == sorted(row.t for row in rows)


def test_a_message_that_does_not_arrive_is_not_drawn_as_if_it_did() -> None:
    async def scenario() -> Call:
        async with calling(channels=lab.faulty(None, lab.drop("answer")), deadline=0.3) as call:
            with pytest.raises(loopback.CallError):
                await call.run()
            [answer] = [arrow for arrow in lab.sequence(call.log).messages if arrow.kind == "answer"]
            assert answer.received is None
            assert not answer.lost  # it may still come
        return call

    call = run(scenario())
    [answer] = [arrow for arrow in lab.sequence(call.log).messages if arrow.kind == "answer"]
    assert answer.who == "pc2"
    assert answer.received is None
    assert answer.lost


def test_a_message_that_nobody_sent_and_one_that_was_refused_are_told_apart() -> None:
    log = Log()
    log("pc2", "receive candidate")
    log("pc1", "send offer", "10 bytes")
    log("pc2", "receive offer")
    log("pc2", "refused offer", "no m-line")
    log("pc1", "send answer")
    log("pc2", "refused answer", "in state stable")
    drawing = lab.sequence(log)
    ends = [(arrow.kind, arrow.sent is None, arrow.received is None, arrow.refused) for arrow in drawing.messages]
    assert ends == [
        ("candidate", True, False, False),
        ("offer", False, False, False),
        ("answer", False, False, True),
    ]
    assert [row.detail for row in drawing.rows if row.bad] == ["no m-line", "in state stable"]


def test_datagrams_appear_between_the_events_they_lie_between() -> None:
    async def scenario() -> tuple[Call, Any]:
        async with calling() as call:
            with lab.Tap(call) as tap:
                await call.run()
                await pictures(call, 5)
        return call, tap

    call, tap = run(scenario())
    drawing = lab.sequence(call.log, tap)
    crossed = [arrow for arrow in drawing.arrows if arrow.datagrams]
    assert {arrow.kind for arrow in crossed} >= {"STUN", "DTLS", "SRTP"}
    hello = next(arrow for arrow in crossed if "ClientHello" in arrow.label)
    assert hello.who == "pc2"  # the answering side is the DTLS client
    times = [row.t for row in drawing.rows]
    assert times == sorted(times)
    connected = next(e.t for e in logged(call, "connectionState", "pc1") if "connected" in e.detail)
    assert all(drawing.rows[arrow.sent or 0].t < connected for arrow in crossed if arrow.label == "DTLS ClientHello")
    counted = sum(int(found[1]) if (found := re.search(r" x(\d+)", arrow.label)) else 1 for arrow in crossed)
    assert counted == len(tap.only(direction="out"))


def test_lost_datagrams_are_counted_and_crossed_out() -> None:
    log = Log()
    log("pc1", "close")

    class Seen:
        t, who, direction, layer, summary, dropped = 0.0, "pc1", "out", "SRTP", "SRTP", True

    class Arrived(Seen):
        dropped = False

    class Tapped:
        datagrams = (Seen(), Seen(), Arrived())

    [arrow] = [arrow for arrow in lab.sequence(log, Tapped()).arrows if arrow.datagrams]
    assert (arrow.label, arrow.lost) == ("SRTP x3, 2 lost", 2)
    assert arrow.received is not None
    Tapped.datagrams = (Seen(), Seen())
    [arrow] = [arrow for arrow in lab.sequence(log, Tapped()).arrows if arrow.datagrams]
    assert arrow.received is None


@pytest.mark.parametrize("draw", [lab.sequence, lab.timeline])
def test_pictures_are_png_of_notebook_width_and_not_empty(draw: Any) -> None:
    async def scenario() -> Call:
        async with calling() as call:
            await call.run()
        return call

    drawing = draw(run(scenario()).log)
    pixels = image(drawing._repr_png_())
    assert pixels.shape[1] == 980
    assert (pixels[0] == 255).all(), "the ground is white, whatever page it lies on"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert len(drawing.png) < 120_000
    assert "object at" not in repr(drawing)


@pytest.mark.parametrize("draw", [lab.sequence, lab.timeline])
def test_an_empty_log_and_a_part_of_one_can_be_drawn(draw: Any) -> None:
    assert image(draw(Log()).png).shape[1] == 980
    events = [Event(0.1 * n, "pc1", what) for n, what in enumerate(("addTrack", "createOffer", "close"))]
    whole, part = draw(events), draw(events, since=0.05, until=0.15)
    assert whole.png != part.png
    if draw is lab.sequence:
        assert [row.text for row in part.rows] == ["createOffer"]


def test_text_that_looks_like_mathematics_is_drawn_as_it_is() -> None:
    log = Log()
    log("pc1", "addTrack", "costs $5 and $\\frac")
    assert image(lab.sequence(log).png).any()
    assert text_width("$$", 12) > 0


# ---- The time line ---------------------------------------------------------------------------------------------------


def test_the_time_line_has_eight_lanes_without_holes() -> None:
    call = run(whole_call())
    spans = lab.timeline(call.log).spans
    for peer in (call.pc1, call.pc2):
        for machine in STATES:
            lane = [span for span in spans if (span.who, span.machine) == (peer.name, machine)]
            assert lane[0].state == ("stable" if machine == "signalingState" else "new")
            changes = [event.detail.removeprefix("→ ") for event in logged(call, machine, peer.name)]
            assert [span.state for span in lane[1:]] == changes
            assert [span.end for span in lane[:-1]] == [span.start for span in lane[1:]]
            assert lane[-1].end == call.log.events[-1].t


# ---- What each peer knows --------------------------------------------------------------------------------------------


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


def test_tables_give_every_colour_and_use_nothing_a_page_may_strip() -> None:
    async def scenario() -> str:
        async with calling() as call:
            return str(lab.strip(call).data) + str(lab.beside(Peer.create_offer, "pc.createOffer()", "a note").data)

    page = run(scenario())
    for cell in re.findall(r"<t[dh][^>]*>", page):
        assert ";color:#" in cell
        assert "background:#" in cell
    assert not re.search(r"<script|<svg|<style|class=|id=", page)


# ---- Pictures in a cell ----------------------------------------------------------------------------------------------

LIVE = """
import asyncio
from lab import watch
from loopback import Call, SyntheticSource
call = Call(SyntheticSource(160, 120, 30))
await call.run()
await watch(call, seconds=0.6)
await call.close()
"""


def until_idle(client: Any, asked: str) -> Iterator[dict[str, Any]]:
    """Yield what a kernel sends for a cell until it has run it; fail when it is silent for 20 s."""
    while True:
        message = client.get_iopub_msg(timeout=20)
        if message["parent_header"].get("msg_id") == asked:
            assert message["msg_type"] not in ("error", "stream"), message["content"]
            yield message
            if message["content"].get("execution_state") == "idle":
                return


def test_watch_moves_the_picture_inside_its_cell() -> None:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(NOTEBOOKS), startup_timeout=30)
    try:
        asked = client.execute(LIVE)
        shown = list(until_idle(client, asked))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    first = [message for message in shown if message["msg_type"] == "display_data"]
    later = [message for message in shown if message["msg_type"] == "update_display_data"]
    assert len(first) == 1
    assert len(later) >= 3
    assert {message["content"]["transient"]["display_id"] for message in first + later} == {
        first[0]["content"]["transient"]["display_id"]
    }
    *moving, last = [message["content"]["data"] for message in first + later]
    frames = [base64.b64decode(data["image/jpeg"]) for data in moving]
    assert len(set(frames)) == len(frames), "every picture is another"
    still = base64.b64decode(last["image/png"])  # what stays in the file
    assert len(still) < 150_000
    assert image(still).shape[1] == 980
    left, right = np.split(image(still)[60:360].astype(int), 2, axis=1)
    assert abs(left[:, 30:460] - right[:, 24:454]).mean() < 60, "what arrives looks like what is sent"


def test_watch_says_when_the_call_breaks() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            call.track.failure = loopback.CallError("the camera was unplugged")
            with pytest.raises(loopback.CallError, match="unplugged"):
                await lab.watch(call, seconds=1)

    run(scenario())


def test_watch_ends_with_the_call() -> None:
    async def scenario() -> float:
        async with calling() as call:
            await call.run()
            start = asyncio.get_running_loop().time()
            watching = asyncio.create_task(lab.watch(call, seconds=10))
            await asyncio.sleep(0.2)
            await call.hang_up()
            await watching
            return asyncio.get_running_loop().time() - start

    assert run(scenario()) < 3


def test_picture_shows_the_colours_it_is_given() -> None:
    blue, red = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80, 3), np.uint8)
    blue[:, :, 0], red[:, :, 2] = 255, 255
    pixels = image(lab.picture(blue, red, titles=("blue", "red")).data)
    assert tuple(pixels[200, 200]) == (0, 0, 255)
    assert tuple(pixels[200, 700]) == (255, 0, 0)
    grey = image(lab.picture(np.full((60, 80), 100, np.uint8)).data)
    assert tuple(grey[200, 500]) == (100, 100, 100)
    assert image(lab.picture(blue, None).data).shape[1] == 980, "a picture that has not come yet"
    with pytest.raises(ValueError, match="2 pictures, but 1 titles"):
        lab.picture(blue, red, titles=("blue",))


# ---- Code ------------------------------------------------------------------------------------------------------------


def test_a_listing_is_the_source() -> None:
    for subject in (Peer.create_offer, Peer, loopback.candidates_in):
        shown = lab.listing(subject)
        assert shown.source == inspect.getsource(subject)
        page = words(shown._repr_html_())
        assert f"loopback.{subject.__qualname__}" in page
    assert repr(lab.listing(Peer.create_offer)).startswith("async def create_offer(self)")
    assert lab.listing(Peer.states).source == inspect.getsource(vars(Peer)["states"].fget)


def test_a_listing_of_a_step_or_a_bound_method_is_that_of_its_function() -> None:
    async def scenario() -> None:
        async with calling() as call:
            steps = {step.what: step for step in call.steps}
            assert lab.listing(steps["createOffer"]).source == inspect.getsource(Peer.create_offer)
            assert lab.listing(steps["addTrack"]).source.lstrip().startswith("async def add_track")
            assert lab.listing(call.pc1.create_offer).source == inspect.getsource(Peer.create_offer)

    run(scenario())


@pytest.mark.parametrize(
    ("function", "calls", "line"),
    [
        (Peer.create_offer, "", "self.draft = await self.pc.createOffer()"),
        (Peer.set_local_description, "", "await self.pc.setLocalDescription(self.draft)"),
        (Peer.receive_description, "", "await self.pc.setRemoteDescription(RTCSessionDescription(message["),
        (Peer.__init__, "RTCPeerConnection", "self.pc = RTCPeerConnection(self.ice.configuration)"),
        (Peer.hang_up, "", "await self._send("),
    ],
)
def test_python_stands_beside_javascript_as_it_is_in_the_source(function: Any, calls: str, line: str) -> None:
    page = lab.beside(function, "await pc.anything();", "differs <so>", calls=calls).data
    heads, [python, javascript, note] = rows_of(page)
    assert heads == ["Python, aiortc", "JavaScript, browser", "where aiortc differs"]
    plain = re.sub(r"\s|&\w+;|&#\d+;", "", python)
    assert re.sub(r'\s|["\']', "", line) in plain
    assert line in inspect.getsource(function)
    assert "".join(javascript.split()) == "awaitpc.anything();"
    assert note == "differs &lt;so&gt;"


def test_beside_refuses_a_call_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="does not call createAnswer"):
        lab.beside(Peer.create_offer, "", calls="createAnswer")


# ---- Questions -------------------------------------------------------------------------------------------------------

register("99 state", "have-local-offer", look="the strip", why="an offer is out")
register("99 count", 2, look="the log")
register("99 port", lambda answer, port: answer == port, look="the candidates")
register_quiz(
    "99",
    Question("Which peer is controlling?", ("pc1 <offers>", "pc2"), "a", "the offering one"),
    Question("Who is DTLS client?", ("pc1", "pc2"), "b", "the answering one"),
)


@pytest.mark.parametrize(
    ("name", "answer", "facts", "said"),
    [
        ("99 state", "have-local-offer", {}, "right: an offer is out\n"),
        ("99 state", " Have-Local-Offer", {}, "right: an offer is out\n"),
        ("99 state", "stable", {}, "not yet: 'stable' is not it. Look at the strip.\n"),
        ("99 state", ..., {}, "not yet: replace the dots by your answer. Look at the strip.\n"),
        ("99 count", 2, {}, "right\n"),
        ("99 count", True, {}, "not yet: True is not it. Look at the log.\n"),
        ("99 port", 4000, {"port": 4000}, "right\n"),
        ("99 port", 4001, {"port": 4000}, "not yet: 4001 is not it. Look at the candidates.\n"),
    ],
)
def test_check_takes_the_right_answer_only(
    name: str, answer: Any, facts: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.check(name, answer, **facts)
    assert capsys.readouterr().out == said


def test_check_refuses_a_name_that_is_not_registered() -> None:
    with pytest.raises(ValueError, match="nothing is called '98 nothing'"):
        lab.check("98 nothing", 1)


def test_the_recap_asks_and_corrects(capsys: pytest.CaptureFixture[str]) -> None:
    lab.quiz("99", ...)
    assert capsys.readouterr().out == "not yet: replace the dots by 2 letters, one for each question.\n"
    lab.quiz("99", "a")
    assert capsys.readouterr().out == "not yet: 2 questions, but 1 letters.\n"
    lab.quiz("99", "bb")
    out = capsys.readouterr().out
    assert "1 b  think again: Which peer is controlling?" in out
    assert out.endswith("not yet: 1 of 2\n")
    lab.quiz("99", "A b")
    assert capsys.readouterr().out.endswith("right: 2 of 2\n")
    with pytest.raises(ValueError, match="none of ab"):
        Question("?", ("x", "y"), "c", "")


def test_a_prediction_stands_beside_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    lab.predict("states", "stable")
    lab.outcome("states", "have-local-offer")
    lab.outcome("states", "Stable")
    lab.predict("open", ...)
    lab.outcome("open", 4)
    assert capsys.readouterr().out.splitlines() == [
        "noted: stable",
        "happened: have-local-offer   predicted: stable   not as predicted",
        "happened: Stable   predicted: stable   as predicted",
        "no prediction yet: replace the dots by your guess",
        "happened: 4   (no prediction)",
    ]


def test_expect_prints_the_real_error_and_nothing_less(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with calling() as call:
            with lab.expect(InvalidStateError) as seen:
                await call.pc1.create_answer()
            assert isinstance(seen.error, InvalidStateError)

    run(scenario())
    assert capsys.readouterr().out == 'InvalidStateError: Cannot create answer in signaling state "stable"\n'
    with (
        pytest.raises(AssertionError, match="nothing was raised, ValueError or KeyError was expected"),
        lab.expect(ValueError, KeyError),
    ):
        pass
    with pytest.raises(KeyError), lab.expect(ValueError):
        raise KeyError("x")
