"""Bare connections: RTCPeerConnections without a Peer around them, to make every call in every order and state."""

from __future__ import annotations

import asyncio

from aiortc import InvalidStateError, MediaStreamTrack, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from IPython.display import HTML

from loopback import NO_SERVERS, LoopbackOnly, candidates_in, dtls_transports, ice_connection, parse_candidate

from .draw import RED, Cell, table

SIGNALLING = ("stable", "have-local-offer", "have-remote-offer", "closed")
CALLS = (
    *("createOffer", "createAnswer", "setLocalDescription(offer)", "setLocalDescription(answer)"),
    *("setRemoteDescription(offer)", "setRemoteDescription(answer)", "addIceCandidate"),
)

# Exercise: who makes which call, and of which description. An offer or answer is there once it has been created.
CARDS = {
    "a": ("pc2", "setLocalDescription", "answer"),
    "b": ("pc1", "createOffer", ""),
    "c": ("pc2", "createAnswer", ""),
    "d": ("pc1", "setRemoteDescription", "answer"),
    "e": ("pc2", "setRemoteDescription", "offer"),
    "f": ("pc1", "setLocalDescription", "offer"),
}

made: list[RTCPeerConnection] = []  # all that are to be closed


def fresh(*tracks: MediaStreamTrack) -> RTCPeerConnection:
    """Return a new connection that has these tracks to send."""
    made.append(RTCPeerConnection(NO_SERVERS))
    for track in tracks:
        made[-1].addTrack(track)
    return made[-1]


async def close_all() -> set[str]:
    """Close every connection that `fresh` has made; return the states they are in then."""
    return await closed(*made)


async def closed(*pcs: RTCPeerConnection) -> set[str]:
    """Close these connections; return the states they are in then."""
    begun = [pc for pc in pcs if pc.connectionState in ("new", "connecting") and dtls_transports(pc)]
    for pc in pcs:
        await pc.close()
        made[:] = [one for one in made if one is not pc]
    # What is closed while it connects may go on behind that: aioice's connect() looks up every 20 ms and then starts
    # its consent timer, and aiortc its sender, if DTLS was done just then. So close that again (as loopback does).
    await asyncio.sleep(0.1 if begun else 0)
    for pc in begun:
        await ice_connection(pc).close()
        for transceiver in pc.getTransceivers():
            await transceiver.stop()
    return {pc.signalingState for pc in pcs}


async def negotiate(offering: RTCPeerConnection, answering: RTCPeerConnection) -> None:
    """Make the six calls of a negotiation."""
    with LoopbackOnly():
        await offering.setLocalDescription(await offering.createOffer())
        await answering.setRemoteDescription(offering.localDescription)
        await answering.setLocalDescription(await answering.createAnswer())
        await offering.setRemoteDescription(answering.localDescription)


async def play_cards(order: str) -> str:
    """Make the calls on the cards in that order; return both signalling states, or the error that ended it."""
    pcs = {"pc1": fresh(VideoStreamTrack()), "pc2": fresh()}
    try:
        return await _played(str(order), pcs)
    finally:
        await closed(*pcs.values())


async def _played(order: str, pcs: dict[str, RTCPeerConnection]) -> str:
    texts: dict[str, RTCSessionDescription] = {}
    for letter in filter(str.isalnum, order.casefold()):
        if letter not in CARDS:
            return f"there is no card {letter!r}"
        who, method, kind = CARDS[letter]
        if kind and kind not in texts:
            return f"{who} {method}: there is no {kind} yet"
        try:
            with LoopbackOnly():
                created = await getattr(pcs[who], method)(*([texts[kind]] if kind else []))
        except InvalidStateError as error:
            return f"{who} {method}: {error}"
        if created:
            texts[created.type] = created
    return f"{pcs['pc1'].signalingState}, {pcs['pc2'].signalingState}"


class Tries:
    """Every call in every signalling state, each on a connection of its own: the state after it, or the error."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], str | InvalidStateError] = {}

    @property
    def refused(self) -> int:
        """How many raised InvalidStateError."""
        return sum(isinstance(outcome, InvalidStateError) for outcome in self.outcomes.values())

    def _cell(self, state: str, call: str) -> Cell:
        outcome = self.outcomes[state, call]
        if isinstance(outcome, InvalidStateError):
            return Cell(f"{type(outcome).__name__}: {outcome}", tint=RED)
        return Cell("ok") if outcome == state else Cell(f"→ {outcome}", changed=True)

    def _repr_html_(self) -> str:
        head = [Cell("in state", head=True, wide="24%"), *(Cell(state, head=True) for state in SIGNALLING)]
        rows = [[Cell(call, head=True), *(self._cell(state, call) for state in SIGNALLING)] for call in CALLS]
        shown: HTML = table([head, *rows])
        return str(shown.data)


async def try_all() -> Tries:
    """Make every call in every state. All connections are closed again: a track that nobody reads fills the memory."""
    stranger, friend = fresh(VideoStreamTrack()), fresh()
    await negotiate(stranger, friend)
    theirs = {"offer": stranger.localDescription, "answer": friend.localDescription}
    await closed(stranger, friend)
    tries, tried = Tries(), list[RTCPeerConnection]()
    for state in SIGNALLING:
        for call in CALLS:
            with LoopbackOnly():
                pc = await _brought_to(state, theirs["offer"])
                try:
                    await _make(pc, call, theirs)
                    tries.outcomes[state, call] = pc.signalingState
                except InvalidStateError as error:
                    tries.outcomes[state, call] = error
                tried.append(pc)
    await closed(*tried)
    return tries


async def _brought_to(state: str, an_offer: RTCSessionDescription) -> RTCPeerConnection:
    pc = fresh(VideoStreamTrack())
    if state == "have-local-offer":
        await pc.setLocalDescription(await pc.createOffer())
    elif state == "have-remote-offer":
        await pc.setRemoteDescription(an_offer)
    elif state == "closed":
        await pc.close()
    return pc


async def _make(pc: RTCPeerConnection, call: str, theirs: dict[str, RTCSessionDescription]) -> None:
    """Make one call. Where the connection can create the description itself, it commits to its own."""
    method, _, kind = call.rstrip(")").partition("(")
    if method == "addIceCandidate":
        (found,) = candidates_in(theirs["offer"].sdp)
        candidate = parse_candidate(found["candidate"])
        candidate.sdpMid = found["sdpMid"]
        await pc.addIceCandidate(candidate)
    elif method == "setRemoteDescription":
        await pc.setRemoteDescription(theirs[kind])
    elif method == "setLocalDescription":
        own = {"offer": ("stable", "have-local-offer"), "answer": ("have-remote-offer",)}
        create = {"offer": pc.createOffer, "answer": pc.createAnswer}
        await pc.setLocalDescription(await create[kind]() if pc.signalingState in own[kind] else theirs[kind])
    else:
        await getattr(pc, method)()


__all__ = ["CARDS", "close_all", "fresh", "negotiate", "play_cards", "try_all"]
