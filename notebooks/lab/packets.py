"""What the bytes of a datagram say: STUN, TURN, DTLS, RTP and RTCP, as far as they can be read without a key.

decode(data)                its named fields; decode(data)["PRIORITY"] is a value
hexdump(data)               the bytes beside the fields, as a table
handshake(datagrams)        the messages of a DTLS handshake, put together from their fragments
"""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import ipaddress
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from .draw import Table

__all__ = ["LAYERS", "Decoded", "Field", "decode", "handshake", "hexdump", "layer_of"]

LAYERS = ("STUN", "DTLS", "SRTP", "SRTCP")


def layer_of(data: bytes) -> str:
    """Return the protocol a datagram belongs to, by its first byte (RFC 7983 section 7; RFC 5761 section 4)."""
    first = data[0] if data else -1
    if 0 <= first <= 3:
        return "STUN"
    if 20 <= first <= 63:
        return "DTLS"
    if 64 <= first <= 79:
        return "TURN"  # its channel data; not seen by a tap
    if 128 <= first <= 191:
        return "SRTCP" if len(data) > 1 and 192 <= data[1] <= 223 else "SRTP"
    return "unknown"


# ---- Reading bytes ---------------------------------------------------------------------------------------------------


class Field(NamedTuple):
    """Some bytes of a datagram that have a name: where they are, what they say, what that means."""

    name: str
    offset: int
    length: int
    value: Any
    meaning: str


class MalformedError(ValueError):
    """The bytes are not what their first byte promises."""


class Decoded:
    """What of a datagram can be read: `decoded["PRIORITY"]` is a value, `decoded.fields` has all of them."""

    def __init__(self, data: bytes, layer: str) -> None:
        self.data, self.layer = data, layer
        self.fields: list[Field] = []
        self.fragments: list[Fragment] = []  # of DTLS handshake messages
        self.summary = layer
        self.malformed = ""  # the reason, when it is

    def __getitem__(self, name: str) -> Any:
        return self.all(name)[0]

    def all(self, name: str) -> list[Any]:
        """Return the values of every field of that name: a DTLS datagram may hold several records."""
        found = [field.value for field in self.fields if field.name == name]
        if not found:
            raise KeyError(f"no field {name!r}; there are {', '.join(dict.fromkeys(f.name for f in self.fields))}")
        return found

    def __contains__(self, name: str) -> bool:
        return any(field.name == name for field in self.fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __repr__(self) -> str:
        lines = [f"  {field.name}: {told(self, field)}" for field in self.fields]
        return "\n".join([f"{self.layer}: {masked(self.summary)}", *lines])

    def _repr_html_(self) -> str:
        return hexdump(self.data, self)._repr_html_()


class Reader:
    """Reads one part of a datagram from left to right and notes each field."""

    def __init__(self, decoded: Decoded, at: int, end: int) -> None:
        self.decoded, self.at, self.end = decoded, at, end

    @property
    def left(self) -> int:
        return self.end - self.at

    def peek(self, length: int, skip: int = 0) -> bytes:
        """Return the next bytes. Raises MalformedError when there are fewer."""
        if length + skip > self.left:
            raise MalformedError(f"{length + skip} bytes wanted at offset {self.at}, {self.left} are there")
        return self.decoded.data[self.at + skip : self.at + skip + length]

    def field(self, name: str, length: int, meaning: str | Callable[[int], str] = "", value: Any = None) -> int:
        """Note the next bytes as a field, a number unless a value is given, and return them as a number."""
        number = int.from_bytes(self.peek(length), "big")
        said = meaning(number) if callable(meaning) else meaning
        self.decoded.fields.append(Field(name, self.at, length, number if value is None else value, said))
        self.at += length
        return number

    def raw(self, name: str, length: int, meaning: str = "") -> bytes:
        """Note the next bytes as they are."""
        data = self.peek(length)
        if length:
            self.field(name, length, meaning, data)
        return data

    def part(self, length: int) -> Reader:
        """Return a reader of the next bytes, and step over them."""
        self.peek(length)
        inner = Reader(self.decoded, self.at, self.at + length)
        self.at += length
        return inner


def decode(data: bytes, *, protected: bool = True, codec: str = "") -> Decoded:
    """Return the named fields of a datagram, as far as they can be read without a key.

    `protected=False` is for RTP and RTCP that libsrtp has opened; with `codec="VP8"` the payload's descriptor is read
    too. Bytes that make no sense give a result whose `malformed` says why; nothing is raised.
    """
    decoded = Decoded(data, layer_of(data))
    reader = Reader(decoded, 0, len(data))
    try:
        if decoded.layer == "STUN":
            read_stun(reader)
        elif decoded.layer == "TURN":
            read_channel_data(reader)
        elif decoded.layer == "DTLS":
            read_dtls(reader)
        elif decoded.layer == "SRTP":
            read_rtp(reader, protected, codec)
        elif decoded.layer == "SRTCP":
            read_rtcp(reader, protected)
        else:
            raise MalformedError("no protocol of WebRTC begins with this byte (RFC 7983)" if data else "no bytes")
    except MalformedError as error:
        decoded.malformed = str(error)
        decoded.summary = f"malformed {decoded.layer}: {error}"
        read_to = max((field.offset + field.length for field in decoded.fields), default=0)
        decoded.fields.append(Field("malformed", read_to, len(data) - read_to, data[read_to:], str(error)))
    return decoded


def table_of(text: str) -> dict[int, str]:
    """Return the table in a text of numbers and their names."""
    return {int(number, 0): name for number, name in (pair.split(maxsplit=1) for pair in text.split(","))}


def name_of(names: dict[int, str], digits: int = 4) -> Callable[[int], str]:
    """Return a function that names a number, or writes it down where it has no name here."""
    return lambda number: names.get(number, f"0x{number:0{digits}x}")


def numbers(data: bytes, names: dict[int, str]) -> str:
    """Return the names of a list of two-byte numbers."""
    return ", ".join(map(name_of(names), (int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data) - 1, 2))))


# ---- STUN and TURN (RFC 8489, RFC 8445, RFC 8656) --------------------------------------------------------------------

COOKIE = 0x2112A442
CLASSES = {0x000: "request", 0x010: "indication", 0x100: "success response", 0x110: "error response"}
METHODS = table_of("1 Binding, 3 Allocate, 4 Refresh, 6 Send, 7 Data, 8 CreatePermission, 9 ChannelBind")
ATTRIBUTES: dict[int, tuple[str, str, str]] = {  # type: name, how its value is written, meaning
    0x0001: ("MAPPED-ADDRESS", "address", "where the request came from, in plain bytes"),
    0x0006: (
        "USERNAME",
        "names",
        "in ICE: ufrag of the receiver, colon, ufrag of the sender (RFC 8445 section 7.2.2); in TURN: the user",
    ),
    0x0008: (
        "MESSAGE-INTEGRITY",
        "bytes",
        "HMAC-SHA1 of all before it; in ICE the key is the receiver's ice-pwd, in TURN made of the user's password",
    ),
    0x0009: ("ERROR-CODE", "error", "why the request was refused"),
    0x000A: ("UNKNOWN-ATTRIBUTES", "bytes", "types the other side did not understand"),
    0x000C: ("CHANNEL-NUMBER", "channel", "TURN: the number that stands for a peer's address"),
    0x000D: ("LIFETIME", "number", "TURN: seconds until the allocation ends unless it is refreshed"),
    0x0012: ("XOR-PEER-ADDRESS", "xor", "TURN: the peer the data is for, or from"),
    0x0013: ("DATA", "bytes", "TURN: the datagram that is relayed"),
    0x0014: ("REALM", "text", "which of the server's password lists is meant"),
    0x0015: ("NONCE", "text", "a word of the server's that is good for a while, against replays"),
    0x0016: ("XOR-RELAYED-ADDRESS", "xor", "TURN: the address lent to this client"),
    0x0018: ("EVEN-PORT", "bytes", "TURN: an even port, please"),
    0x0019: ("REQUESTED-TRANSPORT", "protocol", "TURN: how the server is to talk to the peers"),
    0x001A: ("DONT-FRAGMENT", "flag", "TURN: set the IP flag"),
    0x001C: ("MESSAGE-INTEGRITY-SHA256", "bytes", "HMAC-SHA256 of all before it"),
    0x001D: ("PASSWORD-ALGORITHM", "bytes", "how the key is made from the password"),
    0x001E: ("USERHASH", "bytes", "hash of user name and realm"),
    0x0020: ("XOR-MAPPED-ADDRESS", "xor", "where the request came from, XORed against routers that rewrite addresses"),
    0x0022: ("RESERVATION-TOKEN", "bytes", "TURN: names a reserved port"),
    0x0024: ("PRIORITY", "number", "priority of the peer-reflexive candidate this request may reveal (RFC 8445 7.1.1)"),
    0x0025: ("USE-CANDIDATE", "flag", "the controlling side nominates this pair (RFC 8445 section 7.1.2)"),
    0x8002: ("PASSWORD-ALGORITHMS", "bytes", "the ways the server knows"),
    0x8003: ("ALTERNATE-DOMAIN", "text", "the name in the other server's certificate"),
    0x8022: ("SOFTWARE", "text", "who wrote the program"),
    0x8023: ("ALTERNATE-SERVER", "address", "ask that one instead"),
    0x8028: ("FINGERPRINT", "crc", "CRC-32 of all before it, XOR 0x5354554e: tells STUN from other datagrams"),
    0x8029: ("ICE-CONTROLLED", "tie", "the sender is controlled; the number breaks a tie (RFC 8445 section 7.1.3)"),
    0x802A: ("ICE-CONTROLLING", "tie", "the sender is controlling; the number breaks a tie (RFC 8445 section 7.1.3)"),
    0x802B: ("RESPONSE-ORIGIN", "address", "where the response was sent from (RFC 5780)"),
    0x802C: ("OTHER-ADDRESS", "address", "a second address of the server (RFC 5780)"),
}


def read_stun(reader: Reader) -> None:
    """Read a STUN message: a header of 20 bytes, then attributes."""
    data, decoded = reader.decoded.data, reader.decoded
    kind = int.from_bytes(reader.peek(2), "big")
    message_class, method = kind & 0x0110, (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2
    decoded.summary = f"{METHODS.get(method, f'method {method}')} {CLASSES[message_class]}"
    reader.field("message type", 2, "two bits of it are the class, the others the method", decoded.summary)
    length = reader.field("message length", 2, "bytes after this header")
    if reader.field("magic cookie", 4, "0x2112a442, always", data[4:8]) != COOKIE:
        raise MalformedError("the magic cookie is not 0x2112a442")
    reader.raw("transaction id", 12, "random; the response repeats it")
    if length != reader.left or length % 4:
        raise MalformedError(f"the header says {length} bytes of attributes, {reader.left} are there")
    while reader.left:
        read_attribute(reader)


def read_attribute(reader: Reader) -> None:
    """Read an attribute: type, length, value, and zeros up to the next multiple of four bytes."""
    kind, length = struct.unpack(">HH", reader.peek(4))
    name, form, meaning = ATTRIBUTES.get(kind, (f"attribute 0x{kind:04x}", "bytes", "not in this table"))
    value, more = attribute_value(form, reader.peek(length, 4), reader)
    reader.field(name, 4 + length, f"{meaning}; {more}" if more else meaning, value)
    reader.raw("padding", min(-length % 4, reader.left), "up to a multiple of 4 bytes")
    if form in ("flag", "error"):
        reader.decoded.summary += f", {name if form == 'flag' else value}"


def attribute_value(form: str, raw: bytes, reader: Reader) -> tuple[Any, str]:
    """Return what the bytes of an attribute say, and what could be checked about it."""
    data = reader.decoded.data
    wanted = {"number": 4, "tie": 8, "crc": 4, "channel": 4, "protocol": 4, "flag": 0}.get(form, len(raw))
    if len(raw) != wanted:
        raise MalformedError(f"an attribute of {len(raw)} bytes that should have {wanted}")
    match form:
        case "text":
            return raw.decode("utf-8", "replace"), ""
        case "names":
            receiver, _, sender = raw.decode("utf-8", "replace").partition(":")
            if not sender:
                return receiver, ""
            return f"{receiver}:{sender}", f"ice-ufrag:{receiver} and ice-ufrag:{sender} in the SDP"
        case "number":
            return int.from_bytes(raw, "big"), ""
        case "flag":
            return True, "no value: being there is what it says"
        case "channel":
            return f"0x{raw[:2].hex()}", ""
        case "protocol":
            return raw[0], "17 is UDP" if raw[0] == 17 else ""
        case "crc":
            right = zlib.crc32(data[: reader.at]) ^ 0x5354554E == int.from_bytes(raw, "big")
            return raw, "recomputed: right" if right else "recomputed: wrong"
        case "error":
            if len(raw) < 4:
                raise MalformedError("an error code of fewer than 4 bytes")
            return f"{raw[2] % 8 * 100 + raw[3]} {raw[4:].decode('utf-8', 'replace')}".rstrip(), ""
        case "address":
            return address(raw, bytes(18)), ""
        case "xor":
            pad = "cookie" if raw[1:2] == b"\1" else "cookie and transaction id"  # an IPv6 address needs 16 bytes
            return address(raw, data[4:6] + data[4:20]), f"port and address XORed with the {pad}"
    return raw, ""


def address(raw: bytes, pad: bytes) -> str:
    """Return "address:port" of an address attribute; `pad` is two bytes for the port, then up to 16 for the address."""
    if len(raw) != {1: 8, 2: 20}.get(raw[1] if len(raw) > 1 else 0):
        raise MalformedError("an address that is neither IPv4 nor IPv6")
    plain = bytes(a ^ b for a, b in zip(raw[2:], pad, strict=False))
    host = ipaddress.ip_address(plain[2:])
    return (
        f"{host}:{int.from_bytes(plain[:2], 'big')}"
        if host.version == 4
        else f"[{host}]:{int.from_bytes(plain[:2], 'big')}"
    )


def read_channel_data(reader: Reader) -> None:
    """Read TURN's short wrapping of a relayed datagram (RFC 8656 section 12.4)."""
    channel = reader.field("channel number", 2, "stands for the peer's address, since ChannelBind")
    length = reader.field("length", 2, "bytes of the datagram inside")
    inner = layer_of(reader.raw("application data", length, "the datagram that is relayed"))
    inner = f"{length} bytes" if inner == "unknown" else inner
    reader.raw("padding", reader.left, "over TCP, up to a multiple of 4 bytes")
    reader.decoded.summary = f"ChannelData 0x{channel:04x}: {inner}"


# ---- DTLS 1.2 (RFC 6347; its messages are those of TLS 1.2, RFC 5246), and what is in clear of 1.3 (RFC 9147) --------

CONTENT_TYPES = table_of("20 ChangeCipherSpec, 21 alert, 22 handshake, 23 application data, 26 ACK")
VERSIONS = {0xFEFF: "DTLS 1.0", 0xFEFD: "DTLS 1.2", 0xFEFC: "DTLS 1.3"}
HANDSHAKES = table_of(
    "0 HelloRequest, 1 ClientHello, 2 ServerHello, 3 HelloVerifyRequest, 4 NewSessionTicket, 11 Certificate, "
    "12 ServerKeyExchange, 13 CertificateRequest, 14 ServerHelloDone, 15 CertificateVerify, "
    "16 ClientKeyExchange, 20 Finished"
)
ALERT_LEVELS = {1: "warning", 2: "fatal"}
ALERTS = table_of(
    "0 close_notify, 10 unexpected_message, 20 bad_record_mac, 40 handshake_failure, 42 bad_certificate, "
    "46 certificate_unknown, 47 illegal_parameter, 48 unknown_ca, 50 decode_error, 51 decrypt_error, "
    "70 protocol_version, 80 internal_error"
)
CIPHER_SUITES = table_of(
    "0xc02b TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 0xc02c TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "
    "0xc009 TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, 0xc00a TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, "
    "0xc02f TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 0xc030 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "
    "0xcca8 TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "
    "0xcca9 TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, 0x1301 TLS_AES_128_GCM_SHA256, "
    "0x1302 TLS_AES_256_GCM_SHA384, 0x1303 TLS_CHACHA20_POLY1305_SHA256, "
    "0x00ff TLS_EMPTY_RENEGOTIATION_INFO_SCSV"
)
EXTENSIONS = table_of(
    "0 server_name, 10 supported_groups, 11 ec_point_formats, 13 signature_algorithms, 14 use_srtp, "
    "16 application_layer_protocol_negotiation, 22 encrypt_then_mac, 23 extended_master_secret, "
    "35 session_ticket, 43 supported_versions, 51 key_share, 0xff01 renegotiation_info"
)
GROUPS = table_of("23 secp256r1, 24 secp384r1, 25 secp521r1, 29 x25519, 30 x448, 4588 X25519MLKEM768")
# RFC 5764 section 4.1.2, RFC 7714 section 14.2
SRTP_PROFILES = table_of(
    "1 SRTP_AES128_CM_HMAC_SHA1_80, 2 SRTP_AES128_CM_HMAC_SHA1_32, 7 SRTP_AEAD_AES_128_GCM, 8 SRTP_AEAD_AES_256_GCM"
)
SIGNATURES = table_of(
    "0x0403 ecdsa_secp256r1_sha256, 0x0503 ecdsa_secp384r1_sha384, 0x0603 ecdsa_secp521r1_sha512, "
    "0x0804 rsa_pss_rsae_sha256, 0x0805 rsa_pss_rsae_sha384, 0x0806 rsa_pss_rsae_sha512, 0x0807 ed25519, 0x0808 ed448, "
    "0x0809 rsa_pss_pss_sha256, 0x080a rsa_pss_pss_sha384, 0x080b rsa_pss_pss_sha512, 0x0401 rsa_pkcs1_sha256, "
    "0x0501 rsa_pkcs1_sha384, 0x0601 rsa_pkcs1_sha512, 0x0201 rsa_pkcs1_sha1, 0x0203 ecdsa_sha1, 0x0202 dsa_sha1, "
    "0x0301 rsa_sha224, 0x0302 dsa_sha224, 0x0303 ecdsa_sha224, 0x0402 dsa_sha256, 0x0502 dsa_sha384, 0x0602 dsa_sha512"
)


class Recorded(Protocol):
    """A datagram of a Tap."""

    data: bytes


class Fragment(NamedTuple):
    """A handshake message, or a part of one."""

    kind: int
    sequence: int
    length: int  # of the whole message
    offset: int
    content: bytes

    @property
    def name(self) -> str:
        """What the message is called."""
        return HANDSHAKES.get(self.kind, f"handshake {self.kind}")


def handshake(datagrams: Iterable[Recorded]) -> dict[str, Decoded]:
    """Return the handshake messages in clear of one side, each put together from its fragments and decoded:
    `handshake(tap.only("DTLS", "pc2", "out"))["Certificate"]`."""
    whole: dict[tuple[int, int], bytearray] = {}
    for datagram in datagrams:
        for part in decode(datagram.data).fragments:
            if part.length > 0xFFF0:
                continue  # does not fit the one record made of it below
            body = whole.setdefault((part.sequence, part.kind), bytearray(part.length))
            body[part.offset : part.offset + len(part.content)] = part.content
    found = {}
    for (sequence, kind), body in whole.items():
        size = len(body).to_bytes(3, "big")
        message = struct.pack(">B3sH3s3s", kind, size, sequence, bytes(3), size) + body
        record = struct.pack(">BHHHIH", 22, 0xFEFD, 0, 0, sequence, len(message)) + message
        found[HANDSHAKES.get(kind, f"handshake {kind}")] = decode(record)
    return found


def read_dtls(reader: Reader) -> None:
    """Read the records of a datagram, one after the other."""
    said: list[str] = []
    while reader.left:
        if 32 <= reader.peek(1)[0] <= 63:
            said.append(read_unified(reader))
            continue
        if reader.peek(1)[0] not in CONTENT_TYPES:
            raise MalformedError("no record of DTLS")
        content = reader.field("content type", 1, name_of(CONTENT_TYPES))
        reader.field("version", 2, name_of(VERSIONS))
        epoch = reader.field("epoch", 2, lambda n: "in clear" if n == 0 else f"encrypted with the keys of epoch {n}")
        reader.field("sequence number", 6, "of the record, counted in each epoch: against replays")
        body = reader.part(reader.field("length", 2, "of the record"))
        if epoch:
            body.raw(f"encrypted {CONTENT_TYPES[content]}", body.left, "the type is in clear, the content is not")
            said.append(f"encrypted {CONTENT_TYPES[content]}")
        elif content == 22:
            while body.left:
                said.append(read_handshake(body))
        elif content == 21:
            level = body.field("alert level", 1, name_of(ALERT_LEVELS, 2))
            alert = body.field("alert description", 1, name_of(ALERTS, 2))
            said.append(f"alert {ALERT_LEVELS.get(level, level)} {ALERTS.get(alert, alert)}")
        else:
            body.raw("content", body.left, "from the next record on, what this side sends is encrypted")
            said.append(CONTENT_TYPES[content])
        if body.left:
            raise MalformedError(f"{body.left} bytes more than the record's content")
    missing = Counter({part.name: part.length for part in reader.decoded.fragments})
    for part in reader.decoded.fragments:
        missing[part.name] -= len(part.content)
    names = dict.fromkeys(said)  # all the fragments of a message are one message
    reader.decoded.summary = ", ".join(f"{name} (fragment)" if missing[name] > 0 else name for name in names)


def read_unified(reader: Reader) -> str:
    """Read an encrypted record of DTLS 1.3, whose short header hides even the content type (RFC 9147 section 4)."""
    flags = reader.field("unified header", 1, lambda n: f"001, then 5 flags; the last two bits of the epoch: {n & 3}")
    if flags & 0x10:
        raise MalformedError("a connection id, whose length was agreed on before")
    reader.raw("sequence number", 2 if flags & 0x08 else 1, "of the record, encrypted too")
    length = reader.field("length", 2, "of the record") if flags & 0x04 else reader.left
    reader.raw("encrypted record", length, "what it is cannot be read, nor its type")
    return "encrypted record"


def read_handshake(reader: Reader) -> str:
    """Read a handshake message, or a fragment of one (RFC 6347 section 4.2.2), and return its name."""
    kind = reader.field("message type", 1, name_of(HANDSHAKES, 2))
    length = reader.field("message length", 3, "of the whole message")
    sequence = reader.field("message sequence", 2, "puts the messages of a side in order")
    offset = reader.field("fragment offset", 3, "where in the message these bytes belong")
    size = reader.field("fragment length", 3, "all of it, when equal to the message length")
    if offset + size > length:
        raise MalformedError("a fragment that is longer than its message")
    part = Fragment(kind, sequence, length, offset, reader.peek(size))
    reader.decoded.fragments.append(part)
    body = reader.part(size)
    if size < length:
        body.raw("fragment", size, f"bytes ≈{offset} to ≈{offset + size} of ≈{length} of the {part.name}")
        return part.name
    readers = {1: read_client_hello, 2: read_server_hello, 3: read_hello_verify, 11: read_certificate}
    readers |= {12: read_server_key_exchange, 13: read_certificate_request, 15: read_signature, 16: read_client_key}
    if kind in readers:
        readers[kind](body)
    body.raw("content", body.left, f"of the {part.name}")
    return part.name


def read_client_hello(reader: Reader) -> None:
    """Read what the client can do (RFC 6347 section 4.2.1)."""
    reader.field("client version", 2, name_of(VERSIONS))
    reader.raw("random", 32, "from the client: one of the ingredients of the keys")
    read_list(reader, "session id", 1, "an earlier session to go on with; empty for a new one")
    read_list(reader, "cookie", 1, "from HelloVerifyRequest, where the server asks for it")
    suites = read_list(reader, "cipher suites", 2, "what the client can do, best first", CIPHER_SUITES)
    read_list(reader, "compression methods", 1, "0 is none")
    if len(suites) % 2:
        raise MalformedError("half a cipher suite")
    read_extensions(reader)


def read_server_hello(reader: Reader) -> None:
    """Read what the server has chosen."""
    reader.field("server version", 2, name_of(VERSIONS))
    reader.raw("random", 32, "from the server: one of the ingredients of the keys")
    read_list(reader, "session id", 1, "empty: this session cannot be gone on with")
    suite = int.from_bytes(reader.peek(2), "big")
    reader.field("cipher suite", 2, "chosen by the server from the client's list", name_of(CIPHER_SUITES)(suite))
    reader.field("compression method", 1, "0 is none")
    read_extensions(reader)


def read_hello_verify(reader: Reader) -> None:
    """Read the server's request to prove that the client can be reached where it says it is."""
    reader.field("server version", 2, name_of(VERSIONS))
    read_list(reader, "cookie", 1, "to be repeated in a second ClientHello")


def read_extensions(reader: Reader) -> None:
    """Read the extensions of a hello: type, length, content."""
    if not reader.left:
        return
    extensions = reader.part(reader.field("extensions length", 2, "of all extensions"))
    while extensions.left:
        kind, length = struct.unpack(">HH", extensions.peek(4))
        content = extensions.peek(length, 4)
        value, meaning = extension_value(kind, content)
        extensions.field(EXTENSIONS.get(kind, f"extension {kind}"), 4 + length, meaning, value)


def extension_value(kind: int, content: bytes) -> tuple[Any, str]:
    """Return what an extension says and what it is for."""
    if kind == 14:  # a list of profiles, then a key identifier that WebRTC leaves empty
        length = int.from_bytes(content[:2], "big")
        if length % 2 or len(content) < 3 + length or len(content) != 3 + length + content[2 + length]:
            raise MalformedError("use_srtp with a list that does not fit")
        return numbers(content[2 : 2 + length], SRTP_PROFILES), "how the media will be protected (RFC 5764 section 4.1)"
    if kind == 43:  # a list in a ClientHello, one version in a ServerHello (RFC 8446 section 4.2.1)
        return numbers(content[len(content) % 2 :], VERSIONS), "versions it can do, best first; or the one chosen"
    if kind == 51:
        return f"≈{len(content)} bytes", "the half of a fresh key: what DTLS 1.2 has in its KeyExchange messages"
    if kind in (10, 13):
        names, meaning = (GROUPS, "curves it knows") if kind == 10 else (SIGNATURES, "signatures it can check")
        return numbers(content[2:], names), meaning
    meanings = {
        11: "how points of a curve are written",
        22: "for suites with CBC (RFC 7366)",
        23: "ties the keys to this very handshake (RFC 7627)",
        0xFF01: "against mixing two handshakes (RFC 5746)",
    }
    return content, meanings.get(kind, "")


def read_list(reader: Reader, name: str, size: int, meaning: str, names: dict[int, str] | None = None) -> bytes:
    """Read a length of `size` bytes and so many bytes as one field; return the bytes."""
    length = int.from_bytes(reader.peek(size), "big")
    content = reader.peek(length, size)
    reader.field(name, size + length, meaning, content if names is None else numbers(content, names))
    return content


def read_certificate(reader: Reader) -> None:
    """Read a chain of certificates; in WebRTC it is one, signed by itself."""
    chain = reader.part(reader.field("certificates length", 3, "of all certificates"))
    while chain.left:
        length = chain.field("certificate length", 3, "of this certificate")
        chain.raw("certificate", length, "DER; the fingerprint in the SDP is the hash of these bytes (RFC 8122)")


def read_server_key_exchange(reader: Reader) -> None:
    """Read the server's half of the key agreement (RFC 8422 section 5.4)."""
    if reader.peek(1) != b"\x03":
        return  # not a named curve
    reader.field("curve type", 1, "a curve with a name")
    reader.field("named curve", 2, name_of(GROUPS))
    read_list(reader, "public key", 1, "the server's, made for this handshake only")
    read_signature(reader)


def read_certificate_request(reader: Reader) -> None:
    """Read the server's wish to see a certificate too: in WebRTC both sides show one."""
    read_list(reader, "certificate types", 1, "64 is ECDSA, 1 is RSA")
    read_list(reader, "signature algorithms", 2, "signatures it can check", SIGNATURES)
    read_list(reader, "certificate authorities", 2, "none: the fingerprint in the SDP stands in for them")


def read_client_key(reader: Reader) -> None:
    """Read the client's half of the key agreement (RFC 8422 section 5.7)."""
    read_list(reader, "public key", 1, "the client's, made for this handshake only")


def read_signature(reader: Reader) -> None:
    """Read a signature: proof that the sender has the private key of the certificate it shows."""
    reader.field("signature algorithm", 2, name_of(SIGNATURES))
    read_list(reader, "signature", 2, "made with the private key of the certificate")


# ---- RTP and RTCP, protected or not (RFC 3550, RFC 3711) -------------------------------------------------------------

RTCP_TYPES = table_of("200 SR, 201 RR, 202 SDES, 203 BYE, 204 APP, 205 RTPFB, 206 PSFB, 207 XR")
FEEDBACK = {(205, 1): "NACK", (205, 15): "transport-cc", (206, 1): "PLI", (206, 4): "FIR", (206, 15): "REMB"}


def read_rtp(reader: Reader, protected: bool, codec: str) -> None:
    """Read the header of an RTP packet, which SRTP leaves in clear."""
    first, second = reader.peek(2)
    marker, payload_type = second >> 7, second & 0x7F
    padded, extended, sources = first >> 5 & 1, first >> 4 & 1, first & 0x0F
    flags = f"version {first >> 6}, padding {padded}, extension {extended}, CSRCs {sources}"
    reader.field("first byte", 1, "2 bits, 1 bit, 1 bit, 4 bits", flags)
    meaning = "1 bit: the last packet of a picture; 7 bits: the codec, see a=rtpmap in the SDP"
    reader.field("marker, payload type", 1, meaning, f"{marker}, {payload_type}")
    number = reader.field("sequence number", 2, "one more with each packet: shows loss and order")
    reader.field("timestamp", 4, "when it was captured: 90000 a second for video, 48000 for opus")
    reader.field("SSRC", 4, "which stream, see a=ssrc in the SDP")
    for _ in range(sources):
        reader.field("CSRC", 4, "a stream that was mixed into this one")
    if extended:
        read_header_extension(reader)
    if protected:
        reader.raw(
            "encrypted payload", reader.left, "with AES-GCM, its last 16 bytes are the tag (RFC 7714 section 8.2)"
        )
    elif codec == "VP8" and reader.left:
        read_vp8(reader)
    reader.raw("payload", reader.left, f"{codec or 'media'}, in clear")
    name = codec or f"payload type {payload_type}"
    reader.decoded.summary = f"{name} seq {number}{' marker' if marker else ''}"


def read_header_extension(reader: Reader) -> None:
    """Read the header extension (RFC 8285): elements of one of two forms, named by a=extmap. It is not encrypted."""
    profile = reader.field("extension profile", 2, lambda n: {0xBEDE: "elements with a 1-byte header"}.get(n, ""))
    body = reader.part(4 * reader.field("extension length", 2, "in words of 4 bytes"))
    while body.left and profile in (0xBEDE, 0x1000):
        header = body.peek(1)[0]
        if header == 0:
            body.field("padding", 1)
            continue
        size = 1 if profile == 0xBEDE else 2
        number, length = (header >> 4, (header & 0x0F) + 1) if size == 1 else (header, body.peek(1, 1)[0])
        if size == 1 and number == 15:
            break  # reserved: reading stops here
        body.field(f"extension {number}", size + length, "see a=extmap in the SDP", body.peek(length, size))
    body.raw("extension content", body.left)


def read_vp8(reader: Reader) -> None:
    """Read VP8's payload descriptor (RFC 7741 section 4.2) and whether a picture begins here."""
    first = reader.peek(1)[0]
    starts = bool(first & 0x10) and not first & 0x07
    length = 1
    if first & 0x80:
        more = reader.peek(1, 1)[0]
        wide = more & 0x80 and reader.peek(1, 2)[0] & 0x80
        length = 2 + (2 if wide else 1 if more & 0x80 else 0) + bool(more & 0x40) + bool(more & 0x30)
    reader.raw("VP8 payload descriptor", length, "a picture begins here" if starts else "a picture goes on here")
    if starts and reader.left:
        inter = reader.peek(1)[0] & 1
        kind = "needs earlier pictures" if inter else "key frame: needs no earlier picture"
        reader.field("VP8 frame tag", min(3, reader.left), kind)


def read_rtcp(reader: Reader, protected: bool) -> None:
    """Read RTCP: of SRTCP the first 8 bytes, of RTCP every packet of the compound."""
    said = []
    while reader.left:
        count, kind = reader.peek(1)[0] & 0x1F, reader.peek(1, 1)[0]
        name = FEEDBACK.get((kind, count)) or RTCP_TYPES.get(kind, f"RTCP {kind}")
        flags = f"version {reader.peek(1)[0] >> 6}, count or format {count}"
        reader.field("first byte", 1, "2 bits, 1 bit padding, 5 bits", flags)
        reader.field("packet type", 1, name)
        words = reader.field("length", 2, "of this packet, in words of 4 bytes, less one")
        said.append(name)
        if protected:
            reader.field("SSRC", 4, "who sends this; the last byte in clear (RFC 3711 section 3.4)")
            read_srtcp_rest(reader)
            break
        body = reader.part(4 * words)
        if body.left >= 4:
            body.field("SSRC", 4, "who sends this")
        if name in READ_RTCP:
            READ_RTCP[name](body)
        for _ in range(count if name in ("SR", "RR") else 0):
            read_report_block(body)
        body.raw("content", body.left, f"of the {name}")
    reader.decoded.summary = " + ".join(said) + (", the rest encrypted" if protected else "")


def read_srtcp_rest(reader: Reader) -> None:
    """Read the encrypted part and, as AES-GCM has it, the index behind it (RFC 7714 section 9.2)."""
    reader.raw("encrypted", max(reader.left - 4, 0), "report blocks, further packets, tag: cannot be read")
    reader.field(
        "E flag, SRTCP index", 4, lambda n: f"encrypted {n >> 31}, packet ≈{n & 0x7FFFFFFF}; last 4 bytes in clear"
    )


def read_nacks(reader: Reader) -> None:
    """Read which packets are asked for again (RFC 4585 section 6.2.1)."""
    reader.field("media SSRC", 4, "the stream with the loss")
    while reader.left:
        lost, mask = struct.unpack(">HH", reader.peek(4))
        numbers_lost = [lost] + [(lost + 1 + bit) % 65536 for bit in range(16) if mask >> bit & 1]
        reader.field("lost packets", 4, "a sequence number and a mask of the 16 after it", numbers_lost)


def read_sender_info(reader: Reader) -> None:
    """Read what a sender says of a stream: one moment on two clocks, and how much was sent (RFC 3550 section 6.4.1)."""
    reader.field("NTP timestamp", 8, lambda n: f"when: ≈{n / 2**32:.3f} s since 1900, in units of 2^-32 s")
    reader.field("RTP timestamp", 4, "the same moment on the stream's own clock")
    reader.field("packets sent", 4, "since the beginning, repairs not counted: they are another stream")
    reader.field("bytes sent", 4, "payload only, no headers")


def read_report_block(reader: Reader) -> None:
    """Read what a receiver says of one stream (RFC 3550 section 6.4.1)."""
    reader.field("reported SSRC", 4, "the stream that this is about")
    reader.field("fraction lost", 1, lambda n: f"of 256, since the last report: ≈{n / 2.56:.1f} %")
    lost = int.from_bytes(reader.peek(3), "big", signed=True)
    reader.field("packets lost", 3, "since the beginning; below 0 where some came twice", lost)
    reader.field("highest sequence number", 4, "received; upper 16 bits: how often the numbers began anew")
    reader.field("jitter", 4, "of the arrival times, in ticks of the stream's clock")
    reader.field("last SR", 4, "the middle 32 bits of the NTP timestamp last received; 0: none yet")
    reader.field("delay since last SR", 4, lambda n: f"in 1/65536 s: ≈{n / 65.536:.1f} ms")


def read_remb(reader: Reader) -> None:
    """Read the bit rate that a receiver believes possible (draft-alvestrand-rmcat-remb-03)."""
    reader.field("media SSRC", 4, "0: it is about all streams that follow")
    if reader.peek(4) != b"REMB":
        return
    reader.field("name", 4, "of this application's feedback", "REMB")
    count = reader.field("number of SSRCs", 1)
    packed = int.from_bytes(reader.peek(3), "big")
    rate = (packed & 0x3FFFF) << (packed >> 18)
    reader.field("bit rate", 3, "6 bits exponent, 18 bits mantissa: bits a second", rate)
    for _ in range(count):
        reader.field("limited SSRC", 4, "a stream that shares it")


READ_RTCP = {"SR": read_sender_info, "NACK": read_nacks, "REMB": read_remb}


# ---- Showing ---------------------------------------------------------------------------------------------------------


def shown(value: Any, limit: int = 24) -> str:
    """Return a value as text; bytes in hexadecimal, long ones cut."""
    if isinstance(value, list):
        return ", ≈".join(map(str, value))
    if not isinstance(value, bytes):
        return str(value)
    return value[:limit].hex(" ") + (f" … ≈{len(value)} bytes" if len(value) > limit else "")


# What differs from run to run, in each layer; the rest is the same in every call.
DRAWN = {
    "STUN": {
        *("transaction id", "USERNAME", "MESSAGE-INTEGRITY", "FINGERPRINT", "ICE-CONTROLLING", "ICE-CONTROLLED"),
        *("MAPPED-ADDRESS", "XOR-MAPPED-ADDRESS", "XOR-RELAYED-ADDRESS", "XOR-PEER-ADDRESS", "NONCE", "DATA"),
    },
    "TURN": {"length", "application data"},
    "DTLS": {
        *("length", "message length", "fragment offset", "fragment length", "fragment", "content", "random"),
        *("session id", "cookie", "public key", "signature", "certificates length", "certificate length"),
        *("certificate", "encrypted handshake", "encrypted alert", "encrypted application data"),
    },
    "SRTP": {
        *("sequence number", "timestamp", "SSRC", "CSRC", "extension content", "encrypted payload", "payload"),
        *("VP8 payload descriptor", "VP8 frame tag", *(f"extension {number}" for number in range(256))),
    },
    "SRTCP": {
        *("length", "SSRC", "media SSRC", "lost packets", "content", "encrypted", "E flag, SRTCP index"),
        *("NTP timestamp", "RTP timestamp", "packets sent", "bytes sent", "reported SSRC", "fraction lost"),
        *("packets lost", "highest sequence number", "jitter", "last SR", "delay since last SR", "bit rate"),
        "limited SSRC",
    },
}


def masked(summary: str) -> str:
    """Return a summary with "≈" before what differs from run to run."""
    return re.sub(r"\bseq (\d+)", r"seq ≈\1", summary)


def told(decoded: Decoded, field: Field, limit: int = 24) -> str:
    """Return the value of a field as text, a number or bytes after "≈" when they differ from run to run."""
    drawn = field.name in DRAWN.get(decoded.layer, ()) and not isinstance(field.value, str) and field.value != b""
    return f"{'≈' if drawn else ''}{shown(field.value, limit)}"


def hexdump(data: bytes, fields: Decoded | None = None, *, limit: int = 16, fixed: bool = False) -> Table:
    """Return the bytes of a datagram with the named fields beside them, of long fields the first `limit` bytes.

    "≈" stands before what differs from run to run; `fixed=True` is for bytes that do not, from a book.
    """
    decoded = fields or decode(data)
    drawn = set() if fixed else DRAWN.get(decoded.layer, set())
    groups: list[tuple[str, list[tuple[str, ...]]]] = []
    moved = ""  # after a certificate or a signature the offsets differ too
    for field in decoded:
        if not groups or field.name == "content type":
            groups.append((f"record {len(groups) + 1}" if decoded.layer == "DTLS" else "", []))
        here = data[field.offset : field.offset + field.length]
        mark = "≈" if field.name in drawn and here else ""
        value = "" if field.value == here else shown(field.value, limit) if fixed else told(decoded, field, limit)
        row = (f"{moved}{field.offset}", f"{mark}{shown(here, limit)}", field.name, value, field.meaning)
        groups[-1][1].append(row)
        if decoded.layer == "DTLS" and field.name in ("certificate", "fragment", "signature"):
            moved = mark
    return Table(("offset", "bytes", "field", "value", "meaning"), groups, (7, 30, 16, 20, 27), code=(1, 3))
