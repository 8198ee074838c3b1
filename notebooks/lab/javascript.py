"""The API calls of a negotiation as a browser's page writes them, and where aiortc differs: for `beside`.

beside(Peer.create_offer, *JAVASCRIPT["createOffer"])
"""

__all__ = ["JAVASCRIPT"]

JAVASCRIPT: dict[str, tuple[str, str]] = {  # call -> the code, and a sentence
    "RTCPeerConnection": (
        "const pc1 = new RTCPeerConnection({iceServers: []});",
        "Without a configuration aiortc asks a public STUN server for its address; a browser asks none.",
    ),
    "addTrack": (
        "pc1.addTrack(track, stream);\npc1.getTransceivers()[0].setCodecPreferences(chosen);",
        "A browser gets its tracks from getUserMedia(), which a page has over https or from localhost only. Here one "
        "is a MediaStreamTrack with a recv() of its own; any other object would be taken in silence, and never sent.",
    ),
    "createOffer": ("const offer = await pc1.createOffer();", "The same."),
    "setLocalDescription": (
        "pc1.onicecandidate = ({candidate}) => send(candidate);\nawait pc1.setLocalDescription(offer);",
        "A browser reports each candidate when it is found; aiortc returns when it has all.",
    ),
    "setRemoteDescription": (
        "pc2.ontrack = ({track}) => show(track);\nawait pc2.setRemoteDescription({type: 'offer', sdp});",
        "aiortc wants an RTCSessionDescription, a browser any object with these two fields.",
    ),
    "addIceCandidate": (
        "await pc2.addIceCandidate({candidate, sdpMid});\nawait pc2.addIceCandidate(null);",
        "aiortc wants the line taken apart into an RTCIceCandidate. A browser does that itself.",
    ),
    "createAnswer": ("const answer = await pc2.createAnswer();", "The same."),
    "replaceTrack": (
        "await sender.replaceTrack(otherTrack);",
        "In a browser it is asynchronous, and can be rejected: for a track of another kind, or one that would need a "
        "negotiation. Here it is neither.",
    ),
    "rollback": (
        "await pc.setLocalDescription({type: 'rollback'});",
        "aiortc takes it without an error. What it does then, the next cell shows.",
    ),
    "more m-lines": (
        "pc.addTransceiver('audio');\npc.createDataChannel('chat');",
        "The same. Further options come as keywords here, as one object in a browser.",
    ),
    "direction": (
        "transceiver.direction = 'inactive';",
        "The same. A browser then fires negotiationneeded; aiortc has no such event.",
    ),
}
