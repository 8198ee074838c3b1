"""ICE's arithmetic laid open: candidates and pairs with their priorities, each computed again from its parts.

candidate_table(sdp)      the candidates of a description, of a message or of aiortc
pair_table(peer)          the check list of a running call
priority(126, 65535, 1)   one candidate's priority (RFC 8445 section 5.1.2.1)
split_priority(number)    and back
pair_priority(g, d)       one pair's (RFC 8445 section 6.1.2.3)
"""

from __future__ import annotations

from loopback import Peer  # first: it imports cv2 before aiortc  # isort: skip

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import aioice
from aiortc import RTCIceCandidate
from aiortc.sdp import candidate_to_sdp

from .draw import AMBER, GREEN, RED, Table
from .private import AnyPeer, check_list, ice_role

# How much each type is liked, recommended in RFC 8445 section 5.1.2.2; aioice's choice too. Browsers have their own.
TYPE_PREFERENCES = {"host": 126, "prflx": 110, "srflx": 100, "relay": 0}

Candidates = str | Iterable[str | Mapping[str, str] | RTCIceCandidate | aioice.Candidate]


def priority(type_preference: int, local_preference: int, component: int) -> int:
    """Return a candidate's priority: the type counts most, then the address, then the component (RTP before RTCP)."""
    limits = {"type preference": (type_preference, 0, 126), "local preference": (local_preference, 0, 65535)}
    for name, (value, least, most) in (limits | {"component": (component, 1, 256)}).items():
        if not least <= value <= most:
            raise ValueError(f"the {name} {value} is not in {least}..{most} (RFC 8445 section 5.1.2.1)")
    return 2**24 * type_preference + 2**8 * local_preference + (256 - component)


class Priority(NamedTuple):
    """The three parts of a candidate's priority."""

    type_preference: int
    local_preference: int
    component: int

    @property
    def formula(self) -> str:
        """The sum, written out as Python would compute it."""
        return f"2**24 * {self.type_preference} + 2**8 * {self.local_preference} + (256 - {self.component})"


def split_priority(number: int) -> Priority:
    """Cut a priority into the parts it was made of."""
    if not 1 <= number < 2**31:
        raise ValueError(f"the priority {number} is not in 1..2**31 - 1 (RFC 8445 section 5.1.2)")
    return Priority(number >> 24, number >> 8 & 0xFFFF, 256 - (number & 0xFF))


def pair_priority(controlling: int, controlled: int) -> int:
    """Return a pair's priority, the same number on both sides: the worse candidate of the two counts most."""
    low, high = sorted((controlling, controlled))
    return 2**32 * low + 2 * high + (1 if controlling > controlled else 0)


# ---- Candidates ------------------------------------------------------------------------------------------------------


def parse_candidates(candidates: Candidates) -> list[aioice.Candidate]:
    """Return the candidates in an SDP or a line, or in a list of lines, of messages or of aiortc's objects."""
    return [_parse(candidate) for candidate in _lines(candidates)]


def _lines(candidates: Candidates) -> Iterable[str | Mapping[str, str] | RTCIceCandidate | aioice.Candidate]:
    if not isinstance(candidates, str):
        return candidates
    lines = [line.strip().removeprefix("a=") for line in candidates.splitlines()]
    return [line for line in lines if line.startswith("candidate:")]


def _more(candidate: object) -> str:
    """Return the tail of what may be a line or a message."""
    text = candidate.get("candidate", "") if isinstance(candidate, Mapping) else candidate
    return tail(text) if isinstance(text, str) else ""


def _parse(candidate: str | Mapping[str, str] | RTCIceCandidate | aioice.Candidate) -> aioice.Candidate:
    if isinstance(candidate, aioice.Candidate):
        return candidate
    if isinstance(candidate, RTCIceCandidate):
        candidate = candidate_to_sdp(candidate)
    elif isinstance(candidate, Mapping):
        candidate = candidate["candidate"]
    return aioice.Candidate.from_sdp(candidate.strip().removeprefix("a=").removeprefix("candidate:"))


@dataclass(frozen=True)
class Recomputed:
    """A candidate's priority beside the one that the formula gives for its type and component."""

    candidate: aioice.Candidate

    @property
    def parts(self) -> Priority:
        return split_priority(self.candidate.priority)

    @property
    def recommended(self) -> int | None:
        """The priority with the recommended type preference and the candidate's own local preference; None where there
        is no recommendation, as for TCP."""
        preference = TYPE_PREFERENCES.get(self.candidate.type)
        if preference is None or self.candidate.tcptype or not 1 <= self.candidate.component <= 256:
            return None
        return priority(preference, self.parts.local_preference, self.candidate.component)

    def __str__(self) -> str:
        if self.recommended == self.candidate.priority:
            return f"equal: {self.recommended}"
        udp, parts = TYPE_PREFERENCES.get(self.candidate.type), self.parts
        if udp is None:
            return f"not equal: the type {self.candidate.type} is unknown"
        if parts.component != self.candidate.component:
            return f"not equal: made for component {parts.component}, not {self.candidate.component}"
        if self.candidate.tcptype:  # RFC 6544 section 4.2: UDP comes first
            return f"{'below' if parts.type_preference < udp else 'not below'} UDP's {udp}, as TCP should be"
        return f"own choice: type preference {parts.type_preference}, recommended is {udp}"


def _address(candidate: aioice.Candidate) -> str:
    host = f"[{candidate.host}]" if ":" in candidate.host else candidate.host
    return f"{host}:{candidate.port}"


# What Chromium writes behind a candidate; aioice's class has no room for most of it.
TAIL = ("generation", "ufrag", "network-id", "network-cost")


def tail(line: str) -> str:
    """Return what stands behind a candidate's known parts, as "generation 0, network-id 1"."""
    words = line.split()
    pairs = dict(zip(words[6::2], words[7::2], strict=False))  # from "typ" on, words come in pairs
    return ", ".join(f"{name} {pairs[name]}" for name in TAIL if name in pairs)


def _row(candidate: aioice.Candidate, more: str = "") -> tuple[str, ...]:
    base = f"{candidate.related_address}:{candidate.related_port}" if candidate.related_address else ""
    try:
        formula, again = split_priority(candidate.priority).formula, str(Recomputed(candidate))
    except ValueError as error:
        formula, again = "", f"not equal: {error}"
    kind = f"{candidate.type}, {candidate.tcptype}" if candidate.tcptype else candidate.type
    return (
        candidate.foundation,
        str(candidate.component),
        f"{candidate.transport} {_address(candidate)}",
        kind + (f", for {base}" if base else "") + (f" ({more})" if more else ""),
        str(candidate.priority),
        formula,
        again,
    )


def candidate_table(sdp_or_candidates: Candidates) -> Table:
    """Show candidates with their priority cut into its parts, and computed again from their type and component."""
    found = list(_lines(sdp_or_candidates))
    candidates = parse_candidates(found)
    unique = {
        candidate.to_sdp(): (candidate, more) for candidate, more in zip(candidates, map(_more, found), strict=True)
    }
    rows = [_row(*one) for one in sorted(unique.values(), key=lambda one: -one[0].priority)]  # bundled m-lines repeat
    note = "priority = 2**24 * type preference + 2**8 * local preference + (256 - component), RFC 8445 section 5.1.2.1."
    if len(unique) < len(candidates):
        note += f" {len(candidates)} lines: each m-line of the bundle repeats them."
    head = ("foundation", "comp.", "address", "type", "priority", "its parts", "computed again")
    widths = (12, 6, 20, 13, 12, 22, 15)
    return Table(
        head,
        [("", rows)],
        widths,
        code={0, 2, 5},
        tints={"equal": GREEN, "below": GREEN, "own": AMBER, "not": RED},
        tinted=6,
        note=note,
    )


# ---- Pairs -----------------------------------------------------------------------------------------------------------

STATES = {"succeeded": GREEN, "in-progress": AMBER, "failed": RED}


def pair_table(peer: AnyPeer) -> Table:
    """Show a peer's check list: each pair with its state, both candidates and its priority, computed again."""
    pairs = check_list(peer)
    role = ice_role(peer) if pairs else "no pair yet"
    name = peer.name if isinstance(peer, Peer) else "the peer"
    rows: list[tuple[str, ...]] = []
    for pair in pairs:
        sides = (pair.local.priority, pair.remote.priority)
        controlling, controlled = sides if role == "controlling" else sides[::-1]
        again = pair_priority(controlling, controlled)
        rows.append(
            (
                pair.state,
                f"{pair.local.type} {_address(pair.local)}",
                f"{pair.remote.type} {_address(pair.remote)}",
                f"{pair.priority}",
                f"2**32 * {min(sides)} + 2 * {max(sides)} + {int(controlling > controlled)}",
                f"equal: {again}" if again == pair.priority else f"not equal: {again}",
                "nominated" if pair.nominated else "",
            )
        )
    head = ("state", f"{name}'s own candidate", "the other's", "priority", "its parts", "computed again", "chosen")
    note = (
        f"{name} is {role}. With G the controlling side's candidate priority and D the controlled side's: pair "
        "priority = 2**32 * min(G, D) + 2 * max(G, D) + (1 if G > D else 0), RFC 8445 section 6.1.2.3."
    )
    return Table(head, [("", rows)], (9, 17, 17, 19, 15, 12, 11), code={1, 2, 4}, tints=STATES, tinted=0, note=note)
