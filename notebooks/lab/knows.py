"""What each peer knows at this moment, of itself and of the other, and where its four state machines stand."""

from __future__ import annotations

import html
import weakref
from collections.abc import Iterable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from aiortc import RTCDtlsParameters, RTCDtlsTransport, RTCIceCandidate, RTCSessionDescription
from aiortc.sdp import SessionDescription
from IPython.display import HTML

from loopback import STATES, Call, Event, Peer, describe_sdp, dtls_transports

from .draw import Cell, breakable, table
from .slider import show

Facts = dict[tuple[str, str, str], str]  # (whose knowledge, of whom, what) -> value

OWN = ("tracks", "description", "ufrag", "fingerprint", "candidates")
OTHER = ("description", "ufrag", "fingerprint", "candidates")
TOGETHER = ("keys",)
MOST = 300  # snapshots of a call
SDP_NAMES = {"ufrag": "ice-ufrag", "fingerprint": "fingerprint"}


def dtls_transport(peer: Peer) -> RTCDtlsTransport | None:
    """Return the one transport all m-lines share (MAX_BUNDLE), None before there is one."""
    return next(iter(dtls_transports(peer.pc)), None)


def knowledge(call: Call) -> Facts:
    """Return what both peers know, and their states, as texts; "" is what is not known."""
    facts: Facts = {}
    for peer in (call.pc1, call.pc2):
        for what, value in (_of_itself(peer) | {"keys": _keys(peer)} | peer.states).items():
            facts[peer.name, "itself", what] = value
        for what, value in _of_the_other(peer).items():
            facts[peer.name, "the other", what] = value
    return facts


def _of_itself(peer: Peer) -> dict[str, str]:
    tracks = [sender.track.kind for sender in peer.pc.getSenders() if sender.track]
    facts = {"tracks": ", ".join(tracks), "description": _own_description(peer)}
    if transport := dtls_transport(peer):
        gatherer = transport.transport.iceGatherer
        facts["ufrag"] = gatherer.getLocalParameters().usernameFragment or ""
        facts["fingerprint"] = _shown(transport.getLocalParameters())
        facts["candidates"] = _addresses(gatherer.getLocalCandidates())
    return facts


def _own_description(peer: Peer) -> str:
    if peer.pc.localDescription:
        return _described(peer.pc.localDescription)
    return f"draft of an {_described(peer.draft)}" if peer.draft else ""


def _described(description: RTCSessionDescription) -> str:
    return f"{description.type}: {describe_sdp(description.sdp).rpartition(', ')[0]}"


def _of_the_other(peer: Peer) -> dict[str, str]:
    remote = peer.pc.remoteDescription
    if not remote:
        return {}
    facts = {"description": _described(remote)}
    media = SessionDescription.parse(remote.sdp).media
    if media and media[0].ice:
        facts["ufrag"] = media[0].ice.usernameFragment or ""
    if media and media[0].dtls and media[0].dtls.fingerprints:
        facts["fingerprint"] = _shown(media[0].dtls)
    if transport := dtls_transport(peer):
        facts["candidates"] = _addresses(transport.transport.getRemoteCandidates())
    return facts


def _shown(parameters: RTCDtlsParameters) -> str:
    first = parameters.fingerprints[0]  # aiortc sends three, made by different hashes; sha-256 comes first
    return f"{first.algorithm} {first.value}"


def _keys(peer: Peer) -> str:
    state = peer.health.dtls_state
    return {"connected": "yes", "connecting": "the handshake runs", "failed": "no: DTLS failed"}.get(state, "")


def _addresses(candidates: Iterable[RTCIceCandidate]) -> str:
    return ", ".join(f"{candidate.type} {candidate.ip}:{candidate.port}" for candidate in candidates)


class Snapshot(NamedTuple):
    """What both peers knew, from the moment before it until one thing happened."""

    name: str
    facts: Facts


class Strip(HTML):  # type: ignore[misc]
    """A strip as HTML; in a live notebook with a slider, through all that happened since the call's first strip."""

    def __init__(self, call: Call, snapshots: list[Snapshot], facts: Facts, before: Facts | None) -> None:
        super().__init__(_page(call, facts, before))
        self.call, self.snapshots = call, snapshots

    def _ipython_display_(self) -> None:
        names = [*(one.name for one in self.snapshots), "now"]
        show(str(self.data), names, self.at)

    def at(self, number: int) -> str:
        """Return the strip of one snapshot, changes since the one before marked."""
        before = self.snapshots[number - 1].facts if number else None
        return _page(self.call, self.snapshots[number].facts, before)


_last: WeakKeyDictionary[Call, Facts] = WeakKeyDictionary()  # what the strip before showed
_seen: WeakKeyDictionary[Call, list[Snapshot]] = WeakKeyDictionary()


def _remember(call: Call) -> list[Snapshot]:
    """Return a call's snapshots; from the first time on, one is added before each thing that its log tells of."""
    if call not in _seen:
        _seen[call] = []
        listener, found, kept = call.log.listener, weakref.ref(call), _seen[call]

        def listen(event: Event) -> None:
            listener(event)
            if (here := found()) is not None and len(kept) < MOST:
                kept.append(Snapshot(f"{event.t * 1000:.1f} ms, before {event.who} {event.what}", knowledge(here)))

        call.log.listener = listen
    return _seen[call]


def strip(call: Call) -> Strip:
    """Show what pc1 knows, what pc2 knows and the eight states; what has changed since the last strip is marked."""
    facts, before = knowledge(call), _last.get(call)
    _last[call] = facts
    return Strip(call, list(_remember(call)), facts, before)


def _page(call: Call, facts: Facts, before: Facts | None) -> str:
    """Return the table: these facts, marked where they differ from those before."""
    old = facts if before is None else before

    def cell(peer: str, of: str, what: str) -> Cell:
        value = facts.get((peer, of, what), "")
        # The first four bytes of a fingerprint are enough to tell two apart.
        words = f"{value.partition(' ')[2][:11]}:…" if what == "fingerprint" and value else value
        title = f"a={SDP_NAMES[what]}:{value}" if what in SDP_NAMES and value else ""
        changed = value != old.get((peer, of, what), "")
        return Cell(breakable(words) or "-", changed=changed, title=title, whole=what in STATES)

    left = [("itself", OWN), ("the other", OTHER), ("itself", TOGETHER)]
    names = [call.pc1.name, call.pc2.name]
    heads = ["", "", *(f"{name} knows" for name in names), "state", *names]
    widths = ["", "", "22%", "22%", "", "", ""]  # the others are as wide as their longest word
    rows = [[Cell(head, head=True, wide=width) for head, width in zip(heads, widths, strict=True)]]
    for of, whats in left:
        for number, what in enumerate(whats):
            title = "both" if whats is TOGETHER else f"of {of}"
            rows.append([Cell(title, head=True, rows=len(whats), whole=True)] if number == 0 else [])
            rows[-1] += [Cell(what, head=True), *(cell(name, of, what) for name in names)]
    for row, state in zip(rows[1:], STATES, strict=False):
        row += [Cell(state, head=True), *(cell(name, "itself", state) for name in names)]
    rows[1 + len(STATES)].append(
        Cell("" if before is None else _changes(facts, old), rows=len(rows) - 1 - len(STATES), columns=3)
    )
    return str(table(rows).data)


def _changes(facts: Facts, before: Facts) -> str:
    keys = list(dict.fromkeys([*facts, *before]))
    changed = [key for key in keys if facts.get(key, "") != before.get(key, "")]
    if not changed:
        return "<i>nothing has changed since the last strip</i>"
    lines = []
    for who, of, what in changed:
        new, old = facts.get((who, of, what), ""), before.get((who, of, what), "")
        if what in STATES:
            lines.append(f"{who} {what}: {html.escape(old)} → {html.escape(new)}")
        elif what in TOGETHER:
            lines.append(f"{who} {what}: {html.escape(old or '-')} → {html.escape(new or '-')}")
        else:
            owner = "its own" if of == "itself" else "the other's"
            lines.append(f"{who} {'knows' if new else 'no longer has'} {owner} {what}")
    return "<i>since the last strip</i><br>" + "<br>".join(lines)


__all__ = ["strip"]
