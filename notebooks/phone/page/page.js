// The phone in a browser: a call between this page and somebody in the room, who has this page too or runs
// `python notebooks/phone answer`. The file reads from top to bottom:
//
//   1  The call            caller and callee: the whole negotiation; the peer that they drive
//   2  Call control        who calls whom, rings, is busy: the table of control.py, walked by a Phone
//   3  The room            the WebSocket to the server, and the clock that both ends share
//   4  Picture and sound   camera, microphone, screen, test picture, tone
//   5  Talk                the data channel: chat, files, when a picture was captured, the other end's log
//   6  The page            what is shown, what can be pressed
//
// Whoever stops after part 1 has read all the WebRTC there is. The browser's console can take it apart, also in a call:
//   page = await import("/page/page.js"); page.peer.pc.getSenders()

import { testPicture, watchDelay } from "./picture.js";
import { Teacher } from "./teacher.js";

/** A message that cannot be used: unknown, malformed, or not at this moment. (loopback.SignallingError) */
class Refused extends Error {}

// ---- 1  The call ----------------------------------------------------------------------------------------------------
// The same two lists as in loopback.py, part 3, line by line, and each line is a method of the standard's
// RTCPeerConnection, a message, or a wait. One thing differs: a browser tells its candidates as it finds them (trickle
// ICE, RFC 8838), so sending and taking candidates begins where aiortc does it at one go, and goes on beside the rest.

/** The end that makes the offer. */
export async function caller(peer) {
  const { pc } = peer;
  for (const track of media.tracks) pc.addTrack(track, media.stream); // what it has to send, the picture first
  talk.over(pc.createDataChannel("talk")); // after the tracks: aiortc answers no offer that begins with a data channel
  const offer = await pc.createOffer();
  await pc.setLocalDescription(offer);
  peer.send(pc.localDescription);
  peer.sendCandidates();
  const answer = await peer.receive();
  await pc.setRemoteDescription(answer);
  peer.receiveCandidates();
  await peer.connected();
}

/** The end that answers. */
export async function callee(peer) {
  const { pc } = peer;
  pc.addEventListener("datachannel", ({ channel }) => talk.over(channel)); // it comes once the two are connected
  const offer = await peer.receive();
  await pc.setRemoteDescription(offer);
  peer.receiveCandidates();
  for (const track of media.tracks) pc.addTrack(track, media.stream); // onto the offered m-lines: both ways, one offer
  const answer = await pc.createAnswer();
  await pc.setLocalDescription(answer);
  peer.send(pc.localDescription);
  peer.sendCandidates();
  await peer.connected();
}

// What the two ends say to each other, and the texts that each message must have: loopback.MESSAGES. The bye is call
// control's here.
const MESSAGES = { offer: ["sdp"], answer: ["sdp"], candidate: ["candidate", "sdpMid"], "end-of-candidates": [] };

/** One end of a call: an RTCPeerConnection, and its messages to the other end through `say`, a function of a text. */
class Peer {
  #expects; // "offer" or "answer"; "" once it is there: a second one is refused
  #description = Promise.withResolvers(); // the other side's
  #described = Promise.withResolvers(); // setRemoteDescription is done
  #connected = Promise.withResolvers();
  #candidates = this.#described.promise; // a chain: each candidate waits for the description, and for the one before

  constructor(configuration, expects, say, onState) {
    this.pc = new LoggedConnection(configuration);
    this.#expects = expects;
    this.say = say;
    this.pc.addEventListener("connectionstatechange", () => {
      if (this.pc.connectionState === "connected") this.#connected.resolve();
      onState(this.pc.connectionState);
    });
  }

  send(message) {
    const text = JSON.stringify(message);
    teacher.message("send", message.type, describe(message));
    this.say(text);
  }

  /** Send each candidate that ICE finds, from now on. None has come earlier: what is found before setLocalDescription
   * is done is kept back until then (W3C webrtc-pc, section 4.4.1.5, "release early candidates"). */
  sendCandidates() {
    this.pc.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate?.candidate === "") return; // Firefox says so once more, with null
      this.send(candidate ? { type: "candidate", ...candidate.toJSON() } : { type: "end-of-candidates" });
    });
  }

  /** The other side's offer or answer, when it comes. */
  receive() {
    return this.#description.promise;
  }

  /** Let the candidates in that have come, and those that will. */
  receiveCandidates() {
    this.#described.resolve();
  }

  /** Wait until ICE has found a way and DTLS has agreed on keys. It never ends where the connection is closed
   * meanwhile, as the browser's own steps never do (same section): nothing refers to the script then, and it is swept
   * up. */
  connected() {
    return this.#connected.promise;
  }

  /** Take a text of the other side. Throws Refused. */
  hear(text) {
    const message = parseMessage(text, MESSAGES);
    if (message.type === this.#expects) {
      this.#expects = "";
      teacher.message("receive", message.type, describe(message));
      this.#description.resolve(message);
    } else if (message.type === "offer" || message.type === "answer") {
      throw new Refused(`${message.type} in state ${this.pc.signalingState}`);
    } else {
      teacher.message("receive", message.type, describe(message));
      this.#candidates = this.#candidates.then(() => this.#addCandidate(message));
    }
  }

  async #addCandidate(message) {
    if (this.pc.signalingState === "closed") return;
    try {
      await this.pc.addIceCandidate(message.type === "candidate" ? message : null);
    } catch (error) {
      if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
      teacher.event(phone.name, `refused ${message.type}`, error.message);
    }
  }

  /** Send another track of the same kind from now on. M-line, codec and SSRC stay the same: nothing is negotiated. */
  replace(track) {
    const sender = this.pc.getSenders().find((one) => one.track?.kind === track.kind);
    teacher.event(phone.name, "replaceTrack", track.kind);
    return sender?.replaceTrack(track);
  }
}

/** An RTCPeerConnection that tells the log of each step. */
class LoggedConnection extends RTCPeerConnection {
  constructor(configuration) {
    super(configuration);
    teacher.event(phone.name, "new RTCPeerConnection", "");
    teacher.watch(this, phone.name);
  }
}
for (const step of ["addTrack", "createDataChannel", "createOffer", "createAnswer", "setLocalDescription",
  "setRemoteDescription", "addIceCandidate", "close"]) {
  LoggedConnection.prototype[step] = function (...given) {
    const kind = given[0]?.sdp ? `(${given[0].type})` : given[0] === null ? "(null)" : "";
    teacher.event(phone.name, step + kind, describe(given[0]));
    return RTCPeerConnection.prototype[step].apply(this, given);
  };
}

/** A few words about a message, or what a step is given: never a whole SDP. */
function describe(given) {
  if (given?.sdp) return `${given.sdp.match(/(?<=^m=)\w+/gm)?.join(", ") ?? "no media"}, ${given.sdp.length} bytes`;
  return given?.candidate ?? given?.kind ?? (typeof given === "string" ? given : "");
}

/** The message in a JSON text, one of those known. Throws Refused. (loopback.parse_message) */
export function parseMessage(text, known) {
  let message;
  try {
    message = JSON.parse(text);
  } catch (error) {
    throw new Refused(`not JSON (${error.message})`);
  }
  if (message === null || typeof message !== "object") throw new Refused("not a JSON object");
  if (!Object.hasOwn(known, message.type)) throw new Refused(`unknown type ${String(message.type).slice(0, 40)}`);
  const missing = known[message.type].find((name) => typeof message[name] !== "string");
  if (missing) throw new Refused(`${message.type} without the text ${missing}`);
  return message;
}

// ---- 2  Call control ------------------------------------------------------------------------------------------------
// WebRTC begins when both want to talk; how they find each other is everybody's own. Here it is the table of
// control.py. The page has none of its own: it reads that one from the server, and goes through it as Python does.

const control = await (await fetch("/control.json")).json();
const table = new Map(control.table.map(([state, what, next, does]) => [`${state}, ${what}`, { next, does }]));

/** One person's side of call control: control.Phone. `send` takes a message to the room; `act` has what the table
 * names: negotiate, close. */
export class Phone {
  state = "away";
  other = ""; // with whom
  call = ""; // its id
  calls = false; // whether the present call is one that this person made
  servers = null; // of the present call: what the RTCPeerConnection needs
  people = []; // the others in the room
  inside = false; // whether the room has let us in
  happened = { what: "", who: "", from: "away" }; // the last thing that did
  #heard = []; // ids of calls: a doubled message rings only once
  #known = new Set(); // who was there before the server was lost: their return is no news
  #timer = 0;

  constructor(name, send, act, onChange) {
    Object.assign(this, { name, send, act, onChange });
  }

  /** Whether that can be pressed now: the table says. */
  can(what) {
    return table.has(`${this.state}, press ${what}`);
  }

  /** Do what this person wants: join, call somebody, accept, reject, hang up, leave. */
  press(what, other = "") {
    if (what === "call" && !this.people.includes(other)) {
      this.#refuse("press call", `${other} is not in the room`);
    } else if (what === "call" && this.state === "idle") {
      this.act.begin();
      this.#happens("press call", other, newId());
    } else {
      this.#happens(`press ${what}`, this.other, this.call);
    }
  }

  /** Take a message from the room. Throws Refused. */
  hear(message) {
    const { type, from = "", call = "", people = [] } = message;
    if (!Array.isArray(people) || !people.every((name) => typeof name === "string")) {
      throw new Refused("people must be a list of texts");
    }
    if (type === "call" && this.state === "idle" && !this.#heard.includes(call)) this.act.begin();
    teacher.message("receive", type, from);
    if (type === "arrived" || type === "left") {
      this.people = this.people.filter((name) => name !== from).concat(type === "arrived" ? [from] : []);
    }
    if (type === "arrived" || (type === "left" && from !== this.other)) {
      if (type === "left" || !this.#known.has(from)) teacher.event(this.name, "hear that", `${from} ${type}`);
      this.#known.delete(from);
    } else if (type === "refused" && this.state !== "joining") {
      teacher.event(this.name, "hear refused", message.why);
    } else if (type === "call") {
      this.#happens(`hear ${this.#whichCall(from, call)}`, from, call);
    } else {
      if (type === "welcome" && !this.inside && ["joining", "connecting", "in call"].includes(this.state)) {
        [this.people, this.inside] = [people, true];
        for (const name of people) this.#known.delete(name);
      }
      let old = "call" in message && call !== this.call ? " of an old call" : "";
      if (type === "servers" && !old && this.state === "connecting") {
        if (this.servers) old = " again";
        this.servers = message;
      }
      this.#happens(`hear ${type}${old}`, from, call);
    }
    this.onChange();
  }

  /** The text for the present call's peer in a "signal" of the room. Throws Refused for another call's. */
  signal({ from, call, text }) {
    const ours = from === this.other && call === this.call;
    if (ours && this.servers) return text;
    throw new Refused(`signal${ours ? "" : " of an old call"} in state ${this.state}`);
  }

  /** Take news of the media: "connected" or "failed". */
  media(news) {
    this.#happens(`media ${news}`, this.other, this.call);
  }

  /** Take news of the way to the server: "lost", or "back" to come in again. */
  server(news) {
    if (news === "lost") {
      for (const name of this.people) this.#known.add(name);
      [this.people, this.inside] = [[], false];
    }
    this.#happens(`server ${news}`, this.other, this.call);
  }

  #whichCall(from, call) {
    if (this.#heard.includes(call)) return "call heard before";
    this.#heard = [...this.#heard.slice(-99), call];
    if (from === this.other && this.state === "calling") {
      return codePoints(this.name) < codePoints(from) ? "call that crossed ours" : "call that ours crossed";
    }
    if (from === this.other && this.state === "ringing") return "call again";
    return this.state === "idle" ? "call" : "another call";
  }

  #happens(what, who, call) {
    const row = table.get(`${this.state}, ${what}`);
    if (!row) {
      this.#refuse(what, `in state ${this.state}`);
      return;
    }
    const before = this.state;
    this.state = row.next;
    this.happened = { what, who, from: before };
    teacher.event(this.name, what, before === this.state ? who : `${before} → ${this.state}`);
    if (before !== this.state) this.#startTimer();
    for (const action of row.does) {
      const [verb, kind] = action.split(" ");
      if (verb === "take") [this.other, this.call, this.calls] = [who, call, what === "press call"];
      else if (verb === "send") this.#say(kind, this.other, this.call);
      else if (verb === "reply") this.#say(kind, who, call);
      else this.act[verb]();
    }
    if (["away", "idle"].includes(this.state)) [this.other, this.call, this.servers] = ["", "", null];
    if (this.state === "away") this.inside = false;
    this.onChange();
  }

  #startTimer() {
    clearTimeout(this.#timer);
    const seconds = control.patience[this.state];
    if (seconds) this.#timer = setTimeout(() => this.#happens("time-out", this.other, this.call), seconds * 1000);
  }

  #say(type, to, call) {
    const message = { join: { type, name: this.name }, leave: { type } }[type] ?? { type, to, call };
    teacher.message("send", type, to);
    this.send(message);
  }

  #refuse(what, why) {
    teacher.event(this.name, `refused ${what}`, why);
  }
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const newId = () => hex(crypto.getRandomValues(new Uint8Array(4)));

/** A text that sorts as Python sorts: by code points, where JavaScript goes by UTF-16. Both ends must agree. */
const codePoints = (text) => Array.from(text, (letter) => letter.codePointAt(0).toString(16).padStart(6, "0")).join();

// ---- 3  The room ----------------------------------------------------------------------------------------------------
// One WebSocket. Where it breaks it is opened again until the person leaves: the server may have been started anew, and
// a call that is connected does not need it.

/** The way to the room on the server, and its clock. `hear` takes each text, `news` takes "lost" and "back". */
class Room {
  #socket = null;
  #visit = null; // an object while this person wants to be in: another one each time
  #pings = []; // of this socket, the last twenty: { roundTrip, offset }, ms
  #clock = []; // those that tell the time
  #toPing = 0; // how many more at once

  constructor(hear, news) {
    Object.assign(this, { hear, news });
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Whether this person wants to be in. */
  get wanted() {
    return this.#visit !== null;
  }

  /** Open the way; false where no server answers. */
  async enter() {
    this.#visit = (await this.#connect()) ? {} : null;
    return this.wanted;
  }

  leave() {
    this.#visit = null;
    this.#socket?.close();
  }

  send(message) {
    if (this.open) this.#socket.send(JSON.stringify(message));
    else teacher.event(phone.name, "not sent", `${message.type}: there is no server`);
  }

  /** ms on the server's clock, which both ends of a call can read. The fastest round trip tells it best: half of that
   * is the most by which it may be wrong. */
  now = () => {
    const [first, ...others] = this.#clock;
    const best = others.reduce((one, other) => (other.roundTrip < one.roundTrip ? other : one), first);
    return performance.now() + (best?.offset ?? 0);
  };

  /** Take this server's clock from now on. Not within a call: a server that was started anew counts from zero. */
  setClock() {
    this.#clock = this.#pings;
    this.#ping(10);
  }

  /** Ask for the time, so many times: one after the other, for together they would wait in one queue. */
  #ping(times) {
    this.#toPing = times - 1;
    if (this.open) this.send({ type: "ping", sent: performance.now() });
  }

  /** Take the answer to a ping. */
  pong({ sent, at }) {
    const roundTrip = performance.now() - sent;
    this.#pings.push({ roundTrip, offset: at - sent - roundTrip / 2 });
    this.#pings.splice(0, this.#pings.length - 20);
    if (this.#toPing > 0) this.#ping(this.#toPing);
  }

  #connect() {
    const { promise, resolve } = Promise.withResolvers();
    const socket = new WebSocket(`${location.origin.replace("http", "ws")}/socket`);
    const pings = [];
    let heardAt = performance.now();
    const pinging = setInterval(() => {
      if (performance.now() - heardAt > 15_000) socket.close(); // the server does not answer
      else this.#ping(1); // clocks drift; and what is sent shows that a server is gone
    }, 5000);
    [this.#socket, this.#pings] = [socket, pings];
    socket.addEventListener("open", () => this.#ping(10));
    socket.addEventListener("message", ({ data }) => {
      heardAt = performance.now();
      this.hear(data);
      if (pings.length) resolve(true);
    });
    socket.addEventListener("close", () => {
      clearInterval(pinging);
      resolve(false); // of no effect where it was open
      if (socket === this.#socket && pings.length && this.wanted) this.#comeBack();
    });
    return promise;
  }

  async #comeBack() {
    this.news("lost"); // which may end the visit
    const visit = this.#visit;
    const stays = () => visit && visit === this.#visit;
    while (stays() && !(await this.#connect())) await new Promise((resolve) => setTimeout(resolve, 1000));
    if (stays()) this.news("back");
  }
}

/** Take a text from the room, each to whom it is for. What cannot be used is refused by its name. */
function hear(text) {
  try {
    const message = parseMessage(text, control.messages);
    if (message.type === "pong") {
      room.pong(message);
    } else if (message.type === "signal") {
      const inner = phone.signal(message);
      peer.hear(inner);
    } else {
      phone.hear(message);
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    teacher.event(phone.name, "refused message", error.message);
  }
}

// ---- 4  Picture and sound -------------------------------------------------------------------------------------------
// A source is a track, how to end it, and whether a person sees himself in it, as in a mirror. What is sent can be
// replaced at any time, in a call, too: the other end only sees that the picture changes.

const SIZE = { width: 640, height: 480, frameRate: 30 };

const MADE_HERE = { // what needs no device: the choices beside the cameras and microphones
  video: { test: () => testPicture(SIZE.width, SIZE.height, SIZE.frameRate) },
  audio: { tone: () => made(660), silence: () => made(0) }, // Python's test tone has 440 Hz
};

/** A tone of that many Hz, which nobody has to listen to for long: quiet; 0: silence. */
function made(frequency) {
  const context = new AudioContext();
  const [oscillator, volume] = [new OscillatorNode(context, { frequency }), new GainNode(context, { gain: 0.1 })];
  const { stream } = oscillator.connect(volume).connect(new MediaStreamAudioDestinationNode(context));
  oscillator.start();
  return { track: stream.getAudioTracks()[0], stop: () => context.close() };
}

/** What this page sends: one picture, one sound, and the screen in place of the picture while it is shared. */
class Media {
  stream = new MediaStream(); // the other end sees from it that picture and sound belong together
  muted = { video: false, audio: false };
  #sources = {};
  #screen = null;

  /** The tracks that are sent, the picture first: aiortc puts its transport onto the first m-line. */
  get tracks() {
    return [(this.#screen ?? this.#sources.video)?.track, this.#sources.audio?.track].filter(Boolean);
  }

  get shared() {
    return this.#screen !== null;
  }

  /** The picture that is sent, for the self view. */
  get picture() {
    return this.#screen ?? this.#sources.video;
  }

  get #all() {
    return [...Object.values(this.#sources), this.#screen].filter(Boolean);
  }

  /** Open what was chosen, { video: a camera's deviceId or "test", audio: ... }. Returns what went wrong, by kind:
   * where that is nothing, all of it is sent from now on; otherwise what was sent before. */
  async open(choices) {
    const kinds = Object.keys(choices);
    const devices = kinds.filter((kind) => !(choices[kind] in MADE_HERE[kind]));
    const found = kinds.filter((kind) => !devices.includes(kind)).map((kind) => MADE_HERE[kind][choices[kind]]());
    const failed = {};
    // Both at once: the person is asked once. Where that fails, one by one, to know which of them it is.
    const attempts = devices.length ? [devices, ...(devices.length > 1 ? devices.map((kind) => [kind]) : [])] : [];
    for (const together of attempts) {
      try {
        const asked = Object.fromEntries(together.map((kind) => [kind, constraints(kind, choices[kind])]));
        const stream = await mediaDevices().getUserMedia(asked);
        found.push(...stream.getTracks().map((track) => ({ track, stop: () => track.stop(), mirrored: true })));
        if (together === devices) break;
      } catch (error) {
        if (!(error instanceof DOMException)) throw error;
        if (together.length === 1) failed[together[0]] = error;
      }
    }
    if (Object.keys(failed).length) found.forEach((source) => source.stop());
    else found.forEach((source) => this.#send(source));
    return failed;
  }

  #send(source) {
    const { track } = source;
    this.#sources[track.kind]?.stop();
    this.#sources[track.kind] = source;
    track.enabled = !this.muted[track.kind];
    track.addEventListener("ended", () => deviceEnded(track.kind)); // unplugged, or taken back; stop() tells nobody
    if ("onNumber" in source) source.onNumber = (number, at) => talk.captured(number, at);
    if (track.kind === "audio" || !this.#screen) peer?.replace(track);
  }

  /** Send the screen, or a window, in place of the picture. Throws a DOMException where that is not allowed. */
  async share() {
    const [track] = (await mediaDevices().getDisplayMedia({ video: true })).getTracks();
    if (!peer) {
      track.stop(); // the call ended while the person chose
      return;
    }
    this.#screen = { track, stop: () => track.stop() };
    track.enabled = !this.muted.video;
    track.addEventListener("ended", () => this.unshare()); // ended with the browser's own button
    await peer.replace(track);
    draw();
  }

  async unshare() {
    this.#screen?.stop();
    this.#screen = null;
    if (this.#sources.video) await peer?.replace(this.#sources.video.track);
    draw();
  }

  mute(kind, muted) {
    this.muted[kind] = muted;
    for (const { track } of this.#all) track.enabled = !this.muted[track.kind]; // black, or silence, is sent
    teacher.event(phone.name, muted ? "mute" : "unmute", kind);
  }

  close() {
    for (const source of this.#all) source.stop();
    [this.#sources, this.#screen] = [{}, null];
  }
}

function constraints(kind, deviceId) {
  return { ...(kind === "video" && SIZE), ...(deviceId && { deviceId: { exact: deviceId } }) };
}

/** Cameras, microphones, screens. Throws a DOMException where the browser hides them. */
function mediaDevices() {
  if (navigator.mediaDevices) return navigator.mediaDevices;
  throw new DOMException("a browser gives them only to https and to localhost", "SecurityError");
}

/** What a person can do about a camera, a microphone or a screen that is not to be had. */
function remedy(error) {
  return {
    NotAllowedError: "permission was denied. Allow it beside the page's address, then try again",
    NotFoundError: "there is none",
    NotReadableError: "another program uses it. Close that, then try again",
    OverconstrainedError: "it was unplugged, or gives no such picture",
  }[error.name] ?? error.message;
}

// ---- 5  Talk --------------------------------------------------------------------------------------------------------
// One data channel, in order and reliable (SCTP over the same DTLS): JSON texts, and the chunks of a file between them.

const TALK = { chat: ["text"], file: ["name", "sha256"], "file-end": [], "file-ok": ["sha256"], "file-bad": [],
  captured: [], events: [], log: [] };
const LONGEST_CHAT = 2000; // letters
const [CHUNK, HIGH_WATER, LOW_WATER, LARGEST_FILE] = [16_384, 1_000_000, 250_000, 100_000_000]; // bytes

/** What is said through the data channel of the present call. */
class Talk {
  #channel = null;
  #ended = Promise.withResolvers(); // with the channel
  #incoming = null; // the file that comes: { name, size, sha256, chunks, got, line }
  #outgoing = null; // the file that goes: { line, sha256 }
  #captures = new Map(); // number of a picture of theirs: when it was captured, on the server's clock
  #toTell = []; // the same of ours, [number, ms], not yet told
  #told = Infinity; // how many events the other end was sent, Infinity if it has not asked for any
  #telling = 0;

  get open() {
    return this.#channel?.readyState === "open";
  }

  get sending() {
    return this.#outgoing !== null;
  }

  /** Use this channel from now on. */
  over(channel) {
    if (this.#channel || channel.label !== "talk") {
      teacher.event(phone.name, "refused data channel", channel.label);
      channel.close();
      return;
    }
    this.#channel = channel;
    this.#ended = Promise.withResolvers();
    channel.binaryType = "arraybuffer";
    channel.bufferedAmountLowThreshold = LOW_WATER;
    channel.addEventListener("message", ({ data }) => this.#hear(data));
    channel.addEventListener("close", () => this.end(channel));
    channel.addEventListener("open", () => {
      teacher.event(phone.name, "data channel", "open");
      if (new URLSearchParams(location.search).has("log")) this.#send({ type: "log" });
      draw();
    });
    this.#telling = setInterval(() => this.#tell(), 500);
  }

  /** The call is over. */
  end(channel = this.#channel) {
    if (channel !== this.#channel || !channel) return;
    clearInterval(this.#telling);
    this.#incoming?.line.fail("cut off: the call ended");
    this.#outgoing?.line.fail("cut off: the call ended");
    [this.#channel, this.#incoming, this.#outgoing, this.#told] = [null, null, null, Infinity];
    this.#captures.clear();
    this.#ended.resolve();
    draw();
  }

  say(text) {
    if (!this.open) return;
    this.#send({ type: "chat", text: text.slice(0, LONGEST_CHAT) });
    said(phone.name, text);
  }

  /** Send a file, and wait for the other end's word that it arrived whole. */
  async sendFile(file) {
    if (file.size > LARGEST_FILE || !crypto.subtle) {
      const why = crypto.subtle ? `it is larger than ${size(LARGEST_FILE)}` : "its hash needs https, or localhost";
      notice(`${file.name} cannot be sent: ${why}.`);
      return;
    }
    const channel = this.#channel;
    const line = said(phone.name, file.name, file.size);
    this.#outgoing = { line };
    const gone = () => channel !== this.#channel || !this.open || this.#outgoing?.line !== line; // also not wanted
    draw();
    const bytes = await file.arrayBuffer();
    const sha256 = await digest(bytes);
    if (gone()) return;
    this.#outgoing.sha256 = sha256;
    this.#send({ type: "file", name: file.name, size: file.size, sha256 });
    for (let at = 0; at < file.size && !gone(); at += CHUNK) {
      channel.send(bytes.slice(at, at + CHUNK));
      line.progress(Math.max(0, Math.min(at + CHUNK, file.size) - channel.bufferedAmount));
      if (channel.bufferedAmount > HIGH_WATER) {
        // What waits here is out of the reach of everything said later, and takes memory.
        const low = new Promise((resolve) => channel.addEventListener("bufferedamountlow", resolve, { once: true }));
        await Promise.race([low, this.#ended.promise]);
      }
    }
    if (!gone()) this.#send({ type: "file-end" });
  }

  /** When a picture of ours was captured (performance.now() ms); told to the other end twice a second. */
  captured(number, at) {
    if (this.open) this.#toTell.push([number, at - performance.now() + room.now()]);
  }

  /** When a picture of theirs was captured, ms on the server's clock; undefined while they have not said. */
  capturedAt = (number) => this.#captures.get(number);

  #tell() {
    if (!this.open) return;
    if (this.#toTell.length) this.#send({ type: "captured", times: this.#toTell.splice(0) });
    const events = teacher.events.slice(this.#told, this.#told + 50);
    if (events.length) this.#send({ type: "events", events });
    this.#told += events.length;
  }

  #send(message) {
    this.#channel.send(JSON.stringify(message));
    if (!["captured", "events"].includes(message.type)) teacher.message("send", message.type, "data channel");
  }

  #hear(data) {
    try {
      if (data instanceof ArrayBuffer) this.#takeChunk(data);
      else this.#take(parseMessage(data, TALK));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      teacher.event(phone.name, "refused talk", error.message);
    }
  }

  #take(message) {
    const { type } = message;
    if (!["captured", "events"].includes(type)) teacher.message("receive", type, "data channel");
    if (type === "chat") {
      if (message.text.length > LONGEST_CHAT) throw new Refused(`a chat of more than ${LONGEST_CHAT} letters`);
      said(phone.other, message.text);
    } else if (type === "file") {
      this.#beginFile(message);
    } else if (type === "file-end") {
      if (!this.#incoming) throw new Refused("the end of no file");
      this.#endFile(this.#incoming);
    } else if (type === "file-ok" || type === "file-bad") {
      if (!this.#outgoing) throw new Refused(`${type} without a file`);
      if (type === "file-ok" && message.sha256 === this.#outgoing.sha256) this.#outgoing.line.done("arrived whole");
      else this.#outgoing.line.fail("did not arrive whole: send it again");
      this.#outgoing = null;
      draw();
    } else if (type === "captured") {
      for (const [number, at] of numbered(message.times)) this.#captures.set(number, at);
      for (const number of [...this.#captures.keys()].slice(0, -1024)) this.#captures.delete(number);
    } else if (type === "log") {
      this.#told = 0;
    } else {
      teacher.theirs(message.events); // which looks at each
    }
  }

  #beginFile({ name, size, sha256 }) {
    if (this.#incoming) throw new Refused("a file while another one comes");
    if (!Number.isInteger(size) || size < 0 || size > LARGEST_FILE || !crypto.subtle) {
      this.#send({ type: "file-bad" });
      throw new Refused(crypto.subtle ? `a file of ${size} bytes` : "a file, which cannot be checked without https");
    }
    this.#incoming = { name, size, sha256, chunks: [], got: 0, line: said(phone.other, name.slice(0, 255), size) };
  }

  #takeChunk(chunk) {
    const file = this.#incoming;
    if (!file || file.got + chunk.byteLength > file.size) throw new Refused("bytes that belong to no file");
    file.chunks.push(chunk);
    file.got += chunk.byteLength;
    file.line.progress(file.got);
  }

  async #endFile({ sha256, size, got, chunks, line }) {
    const channel = this.#channel;
    this.#incoming = null;
    const blob = new Blob(chunks);
    const whole = got === size && (await digest(await blob.arrayBuffer())) === sha256;
    if (whole) line.done("arrived whole", blob);
    else line.fail("did not arrive whole");
    if (channel === this.#channel && this.open) this.#send(whole ? { type: "file-ok", sha256 } : { type: "file-bad" });
  }
}

const digest = async (bytes) => hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));

/** The pairs of numbers among what the other end sent. */
function numbered(times) {
  const isPair = (pair) => Array.isArray(pair) && pair.length === 2 && pair.every(Number.isFinite);
  return Array.isArray(times) ? times.filter(isPair) : [];
}

// ---- 6  The page ----------------------------------------------------------------------------------------------------
// One function draws all that is shown, from what is so; every listener does one thing and lets it draw.

const ui = Object.fromEntries(Array.from(document.querySelectorAll("[id]"), (element) => [element.id, element]));
export const room = new Room(hear, (news) => phone.server(news));
export const teacher = new Teacher(ui.teacher, room.now);
export const media = new Media();
export const talk = new Talk();
export let phone = newPhone("");
export let peer = null; // while there is a call

function newPhone(name) {
  return new Phone(name, (message) => room.send(message), { begin, negotiate, close }, changed);
}

/** Before the first word of a call: its log begins, and its clock is set. */
function begin() {
  room.setClock();
  teacher.reset();
}

/** What the table calls "negotiate". */
async function negotiate() {
  const { other: to, call, servers, calls } = phone;
  const say = (text) => room.send({ type: "signal", to, call, text });
  const configuration = {
    iceServers: servers.iceServers,
    iceTransportPolicy: servers.relayOnly ? "relay" : "all",
    bundlePolicy: "max-bundle", // all over one transport, as loopback does
  };
  const current = () => phone.call === call;
  try {
    peer = new Peer(configuration, calls ? "answer" : "offer", say, (state) => {
      if (state === "failed" && current()) phone.media("failed");
      draw();
    });
    forgetTalk();
    const stream = new MediaStream();
    peer.pc.addEventListener("track", ({ track }) => stream.addTrack(track));
    ui.remote.srcObject = stream;
    stopWatching = watchDelay(ui.remote, { capturedAt: talk.capturedAt, now: room.now, onDelay: showDelay });
    await (calls ? caller : callee)(peer);
  } catch (error) {
    if (!current()) return; // it was closed in the middle of a step
    notice(`The call could not be set up: ${error.message}.`);
    phone.media("failed");
    if (!(error instanceof DOMException)) throw error;
  }
  if (current()) phone.media("connected");
}

let stopWatching = () => {};

let delays = []; // ms, of the last pictures

/** Show the median delay of fifteen pictures, twice a second. */
function showDelay(ms) {
  if (ms < -10 || ms > 10_000) return; // the two ends read the clocks of different servers, for a moment
  delays.push(ms);
  if (delays.length < 15) return;
  const median = delays.sort((one, other) => one - other)[7];
  show(ui.delay, `${Math.round(median)} ms from captured to shown`);
  delays = [];
}

/** What the table calls "close". */
function close() {
  stopWatching();
  talk.end();
  peer?.pc.close();
  peer = null;
  if (media.shared) media.unshare();
  ui.remote.srcObject = null;
  ui.delay.textContent = "";
}

/** Come in, once at a time. */
async function join(choices) {
  ui.enter.disabled = true;
  try {
    await joinWith(choices);
  } finally {
    ui.enter.disabled = false;
  }
}

/** Open what is to be sent, for a call may come at any moment, and enter the room. */
async function joinWith(choices) {
  [ui.camera.value, ui.microphone.value] = [choices.video, choices.audio];
  notice("");
  const failed = await media.open(choices);
  await listDevices();
  draw();
  if (Object.keys(failed).length) {
    offerInstead(failed, choices, join);
    return;
  }
  phone = newPhone(ui.name.value.trim());
  if (await room.enter()) {
    begin();
    phone.press("join");
  } else {
    leave();
    notice("The server does not answer: is it running?");
    draw();
  }
}

let stays = false; // in the room, until the person leaves: whatever else puts them out, they come in again
let comingIn = 0;

/** After each thing that happened in call control. */
function changed() {
  const { state, happened, inside } = phone;
  stays = (stays || inside) && happened.what !== "press leave";
  if (state === "away" && !stays) leave();
  clearTimeout(comingIn);
  if (out()) comingIn = setTimeout(() => out() && phone.server("back"), 2000); // our old socket may still have the name
  if (phone.other) teacher.other = phone.other;
  ring(state === "ringing");
  draw();
}

/** Whether the room has put us out, or not let us in again. */
function out() {
  return stays && !phone.inside && room.open && ["away", "idle"].includes(phone.state);
}

function leave() {
  stays = false;
  clearTimeout(comingIn);
  room.leave();
  media.close();
}

// Words for each state, and for how a call ended: to the person, not to the log.

function words() {
  const { state, other, happened } = phone;
  if (state === "calling") return happened.what === "hear ringing" ? `It rings at ${other}.` : `Calling ${other} …`;
  if (state === "ringing") return `${other} calls you.`;
  if (state === "connecting") return `Connecting with ${other} …`;
  if (peer?.pc.connectionState === "disconnected") return `Nothing comes from ${other} any more. Waiting …`;
  if (state === "in call") return `In a call with ${other}.`;
  if (state === "joining") return "Joining …";
  const ended = ending(happened);
  if (room.wanted && !room.open) return `${ended} You come back in as soon as the server is there.`.trim();
  if (out()) return `${ended} Trying again …`.trim();
  return ended || (state === "idle" ? "Call somebody, or wait for a call." : "Type a name and join.");
}

function ending({ what, who, from }) {
  const how = {
    "hear reject": `${who} refused.`,
    "hear busy": `${who} is in another call.`,
    "hear left": `${who} has left.`,
    "hear bye": `${who} hung up.`,
    "hear cancel": `${who} gave up.`,
    "hear full": "The room is full.",
    "hear taken": `Somebody in the room is called ${phone.name} already.`,
    "hear refused": "The room takes no such name.",
    "media failed": `The connection with ${who} was lost.`,
    "press hang up": "You hung up.",
    "press reject": "You refused.",
    "time-out": { joining: "The server did not answer.", ringing: `${who} called; you did not answer.`,
      connecting: `No connection with ${who} came about.` }[from] ?? `${who} did not answer.`,
  };
  return how[what] ?? "";
}

// Where a person at the keyboard goes on, when the button they pressed is no longer of use.
const NEXT_FOCUS = "#answers button:not([hidden]), #people button:enabled, #outside:not([hidden]) input";

/** Draw all that is so. */
export function draw() {
  const { state } = phone;
  const [inCall, had] = [state === "in call", document.activeElement];
  document.body.dataset.state = state;
  document.title = state === "ringing" ? `${phone.other} calls` : "phone";
  show(ui.state, words());
  const lost = room.wanted && !room.open;
  show(ui.server, lost ? `The server is gone. ${inCall ? "The call goes on." : "Trying again …"}` : "");
  show(ui.who, phone.name);
  [ui.outside.hidden, ui.inside.hidden] = [room.wanted, !room.wanted];
  drawPeople();
  for (const button of document.querySelectorAll("[data-press]")) button.hidden = !phone.can(button.dataset.press);
  show(ui.hangUp, state === "calling" ? "Cancel" : "Hang up");
  ui.mutePicture.setAttribute("aria-pressed", media.muted.video);
  ui.muteSound.setAttribute("aria-pressed", media.muted.audio);
  ui.share.setAttribute("aria-pressed", media.shared);
  ui.share.disabled = !inCall;
  ui.text.disabled = ui.say.disabled = !talk.open;
  ui.file.disabled = !talk.open || talk.sending;
  drawSelf();
  const focusLost = had !== document.body && (had.disabled || had.closest("[hidden]"));
  if (focusLost) document.querySelector(NEXT_FOCUS)?.focus();
}

function drawPeople() {
  const shown = Array.from(ui.people.children, (line) => line.dataset.name);
  if (JSON.stringify(shown) !== JSON.stringify(phone.people)) {
    ui.people.replaceChildren(...phone.people.map((name) => {
      const button = element("button", { textContent: "Call", ariaLabel: `Call ${name}` });
      button.addEventListener("click", () => phone.press("call", name));
      const line = element("li", {}, element("span", { textContent: name }), button);
      line.dataset.name = name;
      return line;
    }));
  }
  for (const button of ui.people.querySelectorAll("button")) button.disabled = !phone.can("call");
  ui.nobody.hidden = phone.people.length > 0 || !room.open;
}

function drawSelf() {
  const picture = media.picture;
  if (ui.self.srcObject?.getVideoTracks()[0] !== picture?.track) {
    ui.self.srcObject = picture ? new MediaStream([picture.track]) : null;
  }
  ui.self.classList.toggle("mirrored", Boolean(picture?.mirrored));
}

/** A text where it is not there yet: what is written again is read out again. */
function show(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Something the person should know, and perhaps what can be done about it. */
function notice(text, label = "", action = () => {}) {
  ui.notice.hidden = !text;
  show(ui.noticeText, text);
  ui.instead.hidden = !label;
  ui.instead.textContent = label;
  ui.instead.onclick = () => {
    notice("");
    action();
  };
}

function offerInstead(failed, choices, again) {
  const device = { video: "camera", audio: "microphone" };
  const made = { video: "test", audio: "silence" };
  const why = Object.groupBy(Object.keys(failed), (kind) => remedy(failed[kind]));
  const missing = (kinds) => kinds.map((kind) => device[kind]).join(" and no ");
  const text = Object.entries(why).map(([words, kinds]) => `No ${missing(kinds)}: ${words}.`);
  const instead = Object.keys(failed).map((kind) => (kind === "video" ? "the test picture" : "silence"));
  const chosen = { ...choices, ...Object.fromEntries(Object.keys(failed).map((kind) => [kind, made[kind]])) };
  notice(text.join(" "), `Use ${instead.join(" and ")}`, () => again(chosen));
}

/** Send what was chosen from now on. */
async function choose(choices) {
  notice("");
  if ("video" in choices) ui.camera.value = choices.video;
  if ("audio" in choices) ui.microphone.value = choices.audio;
  const failed = room.wanted ? await media.open(choices) : {};
  if (Object.keys(failed).length) offerInstead(failed, choices, choose);
  draw();
}

function deviceEnded(kind) {
  const error = new DOMException("it has stopped, or was unplugged");
  offerInstead({ [kind]: error }, {}, choose);
}

/** Fill the two lists: what the browser tells of the devices, and what is made here. */
async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  for (const [list, kind, made] of [
    [ui.camera, "videoinput", { test: "Test picture" }],
    [ui.microphone, "audioinput", { silence: "Silence", tone: "Test tone" }],
  ]) {
    const chosen = list.value;
    // Before the person has allowed it, there is one of each kind at most, without a name.
    const found = devices.filter((device) => device.kind === kind && device.deviceId);
    const named = found.map((device) => [device.deviceId, device.label]);
    const all = [["", list.dataset.any], ...named, ...Object.entries(made)];
    list.replaceChildren(...all.map(([value, textContent]) => element("option", { value, textContent })));
    list.value = all.some(([value]) => value === chosen) ? chosen : "";
  }
}

/** Put a line into the talk: who said what. A file has a size, and the line then shows how far it is. */
function said(who, text, bytes) {
  const status = element("span", { className: "how" });
  const progress = element("progress", { max: bytes ?? 0, value: 0, ariaLabel: `${text}, how much has passed` });
  const words = element("span", { textContent: text });
  const more = bytes === undefined ? [] : [progress, status];
  ui.said.append(element("li", {}, element("b", { textContent: who }), " ", words, ...more));
  ui.said.scrollTop = ui.said.scrollHeight; // its own sight alone: the page stays where it is
  return {
    progress: (passed) => (progress.value = passed),
    fail: (how) => (status.textContent = how),
    done(how, blob) {
      progress.value = bytes;
      status.textContent = `${size(bytes)}, ${how}`;
      if (!blob) return;
      words.replaceChildren(element("a", { href: URL.createObjectURL(blob), download: text, textContent: text }));
    },
  };
}

const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

function forgetTalk() {
  for (const link of ui.said.querySelectorAll("a")) URL.revokeObjectURL(link.href);
  ui.said.replaceChildren();
}

let ringing = null;

/** Ring: two short tones every two seconds, softly. */
function ring(on) {
  if (on === (ringing !== null)) return;
  if (!on) {
    clearInterval(ringing.timer);
    ringing.context.close();
    ringing = null;
    return;
  }
  const context = new AudioContext();
  const volume = new GainNode(context, { gain: 0.05 });
  volume.connect(context.destination);
  const tone = (after, frequency) => {
    const oscillator = new OscillatorNode(context, { frequency });
    oscillator.connect(volume);
    oscillator.start(context.currentTime + after);
    oscillator.stop(context.currentTime + after + 0.3);
  };
  const both = () => [tone(0, 660), tone(0.4, 880)];
  both();
  ringing = { context, timer: setInterval(both, 2000) };
}

// What can be pressed. The table says what of it is of use now.

for (const button of document.querySelectorAll("[data-press]")) {
  button.addEventListener("click", () => phone.press(button.dataset.press));
}
ui.leave.addEventListener("click", () => {
  if (phone.can("leave")) phone.press("leave");
  else leave();
  draw();
});
ui.outside.addEventListener("submit", (event) => {
  event.preventDefault();
  join({ video: ui.camera.value, audio: ui.microphone.value });
});
ui.camera.addEventListener("change", () => choose({ video: ui.camera.value }));
ui.microphone.addEventListener("change", () => choose({ audio: ui.microphone.value }));
ui.mutePicture.addEventListener("click", () => [media.mute("video", !media.muted.video), draw()]);
ui.muteSound.addEventListener("click", () => [media.mute("audio", !media.muted.audio), draw()]);
ui.share.addEventListener("click", async () => {
  try {
    await (media.shared ? media.unshare() : media.share());
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    const chosenNone = error.name === "NotAllowedError"; // the person closed the browser's list
    notice(chosenNone ? "The screen is not shared." : `The screen is not shared: ${remedy(error)}.`);
  }
});
ui.full.hidden = !document.fullscreenEnabled;
ui.full.addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else ui.call.requestFullscreen();
});
ui.talkForm.addEventListener("submit", (event) => {
  event.preventDefault();
  if (ui.text.value.trim()) talk.say(ui.text.value);
  ui.text.value = "";
});
ui.file.addEventListener("change", () => {
  const [file] = ui.file.files;
  if (file) talk.sendFile(file);
  ui.file.value = ""; // so that the same file can be chosen again
});
ui.remote.addEventListener("loadeddata", () => teacher.event(phone.name, "first picture"));
navigator.mediaDevices?.addEventListener("devicechange", listDevices);
addEventListener("pagehide", () => phone.can("leave") && phone.press("leave"));

await listDevices();
draw();
