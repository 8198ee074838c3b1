"""Every private name of aiortc and aioice that the lessons look at, in one place.

None of them is changed. Each function takes a `loopback.Peer` or an `RTCPeerConnection`. When a name has moved,
MovedError says in which version of which package; tests/lab/test_private.py has a guard for each.
"""

from loopback import Peer, dtls_transports  # first: loopback imports cv2 before aiortc  # isort: skip

import importlib.metadata
from typing import Any, NamedTuple

import aioice
import pylibsrtp
from aiortc import RTCDtlsTransport, RTCPeerConnection
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = [
    "CheckedPair",
    "MovedError",
    "SrtpKeys",
    "SrtpSessions",
    "certificate_der",
    "check_list",
    "connections",
    "dtls_cipher",
    "dtls_role",
    "dtls_version",
    "ice_role",
    "remote_certificate_der",
    "srtp_keys",
    "srtp_profile",
    "srtp_sessions",
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


def look(owner: object, name: str) -> Any:
    """Return a private attribute. Raises MovedError when the owner's package has it no more."""
    try:
        return getattr(owner, name)
    except AttributeError as error:
        package = type(owner).__module__.partition(".")[0]
        version = importlib.metadata.version(package)
        raise MovedError(
            f"{package} {version} has no {type(owner).__name__}.{name}: mend notebooks/lab/private.py"
        ) from error


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
