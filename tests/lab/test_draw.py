"""The diagrams: what they draw is what the log and the tap say. Tables are HTML that every page shows."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run
from faults import calling, logged, pictures
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pages import image
from PIL import Image

from loopback import STATES, Call, Event, Log, Peer

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

import lab
from lab.draw import (
    BAD,
    BADGES,
    GREEN,
    HUES,
    INK,
    LAYERS,
    SOFT,
    Table,
    breakable,
    chart,
    still,
    text_width,
    wrapped,
)

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
    assert drawn == [(e.who, e.what, e.detail.removeprefix("→ ")) for e in call.log.events if e.what in BADGES]
    calls = [(e.who, e.what) for e in call.log.events if e.what not in BADGES and " " not in e.what]
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
    assert drawing.pixels[0, :, 3].max() < 60, "the page shows through"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert len(drawing.png) < 120_000
    assert "object at" not in repr(drawing)


def test_nothing_of_a_whole_call_with_all_its_layers_leaves_the_picture() -> None:
    async def scenario() -> tuple[Call, Any]:
        async with calling() as call:
            with lab.Tap(call) as tap:
                await call.run()
                while {datagram.layer for datagram in tap} < set(HUES) - {"message"}:
                    await asyncio.sleep(0.05)
            await call.hang_up()
        return call, tap

    call, tap = run(scenario())
    for drawing in (lab.sequence(call.log, tap), lab.timeline(call.log, tap)):
        _, width = drawing.pixels.shape[:2]
        renderer = FigureCanvasAgg(drawing.figure).get_renderer()
        for text in drawing.figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and one.get_text()):
            box = text.get_window_extent(renderer)
            assert -0.5 < box.x0 <= box.x1 < width + 0.5, text.get_text()
            assert "…" not in text.get_text()


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


# ---- Tables ----------------------------------------------------------------------------------------------------------


def test_tables_let_the_page_through_and_use_nothing_a_page_may_strip() -> None:
    async def scenario() -> str:
        async with calling() as call:
            return str(lab.strip(call).data) + str(lab.beside(Peer.create_offer, "pc.createOffer()", "a note").data)

    page = run(scenario()) + Table(("a",), [("", [("kept",)])], (100,), tints={"kept": GREEN})._repr_html_()
    for ground in re.findall(r"background:([^;\"]+)", page):
        assert float(re.fullmatch(r"rgba\(\d+,\d+,\d+,(\.\d+)\)", ground)[1]) < 0.3, ground
    for colour in re.findall(r"(?<![-\w])color: ?(#\w{6})", page):
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#111111")) > 4
    assert not re.search(r"<script|<svg|<style|class=|id=", page)


def test_a_table_breaks_no_word_but_the_longest() -> None:
    table = Table(("name", "value"), [("a", [("iceGatheringState", "127.0.0.1:43587"), ("x", "A1" * 40)])], (10, 90))
    page = table._repr_html_()
    assert "iceGatheringState" in page
    assert "127.0.0.1:43587" in page
    assert "anywhere" not in page
    pieces = re.findall(r"[A1]{2,}", page)
    assert "".join(pieces) == "A1" * 40
    assert max(map(len, pieces)) < 25
    assert (
        breakable("a<b 0123456789/0123456789<abc&0123456789")
        == "a&lt;b 0123456789/<wbr>0123456789&lt;abc&amp;0<wbr>123456789"
    )
    assert repr(table).splitlines() == [
        "[a]",
        "iceGatheringState",
        "    value: 127.0.0.1:43587",
        "x",
        f"    value: {'A1' * 40}",
    ]


# ---- On a bright page and on a dark one ------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG has it, from 1 to 21."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_every_colour_reads_on_a_bright_page_and_on_a_dark_one() -> None:
    for colour in (INK, SOFT, BAD, *HUES.values(), *BADGES.values()):
        for ground in ("#ffffff", "#111111", "#0d1117"):  # JupyterLab's two, and the hosting site's dark one
            assert contrast(colour, ground) > 4.2, (colour, ground)


def test_no_word_of_a_refusal_or_of_a_flight_is_cut() -> None:
    log = Log()
    why = (
        'Cannot handle offer in signaling state "have-local-offer", and a word-that-is-longer-than-its-room-' + "x" * 60
    )
    log("pc2", "refused offer", why)
    flight = "DTLS ServerHello, Certificate, ServerKeyExchange, CertificateRequest, ServerHelloDone"

    class Seen:
        t, who, direction, layer, summary, dropped = log.now(), "pc1", "out", "DTLS", flight, False

    class Tapped:
        datagrams = (Seen(),)

    drawing = lab.sequence(log, Tapped())
    texts = [text.get_text() for text in drawing.figure.findobj(Text)]
    assert not any("…" in text for text in texts)
    assert flight in " ".join(" ".join(texts).split())
    assert why.replace(" ", "") in "".join(texts).replace(" ", "")
    assert text_width("x", 11) <= max(text_width(line, 11) for line in wrapped(why, 200, 11)) <= 200


# ---- Time that moves -------------------------------------------------------------------------------------------------


def test_what_lies_after_a_moment_is_faint() -> None:
    call = run(whole_call())
    for drawing in (lab.sequence(call.log), lab.timeline(call.log)):
        assert [moment.t for moment in drawing.moments] == sorted(moment.t for moment in drawing.moments)
        assert len(drawing.moments) > 10
        moment = drawing.moments[len(drawing.moments) // 2]
        edge = round(moment.pixel)
        then = np.asarray(Image.open(io.BytesIO(drawing.at(moment))).convert("RGBA"))
        parts = [(then[:edge], then[edge + 2 :]), (drawing.pixels[:edge], drawing.pixels[edge + 2 :])]
        if not drawing.downwards:
            parts = [(one[:, :edge], one[:, edge + 2 :]) for one in (then, drawing.pixels)]
        (before, after), (whole, rest) = parts
        assert (before == whole).all()
        assert rest[..., 3].max() == 255
        assert after[..., 3].max() < 40


# ---- You are here ----------------------------------------------------------------------------------------------------


def test_you_are_here_lights_what_is_named() -> None:
    def lit(*names: str) -> int:
        return int((lab.you_are_here(*names).pixels[..., 3] == 255).sum())

    assert lit() < lit("ICE") < lit("ICE", "DTLS") < lit("call") == lit(*LAYERS)
    with pytest.raises(ValueError, match="no layer IEC: there are call, offer/answer, SDP"):
        lab.you_are_here("IEC")
    for (x, y, width, height), _, _ in LAYERS.values():
        assert 0 < x < x + width < 980
        assert 0 < y < y + height < 304


def test_a_lessons_own_chart_reads_on_both_pages() -> None:
    figure, axes = chart(200)
    axes.barh([0, 1], [3, 4], color=HUES["STUN"], label="time")
    axes.text(1, 0, "a word")
    axes.set_xlabel("ms")
    axes.legend()
    pixels = np.asarray(Image.open(io.BytesIO(still(figure).data)).convert("RGBA"))
    assert pixels.shape == (200, 980, 4)
    assert pixels[0, 0, 3] == 0
    assert not ((pixels[..., :3].max(axis=2) < 60) & (pixels[..., 3] > 200)).any(), "nothing is black"
