"""What the window is drawn from: the ladder, the layers, what a step made; and what is drawn again when."""

import asyncio

import cv2
import numpy as np
import pytest
from conftest import run
from faults import Edit, calling, changed, pictures, wires, without

import loopback
from loopback import CallError, Done, Event, Layer, Row, Session, Side, View, blamed, ladder, parse, sides, what_it_made

NAMES = ("pc1", "pc2")
NEGOTIATION = [
    ("pc1", "addTrack", ""),
    ("pc1", "createOffer", ""),
    ("pc1", "setLocalDescription(offer)", ""),
    ("pc1", "offer", "pc2"),
    ("pc1", "candidates", "pc2"),
    ("pc2", "setRemoteDescription(offer)", ""),
    ("pc2", "addIceCandidate", ""),
    ("pc2", "createAnswer", ""),
    ("pc2", "setLocalDescription(answer)", ""),
    ("pc2", "answer", "pc1"),
    ("pc2", "candidates", "pc1"),
    ("pc1", "setRemoteDescription(answer)", ""),
    ("pc1", "addIceCandidate", ""),
    ("pc1", "ICE: a pair that works", "pc2"),
    ("pc1", "DTLS: keys", "pc2"),
    ("pc1", "SRTP: pictures", "pc2"),
]

# ---- The ladder ------------------------------------------------------------------------------------------------------


def test_the_ladder_is_the_negotiation_each_row_once() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            rows = ladder(call.log.events, NAMES)
            assert [row[1:] for row in rows] == NEGOTIATION
            assert [row.t for row in rows] == sorted(row.t for row in rows)
            await call.hang_up()
            more = [row[1:] for row in ladder(call.log.events, NAMES)][len(rows) :]
            assert more[0] == ("pc1", "bye", "pc2")
            assert sorted(more[1:]) == [("pc1", "close", ""), ("pc2", "close", "")]

    run(scenario())


def test_the_ladder_grows_by_a_row_a_step() -> None:
    async def scenario() -> None:
        async with calling() as call:
            seen = []
            for step in call.steps:
                await step.run()
                seen.append(len(ladder(call.log.events, NAMES)))
            # 13 steps before the two that connect, which are ICE and DTLS together, and the first picture
            assert seen[:13] == list(range(1, 14))
            assert seen[-1] == len(NEGOTIATION)

    run(scenario())


def test_one_peers_log_alone_gives_the_same_messages() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            own = [event for event in call.log.events if event.who == "pc2"]
            rows = [row[1:] for row in ladder(own, NAMES)]
            assert [row for row in rows if row[2]] == [row for row in NEGOTIATION if row[2]]

    run(scenario())


def test_what_only_one_of_the_two_has_come_to_is_not_yet_a_row() -> None:
    made = Event(0.1, "pc2", "createAnswer")
    one = Event(0.2, "pc1", "dtlsState", "→ connected")
    assert [row.words for row in ladder([made, one], NAMES)] == ["createAnswer"]
    both = [made, one, Event(0.3, "pc2", "dtlsState", "→ connected")]
    assert ladder(both, NAMES)[-1] == Row(0.3, "pc1", "DTLS: keys", "pc2")


# ---- The layers ------------------------------------------------------------------------------------------------------

LAYERS = ("signalling", "ICE", "DTLS", "SRTP", "picture")


def marks(call: loopback.Call) -> list[str]:
    return [f"{layer.name} {layer.mark}" for layer in call.pc2.health.layers if layer.mark]


def test_the_layers_come_up_one_after_the_other() -> None:
    async def scenario() -> None:
        async with calling() as call:
            assert [layer.name for layer in call.pc1.health.layers] == list(LAYERS)
            assert marks(call) == []
            steps = {f"{step.who} {step.what}": step for step in call.steps}
            for name, step in steps.items():
                await step.run()
                if name == "pc2 setRemoteDescription(offer)":
                    assert marks(call) == ["signalling working"]
                elif name == "pc2 setLocalDescription(answer)":
                    assert marks(call)[0] == "signalling done"
                elif name == "pc2 connect":
                    assert marks(call)[:3] == ["signalling done", "ICE done", "DTLS done"]
            assert marks(call) == [f"{name} done" for name in LAYERS]
            await call.close()
            assert {(layer.mark, layer.state) for layer in call.pc2.health.layers} == {("", "closed")}

    run(scenario())


@pytest.mark.parametrize(
    ("edit", "layer"),
    [
        (without("answer"), "signalling"),
        (changed("a=ice-pwd:", lambda line: "a=ice-pwd:" + "x" * 22 + "\r\n"), "ICE"),
        (
            changed("a=fingerprint:", lambda line: line[:-6] + ("AA" if line[-6:-4] != "AA" else "BB") + line[-4:]),
            "DTLS",
        ),
    ],
    ids=["signalling", "ICE", "DTLS"],
)
def test_the_lowest_layer_that_is_not_up_is_blamed(edit: Edit, layer: str) -> None:
    async def scenario() -> None:
        async with calling(channels=wires(pc2_says=edit), deadline=2) as call:
            with pytest.raises(CallError):
                await call.run()
            told = blamed(sides(call), "because")
            failed = {one.name for side in told for one in side.layers if one.mark == "failed"}
            assert failed == {layer}
            assert {one.why for side in told for one in side.layers if one.mark == "failed"} == {"because"}

    run(scenario())


# ---- What a step made ------------------------------------------------------------------------------------------------


def test_every_step_says_what_it_made_or_changed() -> None:
    async def scenario() -> None:
        async with calling() as call:
            told, known = {}, ""
            for step in call.steps:
                done = await step.run()
                told[f"{step.who} {step.what}"] = what_it_made(done, known)
                known = done.made if isinstance(done.made, str) else known
            offer = [line for line, _ in told["pc1 createOffer"]]
            assert not any(line.startswith("+") for line in offer), "new, but compared with what?"
            for start in ("m=video", "a=ice-ufrag:", "a=fingerprint:sha-256", "a=setup:actpass"):
                assert any(line.startswith(start) for line in offer)
            new = [line for line, _ in told["pc1 setLocalDescription(offer)"] if line.startswith("+")]
            assert [line[:9] for line in new] == ["+ m=video", "+ a=candi"]  # the port, and the address
            answer = [line for line, _ in told["pc2 createAnswer"]]
            assert "+ a=setup:active" in answer
            assert "a=rtpmap:97 VP8/90000" in answer
            assert [line.split()[0] for line, _ in told["pc2 addIceCandidate"]] == ["udp", "typ", "priority"]
            assert "127.0.0.1" in told["pc1 connect"][0][0]
            assert told["pc2 first picture"] == [("160x120", "a whole picture, decoded")]
            assert all(words for lines in told.values() for _, words in lines)
            assert max(len(line) for lines in told.values() for line, _ in lines) <= 60

    run(scenario())


def test_a_step_that_made_nothing_to_look_at_has_no_lines() -> None:
    assert what_it_made(Done("pc1", "addTrack")) == []


# ---- The view --------------------------------------------------------------------------------------------------------


def shown(view: View, *, picture: np.ndarray | None = None, words: str = "", caption: str = "") -> np.ndarray:
    left = Side("pc1", "pc1 captures", picture, ((words, (255, 255, 255)),), caption)
    return view.draw((left, Side("pc2", "pc2 received"))).copy()


def test_only_what_has_changed_is_drawn_again() -> None:
    view, picture = View(loopback.Log()), np.full((120, 160, 3), 90, np.uint8)
    first = shown(view, picture=picture)
    assert view.changed
    assert np.array_equal(shown(view, picture=picture), first)
    assert not view.changed
    x, y, width, height = view.areas["caption0"]
    second = shown(view, picture=picture, caption="30.0/s")
    assert view.changed
    rows, columns = np.nonzero((first != second).any(axis=2))
    assert y <= rows.min() <= rows.max() < y + height
    assert x <= columns.min() <= columns.max() < x + width
    shown(view, picture=picture + 1, caption="30.0/s")
    assert view.changed


@pytest.mark.parametrize("size", [(320, 240), (962, 473), (1284, 632), (1804, 888), (3609, 1777), (800, 1200)])
def test_nothing_is_cut_off_at_any_size(size: tuple[int, int]) -> None:
    view = View(loopback.Log(), size)
    for name, (x, y, width, height) in view.areas.items():
        assert min(x, y) >= 0, name
        assert min(width, height) > 0, name
        assert x + width <= size[0], name
        assert y + height <= size[1], name
    words = "Send every address where this peer may be reached, one message each. " * 6
    canvas = shown(view, words=words, caption=words)
    x, y, width, height = view.areas["pane0"]
    pane = canvas[y : y + height, x : x + width]
    inked = np.nonzero((pane > 150).all(axis=2))
    if size != (320, 240):
        assert inked[0].max() < height - 1, "the last line is cut"
        assert inked[1].max() < width - 1, "a line is cut"
    assert view.shape == (size[1], size[0], 3)


@pytest.mark.parametrize("words", ["it will fill it till it is full ", "WHOM DO WE MAKE WAIT NOW "])
def test_words_use_the_whole_width_of_a_pane(words: str) -> None:
    view = View(loopback.Log(), (962, 473))
    canvas = shown(view, words=words * 12)
    x, y, width, height = view.areas["pane0"]
    inked = np.nonzero((canvas[y : y + height, x : x + width] > 150).all(axis=2))
    assert 0.85 * width < inked[1].max() < width - 1


def test_a_picture_keeps_its_shape_and_comes_back_from_words() -> None:
    view = View(loopback.Log())
    upright = np.full((480, 270, 3), 200, np.uint8)
    x, y, wide, high = view.place(0, upright)
    assert wide / high == pytest.approx(270 / 480, abs=0.01)
    canvas = shown(view, picture=upright)
    assert (canvas[y : y + high, x : x + wide] == 200).all()
    assert (canvas[y : y + high, x - 5] != 200).any()
    shown(view, words="waiting")
    again = shown(view, picture=upright)
    assert np.array_equal(again, canvas), "the words shine through"


def test_a_click_is_the_key_whose_label_it_hits() -> None:
    view = View(loopback.Log())
    view.draw((Side("a", "a"), Side("b", "b")), keys={" ": "next step", "q": "quit"})
    left, top, _, _ = view.areas["keys"]
    found = {view.key_at(x, top + 20) for x in range(view.shape[1])}
    assert found == {" ", "q", ""}
    assert view.key_at(left + 5, top + 20) == " "
    assert view.key_at(left + 5, top - 5) == ""


# ---- The keys --------------------------------------------------------------------------------------------------------


def test_only_the_keys_that_work_now_are_offered() -> None:
    async def scenario() -> None:
        session = Session(parse(["--view", "none", "--seconds", "60"]))
        seen = {"before": "".join(session.keys)}
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(20):
            while session.action or not (session.live and session.live.meter.received):
                await asyncio.sleep(0.005)
            seen["in the call"] = "".join(session.keys)
            session.press("h")
            while session.action:
                await asyncio.sleep(0.005)
            seen["after"] = "".join(session.keys)
            session.press("q")
            await running
        assert seen == {"before": "cq", "in the call": "hnvgsq", "after": "csq"}

    run(scenario())


def test_after_hanging_up_the_other_pane_says_who_ended_it_and_how_long_it_was() -> None:
    async def scenario() -> None:
        session = Session(parse(["--view", "none", "--seconds", "60"]))
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(20):
            while session.action or not (session.live and session.live.meter.received):
                await asyncio.sleep(0.005)
            session.press("h")
            while session.action:
                await asyncio.sleep(0.005)
            (ended, _), (lasted, _) = session.words["pc2"]
            assert ended.startswith("pc1 hung up")
            assert "s; " in lasted
            assert session.sides[0].picture is not None
            assert "pc1" not in session.words
            session.press("q")
            await running

    run(scenario())


def test_figures_of_half_a_minute_are_drawn_as_a_curve() -> None:
    view = View(loopback.Log())
    curve = [(t / 2, 5.0 + t % 3) for t in range(60)]
    for number in (1, 59):
        side = Side("pc1", "pc1", figure="delay {:.1f} ms", curve=curve[:number])
        canvas = view.draw((side, Side("pc2", "pc2")))
        x, y, width, height = view.areas["curve0"]
        drawn = (canvas[y : y + height, x : x + width] == loopback.GREEN).all(axis=2)
        assert drawn.any() == (number > 1)
    assert np.nonzero(drawn)[1].min() < width * 0.05  # from half a minute ago
    assert np.nonzero(drawn)[1].max() > width * 0.97  # until now


def test_the_layer_that_failed_has_its_reason_under_it() -> None:
    view = View(loopback.Log())

    def red(layer: Layer) -> int:
        canvas = view.draw((Side("pc1", "pc1", layers=(layer,)), Side("pc2", "pc2")))
        x, y, width, height = view.areas["layers0"]
        reds = canvas[y : y + height, x : x + width].astype(int)
        return int(((reds[:, :, 2] > 180) & (reds[:, :, 0] < 150)).sum())

    assert red(Layer("ICE", "done", "completed")) == 0
    assert red(Layer("ICE", "failed", "failed", "checks go unanswered")) > red(Layer("ICE", "failed", "failed")) > 0


def test_pictures_of_a_call_are_in_the_view() -> None:
    async def scenario() -> None:
        async with calling((320, 240)) as call:
            await call.run()
            await pictures(call, 3)
            view = View(call.log)
            canvas = view.draw(sides(call))
            for side, picture in enumerate((call.track.picture, call.pc2.picture)):
                assert picture is not None
                x, y, wide, high = view.place(side, picture)
                small = cv2.resize(canvas[y : y + high, x : x + wide], (320, 240), interpolation=cv2.INTER_AREA)
                assert cv2.PSNR(small, picture) > 30

    run(scenario())
