"""Offers and answers in the manner of two browsers, all values made up."""

CHROMIUM = """\
v=0
o=- 7180642891154392201 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=extmap-allow-mixed
a=msid-semantic: WMS 1f2e3d4c-stream
m=audio 54321 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 203.0.113.5
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:2310487653 1 udp 2122260223 192.0.2.10 54321 typ host generation 0 network-id 1 network-cost 10
a=candidate:1510613869 1 udp 2122194687 3f1b6c1e-9c1a-4c51-8d0a-5b8f3c8f7a11.local 54322 typ host generation 0
a=candidate:842163049 1 udp 1686052607 203.0.113.5 54321 typ srflx raddr 192.0.2.10 rport 54321 generation 0
a=candidate:3098765432 1 udp 41885439 198.51.100.7 60000 typ relay raddr 203.0.113.5 rport 54321 generation 0
a=candidate:4022866446 1 tcp 1518280447 192.0.2.10 9 typ host tcptype active generation 0 network-id 1
a=ice-ufrag:Xk2b
a=ice-pwd:n0tS3cretButL0ngEnough/+a
a=ice-options:trickle renomination
a=fingerprint:sha-256 AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=sendrecv
a=msid:1f2e3d4c-stream 5a6b7c8d-audio
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=ssrc:1234567890 cname:Q9wErTyUiOp
a=ssrc:1234567890 msid:1f2e3d4c-stream 5a6b7c8d-audio
a=ssrc:1234567890 mslabel:1f2e3d4c-stream
a=ssrc:1234567890 label:5a6b7c8d-audio
m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 98 99 45 46 49 50 116 117 118 35
c=IN IP4 0.0.0.0
b=AS:2500
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:Xk2b
a=ice-pwd:n0tS3cretButL0ngEnough/+a
a=ice-options:trickle
a=fingerprint:sha-256 AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99
a=setup:actpass
a=mid:1
a=extmap:14 urn:ietf:params:rtp-hdrext:toffset
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:13 urn:3gpp:video-orientation
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay
a=extmap:6 http://www.webrtc.org/experiments/rtp-hdrext/video-content-type
a=extmap:7 http://www.webrtc.org/experiments/rtp-hdrext/video-timing
a=extmap:8 http://www.webrtc.org/experiments/rtp-hdrext/color-space
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id
a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id
a=extmap:12 https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension
a=extmap:9 http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00
a=sendonly
a=msid:1f2e3d4c-stream 9e8d7c6b-video
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:96 VP8/90000
a=rtcp-fb:96 goog-remb
a=rtcp-fb:96 transport-cc
a=rtcp-fb:96 ccm fir
a=rtcp-fb:96 nack
a=rtcp-fb:96 nack pli
a=rtcp-fb:96 rrtr
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:102 H264/90000
a=rtcp-fb:102 ack ccfb
a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rtpmap:103 rtx/90000
a=fmtp:103 apt=102
a=rtpmap:98 VP9/90000
a=fmtp:98 profile-id=0
a=rtpmap:99 rtx/90000
a=fmtp:99 apt=98
a=rtpmap:45 AV1/90000
a=fmtp:45 level-idx=5;profile=0;tier=0
a=rtpmap:46 rtx/90000
a=fmtp:46 apt=45
a=rtpmap:49 H265/90000
a=fmtp:49 level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST
a=rtpmap:50 rtx/90000
a=fmtp:50 apt=49
a=rtpmap:116 red/90000
a=rtpmap:117 rtx/90000
a=fmtp:117 apt=116
a=rtpmap:118 ulpfec/90000
a=rtpmap:35 flexfec-03/90000
a=fmtp:35 repair-window=10000000
a=rid:h send
a=rid:l send max-width=320;max-height=180
a=simulcast:send h;~l
a=ssrc-group:FID 1111111111 2222222222
a=ssrc-group:FEC-FR 1111111111 3333333333
a=ssrc-group:SIM 1111111111 4444444444 5555555555
a=ssrc:1111111111 cname:Q9wErTyUiOp
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:Xk2b
a=ice-pwd:n0tS3cretButL0ngEnough/+a
a=ice-options:trickle
a=fingerprint:sha-256 AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99
a=setup:actpass
a=mid:2
a=sctp-port:5000
a=max-message-size:262144
"""

FIREFOX = """\
v=0
o=mozilla...THIS_IS_SDPARTA-120.0 4962303333179871722 0 IN IP4 0.0.0.0
s=-
t=0 0
a=sendrecv
a=fingerprint:sha-256 0F:1E:2D:3C:4B:5A:69:78:87:96:A5:B4:C3:D2:E1:F0:0F:1E:2D:3C:4B:5A:69:78:87:96:A5:B4:C3:D2:E1:F0
a=group:BUNDLE 0 1 2
a=group:LS 0 1
a=ice-options:trickle
a=ice-lite
a=msid-semantic:WMS *
m=audio 0 UDP/TLS/RTP/SAVPF 109 9 0 8 101
c=IN IP6 ::
a=bundle-only
a=recvonly
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level
a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid
a=fmtp:109 maxplaybackrate=48000;stereo=1;useinbandfec=1;usedtx=0;sprop-stereo=0;cbr=0;maxaveragebitrate=64000
a=fmtp:101 0-15
a=ice-pwd:6f0cf9a2bd1c11a8a5d6f0a3e9cc2b11
a=ice-ufrag:1f8a9c0d
a=mid:0
a=msid:- {5c0ba0f2-8d7f-4f0c-93aa-2f60ad0f7ee1}
a=rtcp-mux
a=rtcp-mux-only
a=rtpmap:109 opus/48000/2
a=rtpmap:9 G722/8000/1
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000/1
a=ptime:20
a=maxptime:60
a=setup:active
a=ssrc:3735928559 cname:{9d2b6a1e-5c2d-4b5f-8a55-1f9f3a0c7d20}
m=video 50000 UDP/TLS/RTP/SAVPF 120 124 121 125 126 127
c=IN IP4 192.0.2.20
b=TIAS:1500000
a=candidate:0 1 UDP 2122252543 192.0.2.20 50000 typ host
a=candidate:1 1 TCP 2105524479 192.0.2.20 9 typ host tcptype active
a=candidate:2 1 UDP 1686052863 203.0.113.9 50000 typ srflx raddr 192.0.2.20 rport 50000
a=candidate:5 1 UDP 92216831 198.51.100.7 61000 typ relay raddr 198.51.100.7 rport 61000
a=end-of-candidates
a=inactive
a=fmtp:126 profile-level-id=42e01f;level-asymmetry-allowed=1;packetization-mode=1
a=fmtp:120 max-fs=12288;max-fr=60
a=fmtp:124 apt=120;rtx-time=3000
a=ice-mismatch
a=ice-pacing:20
a=mid:1
a=remote-candidates:1 192.0.2.10 54321
a=imageattr:120 send * recv [x=640,y=480]
a=rtcp:50001 IN IP4 192.0.2.20
a=rtcp-fb:120 nack
a=rtcp-fb:120 ccm tmmbr
a=rtcp-fb:* transport-cc
a=rid:hi recv
a=simulcast: recv hi;lo
a=rtpmap:120 VP8/90000
a=rtpmap:124 rtx/90000
a=framerate:30
a=setup:passive
a=tls-id:89f0a3c2b1d4e5f60718
a=label:camera
a=content:main
m=application 9 DTLS/SCTP 5000
c=IN IP4 0.0.0.0
a=sendrecv
a=mid:2
a=setup:holdconn
a=sctpmap:5000 webrtc-datachannel 256
a=max-message-size:0
a=sctp-port:5000
"""
