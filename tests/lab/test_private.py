"""Keys, certificates and roles: the private names are where they were, and say what the wire says."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import hashlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pylibsrtp
import pytest
from aiortc import RTCPeerConnection, RTCSctpTransport, VideoStreamTrack
from aiortc.contrib.media import MediaRelay
from conftest import run
from faults import calling, pictures
from taps import tapped

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import private
from lab.packets import decode


def test_a_packet_before_and_after_protection() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            sender, receiver = private.srtp_sessions(call.pc1), private.srtp_sessions(call.pc2)
            packet = tap.only("SRTP", "pc1", "out")[0]
            plain = receiver.incoming.unprotect(packet.data)
            assert sender.outgoing.protect(plain) == packet.data
            assert len(packet.data) == len(plain) + 16
            assert plain[:12] == packet.data[:12]
            decoded = decode(plain, protected=False, codec="VP8")
            assert next(f for f in decoded if f.name == "VP8 frame tag").meaning.startswith("key frame")
            for place in (1, 8, 60, len(packet.data) - 1):
                flipped = bytearray(packet.data)
                flipped[place] ^= 0x10
                with pytest.raises(pylibsrtp.Error, match="authentication"):
                    private.srtp_sessions(call.pc2).incoming.unprotect(bytes(flipped))
            await pictures(call, 3)
            assert call.meter.misread == 0

    run(scenario())


def test_both_peers_have_the_same_keys_and_nobody_sent_them() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            one, two = private.srtp_keys(call.pc1), private.srtp_keys(call.pc2)
            assert (one.outgoing, one.incoming) == (two.incoming, two.outgoing)
            assert one.outgoing != one.incoming
            assert len(one.outgoing) == 32 + 12
            assert not any(key in datagram.data for key in one for datagram in tap)

    run(scenario())


def test_the_fingerprint_in_the_sdp_is_the_hash_of_the_certificate() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            for peer, other in ((call.pc1, call.pc2), (call.pc2, call.pc1)):
                digest = hashlib.sha256(private.certificate_der(peer)).digest().hex(":").upper()
                assert f"a=fingerprint:sha-256 {digest}" in other.pc.remoteDescription.sdp
                assert private.remote_certificate_der(other) == private.certificate_der(peer)

    run(scenario())


def test_check_list_and_roles() -> None:
    async def scenario() -> None:
        async with calling() as call:
            with pytest.raises(LookupError, match="no transport yet"):
                private.ice_role(call.pc1)
            for step in call.steps[:4]:
                await step.run()
            assert private.check_list(call.pc1) == []
            assert private.dtls_role(call.pc1) == "auto"
            with pytest.raises(LookupError, match="handshake"):
                private.dtls_cipher(call.pc1)
            for step in call.steps[4:]:
                await step.run()
            for peer, roles in ((call.pc1, ("controlling", "server")), (call.pc2, ("controlled", "client"))):
                (pair,) = private.check_list(peer)
                assert (pair.state, pair.nominated) == ("succeeded", True)
                assert (private.ice_role(peer), private.dtls_role(peer)) == roles
                assert private.check_list(peer.pc) == [pair]
                low, high = sorted((pair.local.priority, pair.remote.priority))
                assert pair.priority == (low << 32) + 2 * high
                assert private.dtls_version(peer) == "DTLSv1.2"
                assert private.dtls_cipher(peer) == "ECDHE-ECDSA-AES128-GCM-SHA256"
                assert private.srtp_profile(peer) == "SRTP_AEAD_AES_256_GCM"
            assert len(private.master_secret(call.pc1)) == 48
            assert private.master_secret(call.pc1) == private.master_secret(call.pc2)

    run(scenario())


@pytest.mark.parametrize(
    ("find", "name"),
    [
        (lambda pc: pc.getTransceivers()[0].receiver.transport.transport, "_connection"),
        (lambda pc: private.connections(pc)[0], "_check_list"),
        (private.first_transport, "_role"),
        (private.first_transport, "_ssl"),
        (private.first_transport, "_RTCDtlsTransport__local_certificate"),
        (lambda pc: private.look(private.first_transport(pc), "_RTCDtlsTransport__local_certificate"), "_cert"),
        (private.first_transport, "_srtp_profiles"),
        (lambda pc: pc.getSenders()[0], "_ssrc"),
        (lambda pc: pc.getSenders()[0], "_RTCRtpSender__mid"),
        (lambda pc: pc.getSenders()[0], "_RTCRtpSender__rtp_history"),
        (lambda pc: pc.getSenders()[0], "_RTCRtpSender__rtp_header_extensions_map"),
        (lambda pc: pc.getSenders()[0], "_send_keyframe"),
        (private.first_transport, "_send_rtp"),
        (lambda pc: MediaRelay().subscribe(VideoStreamTrack()), "_queue"),
        (lambda pc: pc.getReceivers()[0], "_RTCRtpReceiver__jitter_buffer"),
        (lambda pc: private.look(pc.getReceivers()[0], "_RTCRtpReceiver__jitter_buffer"), "_packets"),
        (lambda pc: pc.getReceivers()[0], "_RTCRtpReceiver__decoder_queue"),
        (lambda pc: pc.getSenders()[0], "_RTCRtpSender__encoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_private_name_is_where_it_was(find: Any, name: str) -> None:
    async def scenario() -> None:
        pc = RTCPeerConnection()
        pc.addTransceiver("video")
        private.look(find(pc), name)
        await pc.close()

    run(scenario())


def test_what_nobody_reads_waits_and_the_encoder_has_a_target() -> None:
    async def scenario() -> None:
        async with calling() as call:
            assert private.target_bitrate(call_after_tracks(call)) == 0
            await call.run()
            assert 250_000 <= private.target_bitrate(call.pc1) <= 1_500_000
            await loopback.cancelled(*[task for task in call.pc2.tasks if task is not call.pc2.listening])
            async with asyncio.timeout(5):
                while private.waiting(call.pc2).pictures < 5:
                    await asyncio.sleep(0.02)

    run(scenario())


def call_after_tracks(call: loopback.Call) -> loopback.Peer:
    """Return pc1 of a call that has not begun, but has a track to send."""
    call.pc1.pc.addTransceiver("video")
    return call.pc1


def test_a_private_name_that_moved_is_named_with_the_version() -> None:
    async def scenario() -> None:
        pc = RTCPeerConnection()
        pc.addTransceiver("video")
        with pytest.raises(private.MovedError, match=r"aiortc \d+\.\d+\.\d+ has no RTCDtlsTransport\._gone"):
            private.look(private.first_transport(pc), "_gone")
        await pc.close()

    run(scenario())


def test_each_sctp_packet_passes_two_doors() -> None:
    doors = private.sctp_doors()
    assert {name: owner.__name__ for name, (owner, _) in doors.items()} == {
        "out": "RTCDtlsTransport",
        "in": "RTCSctpTransport",
    }
    assert all(inspect.iscoroutinefunction(getattr(owner, name)) for owner, name in doors.values())
    with pytest.raises(private.MovedError, match=r"aiortc \d+\.\d+\.\d+ has no RTCSctpTransport\._gone"):
        private.look(RTCSctpTransport, "_gone")
