"""Every private name of aiortc and aioice that the lessons look at, in one place.

None of them is changed, but for SCTP's two doors while a `sctp.SctpTap` is open. Each function takes a `loopback.Peer`
or an `RTCPeerConnection`. When a name has moved, MovedError says in which version of which package;
tests/lab/test_private.py has a guard for each.
"""

from loopback import Peer, dtls_transports  # first: loopback imports cv2 before aiortc  # isort: skip

import asyncio
import importlib.metadata
import queue
from collections.abc import Callable
from typing import Any, NamedTuple

import aioice
import pylibsrtp
from aiortc import MediaStreamTrack, RTCDtlsTransport, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCSctpTransport
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = [
    "CheckedPair",
    "MovedError",
    "SrtpKeys",
    "SrtpSessions",
    "Waiting",
    "certificate_der",
    "check_list",
    "connections",
    "decoder_queue",
    "dtls_cipher",
    "dtls_role",
    "dtls_version",
    "ice_role",
    "on_key_request",
    "relayed",
    "remote_certificate_der",
    "sctp_doors",
    "send_rtp",
    "sending",
    "set_jitter_buffer",
    "srtp_keys",
    "srtp_profile",
    "srtp_sessions",
    "target_bitrate",
    "unread_queue",
    "waiting",
]

AnyPeer = Peer | RTCPeerConnection


class MovedError(RuntimeError):
    """A private name is no longer where it was."""


class CheckedPair(NamedTuple):
    """One pair of the ICE check list (RFC 8445 section 6.1.2)."""

    local: aioice.Candidate
    remote: aioice.Candidate
    state: str  # frozen, waiting, in-progress, succeeded, failed
    nominated: bool
    priority: int


class SrtpKeys(NamedTuple):
    """Master key and salt, one after the other, for each direction of a peer."""

    outgoing: bytes
    incoming: bytes


class SrtpSessions(NamedTuple):
    """libsrtp sessions of one's own with a peer's keys: using them disturbs nothing in the call."""

    outgoing: pylibsrtp.Session  # .protect(rtp), .protect_rtcp(rtcp): what the peer sends
    incoming: pylibsrtp.Session  # .unprotect(srtp), .unprotect_rtcp(srtcp): what the peer receives


class Waiting(NamedTuple):
    """What waits at a peer that receives pictures, from the network on."""

    packets: int  # in the jitter buffer
    frames: int  # put together, and not yet decoded
    pictures: int  # decoded, and not yet read from the track


def look(owner: object, name: str) -> Any:
    """Return a private attribute. Raises MovedError when the owner's package has it no more."""
    try:
        return getattr(owner, name)
    except AttributeError as error:
        kind = owner if isinstance(owner, type) else type(owner)
        package = kind.__module__.partition(".")[0]
        version = importlib.metadata.version(package)
        raise MovedError(f"{package} {version} has no {kind.__name__}.{name}: mend notebooks/lab/private.py") from error


def transports(peer: AnyPeer) -> list[RTCDtlsTransport]:
    """Return the DTLS transports of a peer, each once: a single one when everything is bundled. No private name."""
    return list(dict.fromkeys(dtls_transports(peer.pc if isinstance(peer, Peer) else peer)))


def first_transport(peer: AnyPeer) -> RTCDtlsTransport:
    """Return the DTLS transport of a peer. Raises LookupError before there is one."""
    found = transports(peer)
    if not found:
        raise LookupError("this peer has no transport yet: a track or an offer comes first")
    return found[0]


# ---- ICE -------------------------------------------------------------------------------------------------------------


def connections(peer: AnyPeer) -> list[aioice.Connection]:
    """Return aioice's side of a peer, which its sockets report to. Private: aiortc hides which library does its ICE."""
    return [look(transport.transport, "_connection") for transport in transports(peer)]


def check_list(peer: AnyPeer) -> list[CheckedPair]:
    """Return the pairs of candidates with their states, best first. Private: aiortc has no API for the check list."""
    found = []
    for connection in connections(peer):
        for pair in look(connection, "_check_list"):
            sides = pair.local_candidate, pair.remote_candidate
            priority = aioice.ice.candidate_pair_priority(*sides, connection.ice_controlling)
            found.append(
                CheckedPair(*sides, pair.state.name.lower().replace("_", "-"), pair.nominated, priority),
            )
    return found


def ice_role(peer: AnyPeer) -> str:
    """Return "controlling" or "controlled" (RFC 8445 section 6.1.1). No private name."""
    return first_transport(peer).transport.role


# ---- DTLS ------------------------------------------------------------------------------------------------------------


def dtls_role(peer: AnyPeer) -> str:
    """Return "client" or "server", "auto" before it is decided. Private: aiortc shows it in the SDP only (a=setup)."""
    return str(look(first_transport(peer), "_role"))


def _ssl(peer: AnyPeer) -> Any:
    """Return OpenSSL's connection of a peer. Private: aiortc hands out nothing that the handshake has agreed on."""
    connection = look(first_transport(peer), "_ssl")
    if connection is None or not connection.get_cipher_name():
        raise LookupError("the DTLS handshake of this peer has not begun, or is not over")
    return connection


def dtls_version(peer: AnyPeer) -> str:
    """Return the version of DTLS in use, such as "DTLSv1.2"."""
    return str(_ssl(peer).get_protocol_version_name())


def dtls_cipher(peer: AnyPeer) -> str:
    """Return OpenSSL's name of the cipher suite in use."""
    return str(_ssl(peer).get_cipher_name())


def master_secret(peer: AnyPeer) -> bytes:
    """Return the secret of a DTLS 1.2 handshake, from which all its keys are computed (RFC 5246 section 8.1): what a
    key log would have of it, 48 bytes. Private: aiortc writes none."""
    return bytes(_ssl(peer).master_key())


def certificate_der(peer: AnyPeer) -> bytes:
    """Return the certificate a peer shows, in the bytes its fingerprint is the hash of. Private: RTCCertificate
    gives the fingerprint only."""
    certificate = look(first_transport(peer), "_RTCDtlsTransport__local_certificate")
    return bytes(look(certificate, "_cert").public_bytes(Encoding.DER))


def remote_certificate_der(peer: AnyPeer) -> bytes:
    """Return the certificate a peer was shown in the handshake."""
    return bytes(_ssl(peer).get_peer_certificate(as_cryptography=True).public_bytes(Encoding.DER))


# ---- SRTP ------------------------------------------------------------------------------------------------------------


def srtp_profile(peer: AnyPeer) -> str:
    """Return the protection profile chosen by the use_srtp extension (RFC 5764 section 4.1.2)."""
    return str(_ssl(peer).get_selected_srtp_profile().decode())


def srtp_keys(peer: AnyPeer) -> SrtpKeys:
    """Return a peer's keys, computed again from the handshake as RFC 5764 section 4.2 says: first both keys, then both
    salts, the client's before the server's."""
    profile = _profile(peer)
    length = 2 * (profile.key_length + profile.salt_length)
    material = _ssl(peer).export_keying_material(b"EXTRACTOR-dtls_srtp", length)
    client, server = (profile.get_key_and_salt(material, side) for side in (0, 1))
    return SrtpKeys(server, client) if dtls_role(peer) == "server" else SrtpKeys(client, server)


def srtp_sessions(peer: AnyPeer) -> SrtpSessions:
    """Return new sessions with a peer's keys.

    They begin as the peer's own did, with a rollover counter of 0 (RFC 3711 section 3.3.1): give them datagrams from
    the beginning of the call, or all of them in order.
    """
    keys, profile = srtp_keys(peer), _profile(peer).libsrtp_profile
    kinds = (pylibsrtp.Policy.SSRC_ANY_OUTBOUND, pylibsrtp.Policy.SSRC_ANY_INBOUND)
    policies = [
        pylibsrtp.Policy(key=key, ssrc_type=kind, srtp_profile=profile) for key, kind in zip(keys, kinds, strict=True)
    ]
    return SrtpSessions(*map(pylibsrtp.Session, policies))


def _profile(peer: AnyPeer) -> Any:
    """Return aiortc's constants for the chosen profile. Private: the list hangs on the transport only."""
    name = srtp_profile(peer).encode()
    return next(p for p in look(first_transport(peer), "_srtp_profiles") if p.openssl_profile == name)


# ---- RTP -------------------------------------------------------------------------------------------------------------


def waiting(peer: AnyPeer) -> Waiting:
    """Return what waits in the three queues of a peer's first receiver. Private: aiortc counts none of them."""
    receiver = (peer.pc if isinstance(peer, Peer) else peer).getReceivers()[0]
    packets = look(look(receiver, "_RTCRtpReceiver__jitter_buffer"), "_packets")
    frames, pictures = look(receiver, "_RTCRtpReceiver__decoder_queue"), look(receiver.track, "_queue")
    return Waiting(sum(packet is not None for packet in packets), frames.qsize(), pictures.qsize())


def decoder_queue(peer: AnyPeer) -> queue.Queue[Any]:
    """Return the queue from which the thread that decodes takes the pictures of a peer's first receiver. Private:
    aiortc has no way to reach its decoder."""
    receiver = (peer.pc if isinstance(peer, Peer) else peer).getReceivers()[0]
    found: queue.Queue[Any] = look(receiver, "_RTCRtpReceiver__decoder_queue")
    return found


def unread_queue(peer: AnyPeer) -> asyncio.Queue[Any]:
    """Return the queue from which recv() of a peer's first received track takes its pictures. Private: it is the
    track's own."""
    found: asyncio.Queue[Any] = look((peer.pc if isinstance(peer, Peer) else peer).getReceivers()[0].track, "_queue")
    return found


def target_bitrate(peer: AnyPeer) -> int:
    """Return the bits a second that a peer's first encoder aims at, 0 before there is one. Private: aiortc's
    statistics have no targetBitrate."""
    sender = (peer.pc if isinstance(peer, Peer) else peer).getSenders()[0]
    encoder = look(sender, "_RTCRtpSender__encoder")
    return int(encoder.target_bitrate) if encoder else 0


# ---- SCTP ------------------------------------------------------------------------------------------------------------


def sctp_doors() -> dict[str, tuple[type, str]]:
    """Return the class and the name of the two methods that every SCTP packet passes in the clear: "out", where DTLS
    takes it to encrypt it, and "in", where DTLS hands it on. Private: aiortc's API has messages, and no packets."""
    doors: dict[str, tuple[type, str]] = {
        "out": (RTCDtlsTransport, "_send_data"),
        "in": (RTCSctpTransport, "_handle_data"),
    }
    for owner, name in doors.values():
        look(owner, name)
    return doors


# ---- Forwarding ------------------------------------------------------------------------------------------------------


class Sending(NamedTuple):
    """What a sender writes into its packets, and keeps of them."""

    ssrc: int
    mid: str
    history: dict[int, Any]  # number modulo RTP_HISTORY_SIZE -> RtpPacket, for whoever asks again
    extensions: Any  # which header extension has which id


def sending(sender: RTCRtpSender) -> Sending:
    """Return a sender's own marks. Private: aiortc takes frames only, and packets them itself."""
    names = ("_ssrc", "_RTCRtpSender__mid", "_RTCRtpSender__rtp_history", "_RTCRtpSender__rtp_header_extensions_map")
    return Sending(*(look(sender, name) for name in names))


async def send_rtp(sender: RTCRtpSender, data: bytes) -> None:
    """Encrypt and send an RTP packet over a sender's transport. Private: the way past the encoder."""
    await look(sender.transport, "_send_rtp")(data)


def set_jitter_buffer(receiver: RTCRtpReceiver, buffer: Any) -> None:
    """Give a receiver another jitter buffer. Changes a private name, as loopback.end_frames_at_marker does."""
    look(receiver, "_RTCRtpReceiver__jitter_buffer")
    vars(receiver)["_RTCRtpReceiver__jitter_buffer"] = buffer


def on_key_request(sender: RTCRtpSender, heard: Callable[[], None]) -> None:
    """Call that instead, when the other side asks a sender for a key picture. Changes a private name."""
    look(sender, "_send_keyframe")
    vars(sender)["_send_keyframe"] = heard


def relayed(track: MediaStreamTrack) -> int:
    """Return how many frames wait at a MediaRelay's track for whoever reads it. Private: it does not say so."""
    waiting = look(track, "_queue")
    return waiting.qsize() if waiting else 0
