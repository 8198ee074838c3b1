"""The phone's page in real Chromium: two pages call each other through a real server, with a fake camera."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from socket import gethostname

import pytest
from chromium_pages import (
    ARGUMENTS,
    HEARD,
    PHONE,
    SECONDS,
    Opened,
    call,
    connected,
    events,
    hears,
    in_state,
    join,
    kill,
    launched,
    logged,
    moves,
    numbers,
    says,
    seen,
    serving,
    shape,
)
from conftest import wait_until
from playwright.sync_api import Browser, Page, Playwright, WebSocketRoute, expect

pytest_plugins = ["chromium_pages"]  # its fixtures: opened, address, chromium, playwright

# ---- A call ----------------------------------------------------------------------------------------------------------


def test_two_pages_see_and_hear_each_other(opened: Opened) -> None:
    ann, ben = join(opened(whole=True), "Ann"), join(opened(), "Ben", "test", "tone")
    ann.get_by_role("button", name="Call Ben", exact=True).click()
    in_state(ben, "ringing")
    ben.click("#accept")
    for page in (ann, ben):
        in_state(page, "in call")
    says(ann, "In a call with Ben.")
    assert shape(ann) == shape(ben) == 1.3
    moves(ben)  # the fake camera's picture
    numbers(ann)  # the test picture's
    hears(ann, 660)
    wait_until(lambda: ben.evaluate(HEARD)["loudness"] > -60, SECONDS)  # the fake microphone beeps once a second
    expect(ann.locator("#delay")).to_have_text(re.compile(r"^\d+ ms from captured to shown$"))
    assert ann.evaluate("!document.querySelector('#remote').muted && !document.querySelector('#remote').paused")
    assert logged(ann, "createOffer") == logged(ben, "createAnswer") == 1

    ann.click("#hangUp")
    says(ann, "You hung up.")
    says(ben, "Ann hung up.")


def test_the_page_says_the_same_as_loopback() -> None:
    """Its own copy of the messages is loopback's, without the bye, which is call control's here."""
    page = (PHONE / "page" / "page.js").read_text()
    found = re.search(r"\nconst MESSAGES = (\{.*\});", page)
    assert found
    ours = json.loads(re.sub(r"(?<=[{,]) (\w+):", r'"\1":', found[1]).replace(" }", "}"))
    assert {kind: tuple(texts) for kind, texts in ours.items()} | {"bye": ()} == loopback.MESSAGES


# ---- Call control ----------------------------------------------------------------------------------------------------


def test_refuse_cancel_and_hang_up_by_either(opened: Opened) -> None:
    ann, ben = join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence")
    call(ann, "Ben")
    says(ann, "It rings at Ben.")
    says(ben, "Ann calls you.")
    ben.click("#reject")
    says(ann, "Ben refused.")

    call(ben, "Ann")
    says(ann, "Ben calls you.")
    expect(ben.locator("#hangUp")).to_have_text("Cancel")
    ben.click("#hangUp")
    says(ann, "Ben gave up.")

    connected(ann, ben)
    ben.click("#hangUp")
    says(ann, "Ben hung up.")
    for page in (ann, ben):
        in_state(page, "idle")
        assert page.evaluate("document.querySelector('#remote').srcObject") is None


def test_a_third_hears_that_both_are_busy(opened: Opened) -> None:
    ann, ben, cem = (join(opened(), name, "test", "silence") for name in ("Ann", "Ben", "Cem"))
    connected(ann, ben)
    for name in ("Ann", "Ben"):
        call(cem, name)
        says(cem, f"{name} is in another call.")
    for page in (ann, ben):
        in_state(page, "in call")


def test_nobody_answers(opened: Opened, chromium: Browser, address: str) -> None:
    """With less patience than the table has: the page takes it from there."""
    ann, ben = opened(altered=True), join(opened(), "Ben", "test", "silence")
    table = ann.request.get(f"{address}/control.json").json()
    table["patience"]["calling"] = 0.5
    ann.route("**/control.json", lambda route: route.fulfill(json=table))
    ann.reload()
    join(ann, "Ann", "test", "silence")
    call(ann, "Ben")
    says(ann, "Ben did not answer.")
    says(ben, "Ann gave up.")


def test_calls_that_cross_become_one(opened: Opened) -> None:
    """Each is on its way before the other one is heard."""
    held: list[Callable[[], None]] = []

    def hold_calls(way: WebSocketRoute) -> None:
        server = way.connect_to_server()
        way.on_message(lambda text: held.append(partial(server.send, text)) if is_call(text) else server.send(text))

    def is_call(text: str | bytes) -> bool:
        return len(held) < 2 and json.loads(text)["type"] == "call"

    ann, ben = opened(altered=True), opened(altered=True)
    for page in (ann, ben):
        page.route_web_socket("**/socket", hold_calls)
    join(ann, "Ann", "test", "silence")
    join(ben, "Ben", "test", "silence")
    call(ann, "Ben")
    call(ben, "Ann")
    wait_until(lambda: (ann.wait_for_timeout(20), len(held))[1] == 2, SECONDS)
    for let_go in held:
        let_go()
    for page in (ann, ben):
        in_state(page, "in call")
        moves(page)


def test_leaving_closing_the_tab_and_a_killed_browser(opened: Opened, playwright: Playwright) -> None:
    ann = join(opened(), "Ann", "test", "silence")
    ben = join(opened(), "Ben", "test", "silence")
    connected(ann, ben)
    ben.click("#leave")
    says(ann, "Ben hung up.")
    says(ben, "Type a name and join.")
    expect(ann.locator("#people li")).to_have_count(0)
    assert ben.evaluate("document.querySelector('#self').srcObject") is None  # the camera is off

    ben.click("#enter")
    in_state(ben, "idle")
    connected(ann, ben)
    ben.close(run_before_unload=True)
    in_state(ann, "idle")
    expect(ann.locator("#people li")).to_have_count(0)

    other = launched(playwright)
    cem = join(opened(browser=other), "Ben", "test", "silence")
    connected(ann, cem)
    kill(other)
    says(ann, "Ben has left.")
    expect(ann.locator("#people li")).to_have_count(0)


def test_a_name_that_is_taken_a_name_that_is_none_a_full_room(opened: Opened, tmp_path: Path) -> None:
    with serving(tmp_path, "--places", "2") as (address, _):
        ann, ben, cem = (opened(at=address) for _ in range(3))
        join(ann, "Ann", "test", "silence")
        for name, words in (("Ann", "Somebody in the room is called Ann already."), ("\u200b", "takes no such name")):
            ben.select_option("#camera", "test")
            ben.fill("#name", name)
            ben.click("#enter")
            says(ben, words)
        join(ben, "Ben", "test", "silence")
        cem.fill("#name", "Cem")
        cem.click("#enter")
        says(cem, "The room is full.")
        ben.click("#leave")
        join(cem, "Cem", "test", "silence")
        expect(ann.locator("#people li")).to_have_text(["CemCall"])


# ---- What the other end is sent --------------------------------------------------------------------------------------


def test_mute_mirror_full_screen(opened: Opened) -> None:
    ann, ben = connected(join(opened(), "Ann", "", "tone"), join(opened(), "Ben", "test", "silence"))
    hears(ben, 660)
    moves(ben)
    for button in ("Mute picture", "Mute sound"):
        ann.get_by_role("button", name=button, pressed=False).click()
        expect(ann.get_by_role("button", name=button)).to_have_attribute("aria-pressed", "true")
    wait_until(lambda: seen(ben)["light"] < 40, SECONDS)  # black
    wait_until(lambda: ben.evaluate(HEARD)["loudness"] < -100, SECONDS)
    for button in ("Mute picture", "Mute sound"):
        ann.get_by_role("button", name=button, pressed=True).click()
    wait_until(lambda: seen(ben)["light"] > 100, SECONDS)
    moves(ben)
    hears(ben, 660)

    turned = "getComputedStyle(document.querySelector('#self')).transform"
    assert ann.evaluate(turned).startswith("matrix(-1,")  # as in a mirror
    assert ben.evaluate(turned) == "none"  # a picture that is read

    ann.click("#full")
    wait_until(lambda: ann.evaluate("document.fullscreenElement?.id") == "call", SECONDS)
    ann.click("#full")
    wait_until(lambda: ann.evaluate("document.fullscreenElement") is None, SECONDS)


def test_another_camera_the_screen_and_back_without_a_new_offer(opened: Opened) -> None:
    ann, ben = connected(join(opened(), "Ann"), join(opened(), "Ben", "test", "silence"))
    moves(ben)
    label = "async () => (await import('/page/page.js')).media.tracks.map(track => track.label)"
    cameras, microphones = (
        [option.get_attribute("value") for option in ann.locator(f"{list_} option").all()]
        for list_ in ("#camera", "#microphone")
    )
    assert len(cameras) == 5  # any camera, three of them, the test picture
    before = ann.evaluate(label)
    ann.select_option("#camera", cameras[3])  # the second one gives depths (Y16), which Chromium does not encode
    ann.select_option("#microphone", microphones[-3])
    wait_until(lambda: all(one != other for one, other in zip(ann.evaluate(label), before, strict=True)), SECONDS)
    moves(ben)
    ann.select_option("#microphone", "tone")
    hears(ben, 660)

    assert shape(ben) == 1.3
    ann.click("#share")
    expect(ann.locator("#share")).to_have_attribute("aria-pressed", "true")
    wait_until(lambda: shape(ben) == 1.8, SECONDS)  # the browser's fake screen
    moves(ben)
    assert not ann.evaluate("document.querySelector('#self').classList.contains('mirrored')")
    ann.click("#share")
    wait_until(lambda: shape(ben) == 1.3, SECONDS)
    ann.select_option("#camera", "test")
    numbers(ben)

    ann.click("#share")
    expect(ann.locator("#share")).to_have_attribute("aria-pressed", "true")
    ann.evaluate(  # the browser's own "Stop sharing"
        """async () => {
            const [track] = (await import("/page/page.js")).media.tracks;
            track.stop();
            track.dispatchEvent(new Event("ended"));
        }"""
    )
    expect(ann.locator("#share")).to_have_attribute("aria-pressed", "false")
    numbers(ben)
    for page, other in ((ann, ben), (ben, ann)):
        assert logged(page, "send offer") + logged(other, "send offer") == 1
        assert logged(page, "setRemoteDescription") == 1


def test_a_camera_that_is_denied_or_missing(opened: Opened) -> None:
    ann, ben = opened(), join(opened(), "Ben", "test", "silence")
    refused = """([why]) => navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("no", why); }"""
    ann.evaluate(refused, ["NotAllowedError"])
    ann.fill("#name", "Ann")
    for why, words in (
        ("NotFoundError", "No camera and no microphone: there is none."),
        ("NotReadableError", "another program uses it"),
        ("NotAllowedError", "No camera and no microphone: permission was denied. Allow it beside"),
    ):
        ann.evaluate(refused, [why])
        ann.click("#enter")
        expect(ann.get_by_role("alert")).to_contain_text(words)
        in_state(ann, "away")
    ann.get_by_role("button", name="Use the test picture and silence").click()
    in_state(ann, "idle")
    expect(ann.get_by_role("alert")).to_be_hidden()
    connected(ann, ben)
    numbers(ben)

    ann.select_option("#camera", "")  # also in a call; what was sent goes on
    expect(ann.get_by_role("alert")).to_contain_text("No camera: permission was denied.")
    numbers(ben)


def test_a_page_that_may_not_use_the_camera(opened: Opened, playwright: Playwright, address: str) -> None:
    """Not stand-ins: the browser's own refusal, and a page that came neither over https nor from localhost."""
    without = [one for one in ARGUMENTS if "fake-ui" not in one]
    name = f"{gethostname()}.local"
    elsewhere = f"--host-resolver-rules=MAP {name} 127.0.0.1"
    browser = launched(playwright, [*without, "--deny-permission-prompts", elsewhere])
    for at, words in (
        (address, "No camera and no microphone: permission was denied."),
        (address.replace("127.0.0.1", name), "a browser gives them only to https and to localhost."),
    ):
        ann = opened(at=at, browser=browser, media=[])
        ann.fill("#name", "Ann")
        ann.click("#enter")
        expect(ann.get_by_role("alert")).to_contain_text(words)
        ann.get_by_role("button", name="Use the test picture and silence").click()
        in_state(ann, "idle")
        ann.click("#leave")
    browser.close()


# ---- Talk ------------------------------------------------------------------------------------------------------------

MARKUP = "<img src=x onerror=alert(1)> & <b>Ann</b>"


def test_chat_and_names_are_text_never_markup(opened: Opened) -> None:
    ann, ben = join(opened(), "<b>Ann</b>", "test", "silence"), join(opened(), "Ben", "test", "silence")
    expect(ben.locator("#people span")).to_have_text("<b>Ann</b>")
    call(ann, "Ben")
    says(ben, "<b>Ann</b> calls you.")
    ben.click("#accept")
    expect(ann.locator("#text")).to_be_enabled()
    ann.fill("#text", MARKUP)
    ann.keyboard.press("Enter")
    expect(ben.locator("#said li")).to_have_text(f"<b>Ann</b> {MARKUP}")
    ben.fill("#text", "Good evening")
    ben.click("#say")
    expect(ann.locator("#said li").last).to_have_text("Ben Good evening")
    assert [page.locator("#said img, #said b b, #people b, #teacher img").count() for page in (ann, ben)] == [0, 0]


def file_of(folder: Path, size: int) -> Path:
    file = folder / "<b>notes.bin"
    file.write_bytes(os.urandom(size))
    return file


def test_a_file_arrives_whole_both_ways(opened: Opened, tmp_path: Path) -> None:
    ann, ben = connected(join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence"))
    for sender, receiver, size in ((ann, ben, 3_000_000), (ben, ann, 16_384), (ann, ben, 0)):
        file = file_of(tmp_path, size)
        expect(sender.locator("#file")).to_be_enabled()
        sender.set_input_files("#file", file)
        for page in (sender, receiver):
            expect(page.locator("#said li").last).to_contain_text("arrived whole")
            assert page.evaluate("document.querySelector('#said li:last-child progress').value") == size
        with receiver.expect_download() as download:
            receiver.locator("#said a").last.click()
        arrived = Path(download.value.path()).read_bytes()
        assert hashlib.sha256(arrived).digest() == hashlib.sha256(file.read_bytes()).digest()
        assert download.value.suggested_filename == "_b_notes.bin"


def test_a_file_that_was_changed_on_the_way_is_noticed(opened: Opened, tmp_path: Path) -> None:
    ann, ben = connected(join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence"))
    ann.evaluate(
        """() => {
            const send = RTCDataChannel.prototype.send;
            RTCDataChannel.prototype.send = function (data) {
                if (data instanceof ArrayBuffer) new Uint8Array(data)[0] ^= 1;
                send.call(this, data);
            };
        }"""
    )
    expect(ann.locator("#file")).to_be_enabled()
    ann.set_input_files("#file", file_of(tmp_path, 100_000))
    for page in (ann, ben):
        expect(page.locator("#said li").last).to_contain_text("did not arrive whole")
    assert ben.locator("#said a").count() == 0
    expect(ann.locator("#file")).to_be_enabled()


def test_a_file_under_way_when_the_call_ends(opened: Opened, tmp_path: Path) -> None:
    ann, ben = connected(join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence"))
    expect(ann.locator("#file")).to_be_enabled()
    ann.set_input_files("#file", file_of(tmp_path, 30_000_000))
    wait_until(lambda: ben.evaluate("document.querySelector('#said progress')?.value > 0"), SECONDS)
    assert ann.evaluate("document.querySelector('#said progress').value") < 30_000_000
    ben.click("#hangUp")
    for page in (ann, ben):
        expect(page.locator("#said li")).to_contain_text("cut off: the call ended")


def test_what_cannot_be_used_is_refused_by_its_name(opened: Opened) -> None:
    ann, ben = connected(join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence"))
    expect(ann.locator("#text")).to_be_enabled()
    ann.evaluate(
        """() => {
            const send = RTCDataChannel.prototype.send;
            RTCDataChannel.prototype.send = function () {
                const say = message => send.call(this, typeof message === "string" ? message : JSON.stringify(message));
                say("{"); say("[]"); say({type: "dance"});
                say({type: "chat"}); say({type: "chat", text: "x".repeat(2001)});
                say({type: "file", name: "a", size: 1e9, sha256: ""}); say({type: "file-end"});
                say({type: "file-ok", sha256: ""});
                say({type: "captured", times: "now"});
                send.call(this, new ArrayBuffer(10));
            };
        }"""
    )
    ann.fill("#text", "anything")
    ann.click("#say")
    for why in (
        *("not JSON", "unknown type undefined", "unknown type dance", "chat without the text text"),
        *("a chat of more than 2000 letters", "a file of 1000000000 bytes", "the end of no file"),
        *("file-ok without a file", "bytes that belong to no file"),
    ):
        wait_until(lambda why=why: logged(ben, f"refused talk {why}"), SECONDS)
    in_state(ben, "in call")
    moves(ben)


# ---- When things die, come twice, late or in another order -----------------------------------------------------------


def test_candidates_that_overtake_the_description_wait_for_it(opened: Opened) -> None:
    """Each end's description comes last, and twice: the second is refused, and the call comes about."""

    def disorder(way: WebSocketRoute) -> None:
        server, late = way.connect_to_server(), []

        def pass_on(text: str | bytes) -> None:
            message = json.loads(text)
            inner = json.loads(message["text"])["type"] if message["type"] == "signal" else ""
            if inner in ("offer", "answer"):
                late.append(text)
            else:
                server.send(text)
            if inner == "end-of-candidates":
                for description in late:
                    server.send(description)
                    server.send(description)

        way.on_message(pass_on)

    ann, ben = opened(altered=True), opened(altered=True)
    for page in (ann, ben):
        page.route_web_socket("**/socket", disorder)
    connected(join(ann, "Ann", "test", "silence"), join(ben, "Ben", "test", "silence"))
    for page, kind in ((ann, "answer"), (ben, "offer")):
        numbers(page)
        wait_until(lambda page=page, kind=kind: logged(page, f"refused message {kind} in state"), SECONDS)
        log = events(page)
        candidate = next(number for number, event in enumerate(log) if event.startswith("receive candidate"))
        described = log.index(next(event for event in log if event.startswith(f"setRemoteDescription({kind})")))
        added = next(number for number, event in enumerate(log) if event.startswith("addIceCandidate"))
        assert candidate < described < added


def test_what_the_server_should_not_say_is_refused_by_its_name(opened: Opened) -> None:
    ways: list[WebSocketRoute] = []

    def keep(way: WebSocketRoute) -> None:
        ways.append(way)
        server = way.connect_to_server()
        way.on_message(lambda text: None if "Dora" in str(text) else server.send(text))  # she is made up

    ann, ben = opened(altered=True), opened()
    ann.route_web_socket("**/socket", keep)
    join(ann, "Ann", "test", "silence")
    words = {
        "{": "refused message not JSON",
        '{"type": "dance"}': "refused message unknown type dance",
        '{"type": "accept", "from": "Ben"}': "refused message accept without the text call",
        '{"type": "welcome", "people": [1]}': "refused message people must be a list of texts",
        '{"type": "accept", "from": "Ben", "call": "1"}': "hear accept of an old call",
        '{"type": "ringing", "from": "Ben", "call": "1"}': "refused hear ringing of an old call in state idle",
        '{"type": "servers", "call": "1"}': "refused hear servers of an old call in state idle",
        '{"type": "signal", "from": "Ben", "call": "1", "text": "{}"}': "refused message signal of an old call",
        '{"type": "welcome", "people": []}': "refused hear welcome in state idle",
        '{"type": "call", "from": "Dora", "call": "2"}': "hear call idle → ringing",
        '{"type": "call", "from": "Dora",  "call": "2"}': "refused hear call heard before in state ringing",
    }
    more = {
        '{"type": "servers", "call": "2", "iceServers": [], "relayOnly": false}': "new RTCPeerConnection",
        '{"type": "servers", "call": "2"}': "refused hear servers again in state connecting",
        '{"type": "signal", "from": "Dora", "call": "2", "text": "{}"}': "refused message unknown type undefined",
        '{"type": "signal", "from": "Ben", "call": "2", "text": "{}"}': "refused message signal of an old call",
        '{"type": "bye", "from": "Dora", "call": "2"}': "hear bye connecting → idle",
    }
    for said in (words, more):
        for text, event in said.items():
            ways[0].send(text)
            wait_until(lambda event=event: logged(ann, event), SECONDS)
        if said is words:
            ann.click("#accept")
            in_state(ann, "connecting")
    connected(ann, join(ben, "Ben", "test", "silence"))


def test_a_call_outlives_the_server_and_both_come_back(opened: Opened, tmp_path: Path) -> None:
    with serving(tmp_path) as (address, server):
        ann, ben = connected(
            join(opened(at=address), "Ann", "test", "silence"), join(opened(at=address), "Ben", "test", "tone")
        )
        server.kill()
        for page in (ann, ben):
            expect(page.locator("#server")).to_have_text("The server is gone. The call goes on.")
            numbers(page)
    with serving(tmp_path, "--port", address.rpartition(":")[2]):
        for page, name in ((ann, "Ben"), (ben, "Ann")):
            expect(page.locator("#server")).to_have_text("")
            expect(page.locator("#people span")).to_have_text(name)
            in_state(page, "in call")
            numbers(page)
            expect(page.locator("#delay")).to_have_text(re.compile(r"^\d{1,4} ms"))  # not by the new server's clock
            assert (logged(page, "server lost"), logged(page, "server back"), logged(page, "hear that")) == (1, 1, 0)
        ben.click("#hangUp")
        says(ann, "Ben hung up.")
        connected(ann, ben)  # and everything works again, by the new server's clock
        expect(ann.locator("#delay")).to_have_text(re.compile(r"^\d{1,4} ms"))


def test_a_socket_that_broke_unheard_of_still_has_the_name(opened: Opened) -> None:
    """The server takes some seconds to notice; until then the page is told that its name is taken, and tries again."""
    ways: list[tuple[WebSocketRoute, WebSocketRoute]] = []

    def keep(way: WebSocketRoute) -> None:
        ways.append((way, way.connect_to_server()))
        way.on_close(lambda code, reason: None)  # the server is not told

    ann = opened(altered=True)
    ann.route_web_socket("**/socket", keep)
    join(ann, "Ann", "test", "silence")
    ways[0][0].close()
    wait_until(lambda: logged(ann, "hear taken joining → away"), SECONDS)
    says(ann, "Somebody in the room is called Ann already. Trying again")
    ways[0][1].close()
    in_state(ann, "idle")


def test_everybody_comes_back_when_the_server_does(opened: Opened, tmp_path: Path) -> None:
    with serving(tmp_path) as (address, server):
        ann, ben = (join(opened(at=address), name, "test", "silence") for name in ("Ann", "Ben"))
        call(ann, "Ben")
        in_state(ben, "ringing")
        server.kill()
        for page in (ann, ben):
            expect(page.locator("#server")).to_have_text("The server is gone. Trying again …")
            says(page, "You come back in as soon as the server is there.")
        ben.click("#leave")
        says(ben, "Type a name and join.")
        ben.click("#enter")
        expect(ben.get_by_role("alert")).to_contain_text("The server does not answer")
    with serving(tmp_path, "--port", address.rpartition(":")[2]):
        in_state(ann, "idle")
        expect(ann.locator("#people li")).to_have_count(0)  # Ben had left
        join(ben, "Ben", "test", "silence")
        connected(ann, ben)


def test_four_calls_in_a_row_do_not_grow(opened: Opened) -> None:
    ann, ben = opened(altered=True), opened(altered=True)  # new ones, of which nothing is swept up meanwhile
    for page in (ann, ben):
        page.evaluate(
            """() => {
                const Real = RTCPeerConnection;
                window.made = [];
                window.RTCPeerConnection = class extends Real {};
                const close = Real.prototype.close;
                Real.prototype.close = function () { made.push(new WeakRef(this)); return close.call(this); };
            }"""
        )
    join(ann, "Ann", "test", "silence")
    join(ben, "Ben", "test", "silence")
    heaps = []
    for _ in range(4):
        connected(ann, ben)
        numbers(ben)
        expect(ann.locator("#text")).to_be_enabled()
        ann.fill("#text", "hello")
        ann.click("#say")
        expect(ben.locator("#said li")).to_have_count(1)  # of this call
        ann.click("#hangUp")
        in_state(ben, "idle")
        heaps.append([measured(page) for page in (ann, ben)])
    for end, page in enumerate((ann, ben)):
        assert page.evaluate("made.length") == 4
        wait_until(lambda page=page: page.evaluate(COLLECTED), SECONDS)
        first, last = heaps[0][end], heaps[-1][end]
        assert last["Nodes"] <= first["Nodes"] + 200, (first, last)  # the log is of the present call
        assert last["JSEventListeners"] <= first["JSEventListeners"] + 5, (first, last)
        assert last["JSHeapUsedSize"] < first["JSHeapUsedSize"] + 500_000, (first, last)


COLLECTED = """async () => {
    for (let times = 0; times < 5; times++) { gc(); await new Promise(resolve => setTimeout(resolve, 20)); }
    return made.every(connection => connection.deref() === undefined);
}"""


def measured(page: Page) -> dict[str, float]:
    """What the browser counts in a page, after a garbage collection."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    found = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return found


# ---- For everybody ---------------------------------------------------------------------------------------------------


def test_a_call_by_keyboard_alone(opened: Opened) -> None:
    ann, ben = opened(), join(opened(), "Ben", "test", "silence")
    ann.keyboard.type("Ann")  # the name has the focus
    ann.keyboard.press("Enter")
    in_state(ann, "idle")
    go_and_press(ann, "Call Ben", "Enter")
    in_state(ben, "ringing")
    go_and_press(ben, "Accept", " ")
    for page in (ann, ben):
        in_state(page, "in call")
        assert page.evaluate("document.activeElement.id") == "hangUp"  # not lost with the button that was pressed
    expect(ann.locator("#text")).to_be_enabled()
    go_and_press(ann, "Mute sound", " ")
    expect(ann.locator("#muteSound")).to_have_attribute("aria-pressed", "true")
    go_and_press(ann, "Say something", "")
    ann.keyboard.type("hello")
    ann.keyboard.press("Enter")
    expect(ben.locator("#said")).to_contain_text("hello")
    go_and_press(ann, "Hang up", "Enter")
    in_state(ben, "idle")


def go_and_press(page: Page, name: str, key: str) -> None:
    """Go to what has that name with the Tab key alone, and press a key there."""
    wanted = page.get_by_role("textbox" if name == "Say something" else "button", name=name, exact=True)
    expect(wanted).to_be_enabled()
    for _ in range(60):
        if wanted.evaluate("element => element === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(wanted).to_be_focused()
    if key:
        page.keyboard.press(key)


def test_everything_has_a_name_and_what_changes_is_read_out(opened: Opened) -> None:
    ann, ben = join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence")
    connected(ann, ben)
    session = ann.context.new_cdp_session(ann)
    nodes = [node for node in session.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    for role in ("button", "textbox", "combobox", "Video", "region", "log"):
        named = [node.get("name", {}).get("value", "") for node in nodes if node["role"]["value"] == role]
        assert named, role
        assert all(named), (role, named)
    assert ann.locator("#state").get_attribute("role") == "status"
    assert ann.locator("#notice").get_attribute("role") == "alert"
    assert ann.evaluate("document.documentElement.lang") == "en"


WIDE, PHONE_SIZED = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE_SIZED, "dark")], ids=["wide", "phone"])
def test_nothing_jumps_and_nothing_sticks_out(
    opened: Opened, size: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    """From coming in to hanging up each part keeps its place; screenshots of it are left in the test's folder."""
    in_hand = size is PHONE_SIZED
    ann = opened(viewport=size, color_scheme=scheme, is_mobile=in_hand, has_touch=in_hand)
    ben = opened()
    places = []

    def look(name: str) -> None:
        ann.screenshot(path=tmp_path / f"{name}.png")
        boxes = [ann.locator(part).bounding_box() for part in ("#state", "#pictures", "#controls", "#switches")]
        places.append([[round(box[side]) for side in ("x", "y", "width", "height")] for box in boxes if box])
        assert ann.evaluate("document.documentElement.scrollWidth") <= size["width"]

    look("before")
    join(ann, "Ann")
    look("idle")
    join(ben, "Ben with a name of forty letters, quite so", "test", "silence")
    look("somebody")
    ben.get_by_role("button", name="Call Ann").click()
    in_state(ann, "ringing")
    look("ringing")
    ann.click("#accept")
    in_state(ann, "in call")
    numbers(ann)
    look("in call")
    for button in ann.locator("#answers button:visible, #switches button:visible").all():
        box = button.bounding_box()
        assert box
        assert box["height"] >= 44  # for a finger
        assert box["y"] + box["height"] <= size["height"]  # without scrolling
    ann.click("#hangUp")
    in_state(ann, "idle")
    look("after")
    assert all(place == places[0] for place in places), places


def test_both_logs_on_one_clock(opened: Opened) -> None:
    ann, ben = connected(join(opened("?log"), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence"))
    theirs = "[...document.querySelectorAll('#teacher tr')].map(row => row.innerText.split('\\t'))"
    wait_until(lambda: [row for row in ann.evaluate(theirs) if "Ben" in row and "createAnswer" in row], SECONDS)
    rows = {(who, what): float(ms) for ms, who, what, *_ in ann.evaluate(theirs)[1:]}
    order = [("Ann", "createOffer"), ("Ann", "send offer"), ("Ben", "receive offer"), ("Ben", "createAnswer")]
    times = [rows[one] for one in [*order, ("Ann", "receive answer")]]
    assert times == sorted(times)
    assert not [row for row in ben.evaluate(theirs) if row[1] == "Ann"]  # who has not asked is not told
