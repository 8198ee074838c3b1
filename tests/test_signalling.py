"""The words that cross: what is a message, what travels how, and what is refused without harm to the call."""

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any

import pytest
from conftest import run, run_at_once
from faults import Edit, Said, Wire, as_sent, calling, logged, pictures, wires
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loopback import (
    LONGEST_MESSAGE,
    MESSAGES,
    MOST_CANDIDATES,
    MOST_LINES,
    CallError,
    Channel,
    ChannelError,
    Log,
    Message,
    Peer,
    SignallingError,
    check_description,
    memory_channel,
    parse_message,
    without_candidates,
)

# ---- Messages --------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
names = st.sampled_from(["type", "sdp", "candidate", "sdpMid", "x"])
near_messages = st.dictionaries(names, st.sampled_from(list(MESSAGES)) | json_values)
valid_messages = st.one_of(
    st.fixed_dictionaries({"type": st.just(kind), **{name: st.text() for name in fields}}, optional={"x": json_values})
    for kind, fields in MESSAGES.items()
)


@given(st.text() | near_messages.map(json.dumps) | json_values.map(json.dumps))
@example("9" * 5000)
@example("[" * 100_000)
@example('{"type": null}')
def test_any_text_is_a_message_or_refused(text: str) -> None:
    with contextlib.suppress(SignallingError):
        message = parse_message(text)
        assert all(isinstance(message[name], str) for name in ("type", *MESSAGES[message["type"]]))


def test_no_depth_of_nesting_is_anything_but_refused() -> None:
    for depth in [*range(800, 1100), 2000, 5000, 20_000]:
        with pytest.raises(SignallingError):
            parse_message('{"type": ' + "[" * depth + "]" * depth + "}")


@given(valid_messages)
def test_valid_messages_come_back_equal(message: Message) -> None:
    assert repr(parse_message(json.dumps(message))) == repr(message)  # repr: nan is not equal to nan


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, fields in MESSAGES.items() for name in fields])
@pytest.mark.parametrize("value", [None, 1, ["0"], {}])
def test_a_field_that_is_no_text_is_named(kind: str, name: str, value: Any) -> None:
    message = {"type": kind, **dict.fromkeys(MESSAGES[kind], "text"), name: value}
    with pytest.raises(SignallingError, match=f"{kind} without the text '{name}'"):
        parse_message(json.dumps(message))


# ---- The channel -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=60))
def test_channel_keeps_order_and_sides(operations: list[tuple[int, bool]]) -> None:
    async def scenario() -> None:
        ends = memory_channel()
        sent: tuple[list[str], list[str]] = ([], [])
        received: tuple[list[str], list[str]] = ([], [])
        for number, (side, sends) in enumerate(operations):
            if sends:
                sent[side].append(f"{side}: {number}")
                await ends[side].send(sent[side][-1])
            elif len(received[side]) < len(sent[1 - side]):
                received[side].append(await ends[side].receive())
        for side in (0, 1):
            while len(received[side]) < len(sent[1 - side]):
                received[side].append(await ends[side].receive())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ends[side].receive(), 0)
        assert received == (sent[1], sent[0])

    run(scenario())


def test_receive_waits_for_what_is_sent_later() -> None:
    async def scenario() -> None:
        one, other = memory_channel()
        waiting = asyncio.create_task(other.receive())
        await asyncio.sleep(0)
        assert not waiting.done()
        await one.send("late")
        assert await waiting == "late"

    run(scenario())


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_only_json_crosses_and_every_candidate_on_its_own(codec: str) -> None:
    async def scenario() -> None:
        channels = wires()
        async with calling(channels=channels, codec=codec) as call:
            await call.run()
            await call.hang_up()
            for peer, wire, kind in ((call.pc1, channels[0], "offer"), (call.pc2, channels[1], "answer")):
                assert all(type(text) is str for text in wire.sent)
                messages = [json.loads(text) for text in wire.sent]
                said = [message["type"] for message in messages]
                bye = ["bye"] if peer is call.pc1 else []
                assert said == [kind, "candidate", "end-of-candidates", *bye]
                assert [set(message) - {"type"} for message in messages] == [set(MESSAGES[word]) for word in said]
                assert "a=candidate" not in messages[0]["sdp"]
                assert "a=end-of-candidates" not in messages[0]["sdp"]
                # Nothing else was taken out, and what was taken out is what travels on its own.
                whole = peer.pc.localDescription.sdp.splitlines()
                sent = messages[0]["sdp"].splitlines()
                apart = ["a=" + messages[1]["candidate"], "a=end-of-candidates"]
                assert [line for line in whole if line not in sent] == apart
                assert [line for line in sent if line not in whole] == []
            assert len(logged(call, "addIceCandidate", "pc1")) == len(logged(call, "addIceCandidate", "pc2")) == 2

    run(scenario())


# ---- What is refused -------------------------------------------------------------------------------------------------

LINE = "candidate:1 1 udp 2130706431 {} typ {}"


def candidate(line: str, mid: str = "0") -> Message:
    return {"type": "candidate", "candidate": line, "sdpMid": mid}


# (what to send, under which name it is refused, what the reason names); wrong at every moment of a call.
ALWAYS_WRONG: list[tuple[Message | str, str, str]] = [
    ("", "message", "not JSON"),
    ("{", "message", "not JSON"),
    ("[1]", "message", "not a JSON object"),
    ("null", "message", "not a JSON object"),
    ({}, "message", "None"),
    ({"type": "hello"}, "message", "hello"),
    ({"type": ["offer"]}, "message", "offer"),
    ({"type": "offer"}, "message", "sdp"),
    ({"type": "answer", "sdp": 1}, "message", "sdp"),
    ({"type": "candidate", "candidate": "x"}, "message", "sdpMid"),
    (candidate(LINE.format("127.0.0.1 9", "host"), "no such"), "candidate", ""),
    (candidate("garbage"), "candidate", ""),
    (candidate("candidate:1 1 udp x 127.0.0.1 9 typ host"), "candidate", ""),
    (candidate(LINE.format("127.0.0 9", "host")), "candidate", ""),
    (candidate(LINE.format("127.0.0.1 9", "unheard-of")), "candidate", ""),
    (candidate(LINE.format("127.0.0.1 70000", "host")), "candidate", ""),
    (candidate(LINE.format("127.0.0.1 -1", "host")), "candidate", ""),
    (candidate("candidate:1 2 udp 2130706431 127.0.0.1 9 typ host"), "candidate", ""),
    (candidate("x" * LONGEST_MESSAGE), "message", f"longer than {LONGEST_MESSAGE} letters"),
    ({"type": "offer", "sdp": ""}, "offer", ""),
    ({"type": "answer", "sdp": "garbage"}, "answer", ""),
    ({"type": "offer", "sdp": "v=0\r\nm=\r\n"}, "offer", ""),
    ({"type": "offer", "sdp": "v=0\r\nm=video \ud800\r\na=rtpmap:\ud800\r\n"}, "offer", ""),
]


def before(place: int, *extra: Message | str) -> Edit:
    """Return an edit that puts messages in front of the one sent at this place."""
    count = iter(range(100))
    return lambda message: [*extra, message] if next(count) == place else [message]


@pytest.mark.parametrize(
    ("message", "kind", "reason"), ALWAYS_WRONG, ids=[repr(wrong[0])[:75] for wrong in ALWAYS_WRONG]
)
def test_wrong_messages_during_setup_are_refused(message: Message | str, kind: str, reason: str) -> None:
    async def scenario() -> None:
        def edit(real: Message) -> list[Message | str]:
            return [message, real]  # before each description, candidate, end of candidates

        async with calling(channels=wires(edit, edit), deadline=10) as call:
            await call.run()
            for peer in ("pc1", "pc2"):
                refused = logged(call, "refused", peer)
                assert [event.what for event in refused] == [f"refused {kind}"] * 3
                assert all(event.detail and reason in event.detail for event in refused)
            await pictures(call, 2)

    run(scenario())


def test_a_rejected_m_line_is_called_so() -> None:
    section = "m=video {} UDP/TLS/RTP/SAVPF 97\r\na=rtpmap:97 VP8/90000\r\na=mid:0\r\n{}\r\n"
    with pytest.raises(SignallingError, match=r"the m-line 0 \(video\) is rejected \(port 0\)"):
        check_description("v=0\r\n" + section.format(0, "a=inactive"))
    # In an offer port 0 also means that another m-line's port serves this one (RFC 9143 section 6).
    with pytest.raises(SignallingError, match="direction, a=setup or a=fingerprint is missing"):
        check_description("v=0\r\n" + section.format(0, "a=bundle-only"))


def test_candidates_that_only_a_browser_can_use_are_passed_over_with_a_word() -> None:
    # Chromium without camera permission has .local ones only, Firefox sends an empty one at the end.
    async def scenario() -> None:
        def edit(real: Message) -> list[Message | str]:
            mdns = candidate(LINE.format("4b1c-e0a0.local 9", "host"))
            return {"candidate": [mdns, candidate("")]}.get(real["type"], [real])

        async with calling(channels=wires(edit), deadline=10) as call:  # pc1's own is lost: pc2 learns it from a check
            await call.run()
            assert logged(call, "refused") == []
            words = [event.detail for event in logged(call, "passed over a candidate", "pc2")]
            assert len(words) == 2
            assert "mDNS" in words[0]
            assert "empty" in words[1]
            assert call.pc2.remote_candidates == []
            assert "prflx" in call.pc2.selected_pair.remote
            await pictures(call, 2)

    run(scenario())


class Breaking(Wire):
    """A wire that breaks when one text more than these is awaited."""

    def __init__(self, inner: Channel, texts: int) -> None:
        super().__init__(inner)
        self.left = texts

    async def send(self, text: str) -> None:
        if self.left < 0:
            raise ChannelError("the server has gone")
        await super().send(text)

    async def receive(self) -> str:
        self.left -= 1
        if self.left < 0:
            raise ChannelError("the server has gone")
        return await super().receive()


def test_a_channel_that_closes_does_not_end_a_call_that_is_connected() -> None:
    async def scenario() -> None:
        one, two = memory_channel()
        channels = (
            Breaking(one, 3),
            Breaking(two, 3),
        )  # texts, all that it needs
        async with calling(channels=channels) as call:
            await call.run()
            await pictures(call, 10)
            assert [event.who for event in logged(call, "channel closed")] in (["pc1", "pc2"], ["pc2", "pc1"])
            await call.hang_up()  # whoever is left has nobody to tell
            assert not call.hung_up

    run(scenario())


def test_a_browsers_late_candidates_are_passed_over_and_their_end_is_heard_once() -> None:
    async def scenario() -> None:
        channels = wires()
        async with calling(channels=channels) as call:
            await call.run()
            call.pc2.all_candidates = False  # as if it had been connected by the first of several
            late = candidate(LINE.format("127.0.0.1 9", "host"))
            for message in ({"type": "hello"}, late, {"type": "end-of-candidates"}, {"type": "end-of-candidates"}):
                await channels[0].inject(message)  # the first one ends the wait for a bye alone
            await pictures(call, 3)
            seen = [event.what for event in call.log.events if event.who == "pc2"]
            assert seen[-3:] == ["receive end-of-candidates", "addIceCandidate(null)", "refused end-of-candidates"]
            assert [event.detail for event in logged(call, "passed over", "pc2")] == ["a pair works already"]

    run(scenario())


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_channel_that_closes_during_the_set_up_is_named(after: int) -> None:
    async def scenario() -> None:
        one, two = memory_channel()
        async with calling(channels=(Breaking(one, 9), Breaking(two, after))) as call:
            with pytest.raises(CallError, match=r"pc2 waited for the .+ before the channel closed"):
                await call.run()

    run(scenario())


def test_wrong_messages_during_the_call_are_refused() -> None:
    async def scenario() -> None:
        channels = wires()
        async with calling(channels=channels) as call:
            await call.run()
            real = [json.loads(text) for wire in channels for text in wire.sent]  # all said a second time
            wrong = [message for message, *_ in ALWAYS_WRONG]
            for message in (*wrong, *real):
                for wire in channels:
                    await wire.inject(message)
            await pictures(call, 5)
            expected = Counter(f"refused {kind}" for _, kind, _ in ALWAYS_WRONG)
            expected += Counter(f"refused {message['type']}" for message in real)
            for peer in ("pc1", "pc2"):
                assert Counter(event.what for event in logged(call, "refused", peer)) == expected
            assert not call.hung_up
            assert {peer.pc.signalingState for peer in (call.pc1, call.pc2)} == {"stable"}
            await call.hang_up()  # after all that, a bye is still heard
            assert call.pc2.hung_up

    run(scenario())


@pytest.mark.parametrize(("kind", "place"), [("answer", 0), ("candidate", 0), ("end-of-candidates", 0), ("again", 1)])
def test_what_comes_at_the_wrong_moment_is_refused(kind: str, place: int) -> None:
    async def scenario() -> None:
        async with calling(channels=(plain := wires())) as call:
            await call.run()
            sdp = json.loads(plain[0].sent[0])["sdp"]

        def says(description: str, other: str) -> Edit:
            words: dict[str, Message] = {
                "answer": {"type": other, "sdp": sdp},  # the other kind of description
                "again": {"type": description, "sdp": sdp},
                "candidate": candidate(LINE.format("127.0.0.1 9", "host")),
            }
            return before(place, words.get(kind, {"type": kind}))

        async with calling(channels=wires(says("offer", "answer"), says("answer", "offer"))) as call:
            await call.run()
            for peer, description, other in (("pc1", "answer", "offer"), ("pc2", "offer", "answer")):
                (event,) = logged(call, "refused", peer)
                assert event.what == "refused " + {"answer": other, "again": description}.get(kind, kind)
                assert "waiting for" in event.detail
            await pictures(call, 2)

    run(scenario())


@pytest.mark.parametrize("start", MOST_LINES)
@pytest.mark.parametrize("kind", ["offer", "answer"])
def test_a_description_of_too_many_lines_is_refused(kind: str, start: str) -> None:
    # Reading one would hold up the event loop for seconds.
    async def scenario() -> None:
        def edit(message: Message) -> list[Message | str]:
            if message["type"] != kind:
                return [message]
            more = f"{start}{message['sdp'].partition(start)[2].partition(chr(13))[0]}\r\n" * (MOST_LINES[start] + 1)
            return [message | {"sdp": message["sdp"] + more}, message]

        async with calling(channels=wires(edit, edit), deadline=10) as call:
            await call.run()
            (event,) = logged(call, "refused")
            assert (event.what, event.detail) == (
                f"refused {kind}",
                f"more than {MOST_LINES[start]} lines with {start}",
            )
            await pictures(call, 2)

    run(scenario())


def test_more_candidates_than_any_peer_has_are_refused() -> None:
    async def scenario() -> None:
        def edit(message: Message) -> list[Message | str]:
            many = [candidate(f"candidate:{port} 1 udp {port} 127.0.0.1 {port} typ host") for port in range(1, 151)]
            return [*many, message] if message["type"] == "end-of-candidates" else [message]

        async with calling(channels=wires(edit, edit), deadline=10) as call:
            await call.run()
            for peer in call.peers:
                assert len(peer.remote_candidates) == MOST_CANDIDATES
                refused = logged(call, "refused candidate", peer.name)
                assert [event.detail for event in refused] == [f"more than {MOST_CANDIDATES} candidates"] * 51
            await pictures(call, 2)

    run(scenario())


@pytest.mark.parametrize("letter", ["\ud800", "\x1b[2J", "\n"], ids=ascii)
def test_no_word_from_outside_can_spoil_the_log(letter: str) -> None:
    # Half a surrogate pair cannot be printed, and OpenCV's putText, which draws the log, ends the process over it.
    async def scenario() -> None:
        wrong = {"type": "offer", "sdp": f"v=0\r\nm={letter}x\r\na=rtpmap:99 a{letter}b/90000\r\n"}
        async with calling(channels=wires(before(0, wrong)), deadline=10) as call:
            await call.run()
            assert all(event.detail.isprintable() for event in call.log.events)

    run(scenario())


# ---- Broken descriptions ---------------------------------------------------------------------------------------------


def lines_of(sdp: str) -> list[str]:
    return sdp.splitlines(keepends=True)


def without_line(sdp: str, at: int) -> str:
    return "".join(line for number, line in enumerate(lines_of(sdp)) if number != at)


def cut_before(sdp: str, at: int) -> str:
    return "".join(lines_of(sdp)[:at])


def without_value(sdp: str, at: int) -> str:
    lines = lines_of(sdp)
    return "".join([*lines[:at], lines[at].rstrip().partition(":")[0] + "\r\n", *lines[at + 1 :]])


def other_bundle(sdp: str, _: int) -> str:
    return sdp.replace("BUNDLE 0", "BUNDLE 7")


def other_mid(sdp: str, _: int) -> str:
    return sdp.replace("a=mid:0", "a=mid:7").replace("VP8", "VP7")


DAMAGES = [(without_line, 1), (cut_before, 4), (without_value, 3), (other_bundle, 100), (other_mid, 100)]


@pytest.mark.parametrize("kind", ["offer", "answer"])
@pytest.mark.parametrize(("damage", "stride"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_broken_description_does_not_harm_the_call(kind: str, damage: Any, stride: int) -> None:
    # The broken one comes first, then the real one. A line may be missing that nobody needs: then the real one is
    # refused as the second. In any case one of the two is refused by name, and the call carries pictures.
    async def attempt(at: int) -> str | None:
        def edit(message: Message) -> list[Message | str]:
            if message["type"] != kind:
                return [message]
            return [message | {"sdp": damage(message["sdp"], at)}, message]

        channels = wires(edit) if kind == "offer" else wires(as_sent, edit)
        try:
            async with calling(channels=channels, deadline=30) as call:
                await call.run()
                await pictures(call, 1)
                return None if len(logged(call, f"refused {kind}")) == 1 else "refused nothing or too much"
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"

    async def scenario() -> None:
        async with calling(channels=(channels := wires())) as call:
            await call.run()
        lines = lines_of(json.loads(channels[kind == "answer"].sent[0])["sdp"])
        places = range(0, len(lines), stride)
        outcomes = zip(places, await asyncio.gather(*map(attempt, places)), strict=True)
        assert {f"{at} {lines[at].strip()}": outcome for at, outcome in outcomes if outcome} == {}

    run(scenario(), 60)


def real_offer() -> str:
    async def scenario() -> str:
        async with calling() as call:
            for step in call.steps[:3]:
                await step.run()
            return without_candidates(call.pc1.pc.localDescription.sdp)

    sdp = run(scenario())
    assert isinstance(sdp, str)
    return sdp


OFFER = real_offer()
JUNK = f"0|-1|{9 * 10**20}|x| |\ud800|é|audio|application|rtx|sha-256|97|256|a=fmtp:|a=rtpmap:|a=mid:|a=setup:|m=|\r\n"
SECTIONS = "m=video 9 X 97\r\n|m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:1\r\n|m=application 9 UDP/DTLS/SCTP x\r\n"
junk = st.sampled_from(["", "9" * 5000, *JUNK.split("|"), *SECTIONS.split("|")])


damages = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), junk | st.text(max_size=3)), min_size=1, max_size=3)


@given(st.lists(damages, min_size=10, max_size=10))  # at once
@settings(max_examples=20, deadline=None, derandomize=True)
def test_no_damage_to_an_offer_escapes_as_anything_but_a_refusal(several: list[list[tuple[float, int, str]]]) -> None:
    async def scenario(*edits: tuple[float, int, str]) -> None:
        sdp = OFFER
        for place, gone, new in edits:
            at = int(place * len(sdp))
            sdp = sdp[:at] + new + sdp[at + gone :]
        channel: Channel = Said({"type": "offer", "sdp": sdp}, {"type": "offer", "sdp": OFFER})
        log = Log()
        peer = Peer("pc2", channel, log, deadline=10)
        try:
            await peer.receive_description("offer")
            await peer.create_answer()
            await peer.set_local_description()
        finally:
            await peer.close()
        assert len([event for event in log.events if event.what == "refused offer"]) <= 1

    run_at_once(scenario, map(tuple, several))
