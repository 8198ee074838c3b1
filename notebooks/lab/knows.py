"""What each peer knows at this moment, of itself and of the other, and where its four state machines stand."""

from __future__ import annotations

import html
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from aiortc import RTCDtlsParameters, RTCDtlsTransport, RTCIceCandidate, RTCSessionDescription
from aiortc.sdp import SessionDescription
from IPython.display import HTML

from loopback import STATES, Call, Peer, describe_sdp

from .draw import Cell, table

Facts = dict[tuple[str, str, str], str]  # (whose knowledge, of whom, what) -> value

OWN = ("tracks", "description", "ufrag", "fingerprint", "candidates")
OTHER = ("description", "ufrag", "fingerprint", "candidates")
TOGETHER = ("keys",)
SDP_NAMES = {"ufrag": "ice-ufrag", "fingerprint": "fingerprint"}

_last: WeakKeyDictionary[Call, Facts] = WeakKeyDictionary()  # what the strip before showed


def dtls_transport(peer: Peer) -> RTCDtlsTransport | None:
    """Return the one transport all m-lines share (MAX_BUNDLE), None before there is one."""
    transports = [receiver.transport for receiver in peer.pc.getReceivers()]
    return transports[0] if transports else peer.pc.sctp.transport if peer.pc.sctp else None


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


def strip(call: Call) -> HTML:
    """Show what pc1 knows, what pc2 knows and the eight states; what has changed since the last strip is marked."""
    facts = knowledge(call)
    before = _last.get(call, facts)
    first = call not in _last
    _last[call] = facts

    def cell(peer: str, of: str, what: str) -> Cell:
        value = facts.get((peer, of, what), "")
        # The first four bytes of a fingerprint are enough to tell two apart.
        words = f"{value.partition(' ')[2][:11]}:…" if what == "fingerprint" and value else value
        title = f"a={SDP_NAMES[what]}:{value}" if what in SDP_NAMES and value else ""
        return Cell(html.escape(words) or "-", changed=value != before.get((peer, of, what), ""), title=title)

    left = [("itself", OWN), ("the other", OTHER), ("itself", TOGETHER)]
    names = [call.pc1.name, call.pc2.name]
    heads = ["", "", *(f"{name} knows" for name in names), "state", *names]
    widths = ["6%", "10%", "18%", "18%", "18%", "15%", "15%"]
    rows = [[Cell(head, head=True, wide=width) for head, width in zip(heads, widths, strict=True)]]
    for of, whats in left:
        for number, what in enumerate(whats):
            title = "both" if whats is TOGETHER else f"of {of}"
            rows.append([Cell(title, head=True, rows=len(whats))] if number == 0 else [])
            rows[-1] += [Cell(what, head=True), *(cell(name, of, what) for name in names)]
    for row, state in zip(rows[1:], STATES, strict=False):
        row += [Cell(state, head=True), *(cell(name, "itself", state) for name in names)]
    rows[1 + len(STATES)].append(
        Cell("" if first else _changes(facts, before), rows=len(rows) - 1 - len(STATES), columns=3)
    )
    return table(rows)


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
