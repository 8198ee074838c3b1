"""STUN and TURN: from what a user gives to the configuration of a peer.

A STUN server tells a peer its address as seen from outside (RFC 8489). A TURN server lends it one of its own and relays
(RFC 8656).

    Call(source, configuration=ice_configuration(["stun:HOST"]))
    Call(source, configuration=ice_configuration(["turn:HOST?transport=tcp"], user="ann", relay_only=True))

The password of the TURN server comes from the environment (LOOPBACK_ICE_PASSWORD): an argument of a program shows in
the list of processes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from aiortc import RTCConfiguration, RTCIceServer
from aiortc.rtcconfiguration import RTCIceTransportPolicy
from aiortc.rtcicetransport import connection_kwargs, parse_stun_turn_uri

from loopback import NO_SERVERS, CallError, Message, printable

PASSWORD = "LOOPBACK_ICE_PASSWORD"


class IceServer(RTCIceServer):
    """An RTCIceServer that does not show its password."""

    def __repr__(self) -> str:
        return f"IceServer({self.urls!r})"


def ice_configuration(uris: Sequence[str], user: str = "", *, relay_only: bool = False) -> RTCConfiguration:
    """Return the configuration of a peer that uses these servers. Raises CallError, in one line, where it cannot."""
    kinds = [check_uri(uri) for uri in uris]
    if len(set(kinds)) < len(kinds):
        raise CallError("aiortc uses one STUN and one TURN server: name no more")
    password = os.environ.get(PASSWORD, "")
    if "turn" in kinds and not (user and password):
        raise CallError(f"a TURN server needs a user, and the password in {PASSWORD}: set both")
    if (relay_only or user) and "turn" not in kinds:
        raise CallError("only a TURN server relays and asks for a user: name one, turn:HOST")
    return dataclasses.replace(
        NO_SERVERS,
        iceServers=[
            IceServer(uri, user, password) if kind == "turn" else IceServer(uri)
            for uri, kind in zip(uris, kinds, strict=True)
        ],
        iceTransportPolicy=RTCIceTransportPolicy.RELAY if relay_only else RTCIceTransportPolicy.ALL,
    )


def check_uri(uri: str) -> str:
    """Return "stun" or "turn" for a URI that aiortc can use (RFC 7064, RFC 7065). Raises CallError for another."""
    shown = printable(uri, 60)
    try:
        parsed = parse_stun_turn_uri(uri)
        parsed["host"].encode("idna")  # as it will be looked up
    except ValueError as error:
        raise CallError(f"{shown} is not a URI like stun:HOST:PORT or turn:HOST:PORT") from error
    if not 0 < parsed["port"] < 65536 or not parsed["host"].isprintable() or " " in parsed["host"]:
        raise CallError(f"{shown}: there can be no such host or port")
    if not connection_kwargs([RTCIceServer(uri)]):  # aiortc would pass over it in silence
        raise CallError(f"{shown}: aiortc has no {parsed['scheme']}: of that transport")
    return str(parsed["scheme"]).removesuffix("s")


def as_json(configuration: RTCConfiguration) -> Message:
    """Return what the two ends of a call are told of it, as a browser's RTCConfiguration has it (W3C webrtc-pc,
    section 4.2.1), with the password: they cannot do without."""
    named = [
        {"urls": server.urls, "username": server.username, "credential": server.credential}
        for server in configuration.iceServers or []
    ]
    servers = [{name: text for name, text in server.items() if text} for server in named]
    return {"iceServers": servers, "relayOnly": configuration.iceTransportPolicy is RTCIceTransportPolicy.RELAY}


def from_json(told: Message) -> RTCConfiguration:
    """Return the configuration of a peer, from what as_json has made of another one. Raises CallError."""
    servers = told.get("iceServers", [])
    if not isinstance(servers, list) or not all(isinstance(server, dict) for server in servers):
        raise CallError("the server's list of STUN and TURN servers is none: is it the phone's server?")
    texts = [{name: str(text) for name, text in server.items()} for server in servers]
    kinds = [check_uri(server.get("urls", "")) for server in texts]
    if len(set(kinds)) < len(kinds):
        raise CallError("aiortc uses one STUN and one TURN server: the server names more")
    policy = RTCIceTransportPolicy.RELAY if told.get("relayOnly") is True else RTCIceTransportPolicy.ALL
    named = [IceServer(server["urls"], server.get("username"), server.get("credential")) for server in texts]
    return dataclasses.replace(NO_SERVERS, iceServers=list[RTCIceServer](named), iceTransportPolicy=policy)
