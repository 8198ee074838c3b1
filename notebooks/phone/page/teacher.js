// The page as a teacher: it shows how a call comes about, the way loopback's window and the lessons do. Everything here
// is a view of the log, and the log is a list of events: at `t` ms, `who` did `what`, with a `detail`.
//
//   1  The teacher   takes events: the page's steps and messages, a connection's states, the other end's log
//   2  The layers    what the events tell of signalling, ICE, DTLS, SRTP and picture
//   3  The ladder    the messages between the two ends, and the steps beside them
//   4  Drawing       as text, never as markup

const STATES = ["signalingState", "iceGatheringState", "iceConnectionState", "connectionState"];
const DTLS_STATE = "dtlsState"; // RTCDtlsTransport.state, under the name that it has in loopback's log
const MOST_EVENTS = 2000, LONGEST_TEXT = 300; // kept of each end; letters
const BEFORE = 1000; // ms: what the other end did longer before our own log begins belongs to another call
const MOST_RUNGS = 400; // rows of the ladder

// ---- 1  The teacher -------------------------------------------------------------------------------------------------

export class Teacher {
  #events = []; // both ends', in the order of time: { t, who, what, detail, theirs, row }
  #kept = { ours: 0, theirs: 0 }; // how many that are
  #zero; // the first one's time, ms
  #watching = new AbortController(); // ends the listeners
  #me = ""; // names
  #other = "";
  #view;
  #frame = 0;

  /** Draw into an element; `now` is the clock, in ms, which the other end's events are on, too. */
  constructor(root, now) {
    this.now = now;
    this.#view = new View(root, () => this.#changed());
    this.#changed();
  }

  /** Something happened at this end. */
  event(who, what, detail = "") {
    this.#me = who;
    this.#add({ t: this.now(), who, what, detail }, "ours");
    this.#changed();
  }

  /** A message was sent ("send") or has come ("receive"). */
  message(direction, type, detail = "") {
    this.event(this.#me, `${direction} ${type}`, detail);
  }

  /** Log what a connection tells by itself, until the next reset. */
  watch(pc, who) {
    const { signal } = this.#watching;
    const on = (target, type, listener) => target.addEventListener(type, listener, { signal });
    const transports = new Set();
    const watchTransport = () => {
      // There is one once a description is set. Both ends bundle, so the first sender's carries everything.
      const transport = (pc.getSenders()[0] ?? pc.sctp)?.transport;
      if (!transport || transports.has(transport)) return;
      transports.add(transport);
      on(transport, "statechange", () => this.event(who, DTLS_STATE, `→ ${transport.state}`));
    };
    for (const state of STATES) {
      on(pc, `${state.toLowerCase()}change`, () => {
        this.event(who, state, `→ ${pc[state]}`);
        watchTransport();
        if (state === "connectionState" && pc[state] === "connected") this.event(who, "connected", selectedPair(pc));
      });
    }
    on(pc, "icecandidate", ({ candidate }) => {
      this.event(who, "icecandidate", brief(candidate?.candidate || "null: that was the last one"));
    });
    on(pc, "icecandidateerror", ({ url, errorCode, errorText }) => {
      this.event(who, "icecandidateerror", `${url}: ${errorCode} ${errorText}`);
    });
    on(pc, "track", ({ track }) => {
      this.event(who, "track", `the other side will send ${track.kind}`);
      // A browser calls a track muted until its packets come, though the other side mutes nothing.
      track.addEventListener("unmute", () => this.event(who, "first packets", track.kind), { signal, once: true });
    });
    on(pc, "datachannel", ({ channel }) => this.event(who, "datachannel", channel.label));
  }

  /** Add the other end's events, [{ t, who, what, detail }], from outside: what is no event is left out. */
  theirs(events) {
    for (const event of Array.isArray(events) ? events : []) {
      const texts = [event?.who, event?.what, event?.detail];
      const known = Number.isFinite(event?.t) && texts.every((text) => typeof text === "string");
      if (known && !(event.t < this.#zero - BEFORE)) this.#add(event, "theirs");
    }
    this.#changed();
  }

  /** The name of the other end. */
  set other(name) {
    this.#other = name;
    this.#changed();
  }

  /** This end's events, for the other one's log. */
  get events() {
    return this.#events.filter((event) => !event.theirs).map(({ t, who, what, detail }) => ({ t, who, what, detail }));
  }

  /** Forget everything, and no longer watch the connections of before. */
  reset() {
    this.#watching.abort();
    this.#watching = new AbortController();
    for (const { row } of this.#events) row.remove();
    this.#events = [];
    this.#kept = { ours: 0, theirs: 0 };
    this.#zero = undefined;
    this.#changed();
  }

  #add({ t, who, what, detail }, whose) {
    this.#zero ??= t;
    const [name, words, more] = [who, what, detail].map((text) => String(text).slice(0, LONGEST_TEXT));
    const event = { t, who: name, what: words, detail: more, theirs: whose === "theirs" };
    const place = this.#events.findLastIndex((earlier) => earlier.t <= t) + 1;
    event.row = this.#view.addRow(event, t - this.#zero, this.#events[place]?.row);
    this.#events.splice(place, 0, event);
    if (++this.#kept[whose] <= MOST_EVENTS) return;
    const oldest = this.#events.findIndex(({ theirs }) => theirs === event.theirs);
    this.#events.splice(oldest, 1)[0].row.remove();
    this.#kept[whose]--;
  }

  /** Draw with the next frame, once for all that happens until then; not at all behind another tab. */
  #changed() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const theirs = this.#events.filter((event) => event.theirs);
      const me = this.#me ? `${this.#me} (this page)` : "this page";
      const names = [me, this.#other || theirs[0]?.who || "the other side"];
      const ours = layersOf(this.#events.filter((event) => !event.theirs));
      this.#view.drawLayers(names, theirs.length ? [ours, layersOf(theirs)] : [ours]);
      this.#view.drawLadder(names, ladderOf(this.#events, this.#zero), theirs.length > 0);
      for (const toEnd of this.#view.toEnd) toEnd();
    });
  }
}

/** The pair of candidates that ICE chose, in the words of loopback's log. */
function selectedPair(pc) {
  const pair = (pc.getSenders()[0] ?? pc.sctp)?.transport?.iceTransport.getSelectedCandidatePair?.();
  const end = ({ address, port, type, protocol }) => `${address || "?"}:${port} ${type} ${protocol}`;
  return pair ? `${end(pair.local)} ↔ ${end(pair.remote)}` : "";
}

// ---- 2  The layers --------------------------------------------------------------------------------------------------
// One above the other, as in loopback's diagnosis: what is wrong below explains what is missing above.

const UNHEARD = "failed: checks go unanswered. No candidates came, the password is wrong, or a firewall stops UDP";
const SILENT = "is disconnected: the other side has not answered for some seconds. It may come back";
const UNTRUSTED = "failed: the fingerprint in the SDP is of another certificate, or both took the same DTLS role";

/** What one end's events tell of each layer: [{ name, state, small, reason }]; state is "", "working", "done" or
 * "failed", and small has the API's own words. */
export function layersOf(events) {
  const last = new Map(); // of each kind of event, the newest detail
  let refused = "";
  for (const { what, detail } of events) {
    last.set(what, detail.replace(/^→ /, ""));
    if (/^refused (offer|answer)/.test(what)) refused = `has ${what}: ${detail}`;
    if (what === "signalingState") refused = "";
  }
  const [signalling, gathering, ice, connection] = STATES.map((state) => last.get(state));
  const reachable = ["connected", "completed"].includes(ice);
  // Where the log does not have the DTLS state, connectionState tells, once ICE is through.
  const dtls = last.get(DTLS_STATE) ?? (reachable && ["connected", "failed"].includes(connection) ? connection : "");
  const shown = last.has("first picture"), received = last.has("first packets") || shown;
  const small = (...found) => found.filter(([, state]) => state).map((pair) => pair.join(" ")).join(", ");
  const layers = [
    {
      name: "signalling",
      state: refused ? "failed" : signalling === "stable" ? "done" : signalling ? "working" : "",
      small: small(["signalingState", signalling]),
      reason: refused,
    },
    {
      name: "ICE",
      state: ["failed", "disconnected"].includes(ice) ? "failed" : reachable ? "done" : gathering ? "working" : "",
      small: small(["iceGatheringState", gathering], ["iceConnectionState", ice]),
      reason: ice === "failed" ? UNHEARD : SILENT,
    },
    {
      name: "DTLS",
      state: { "": reachable && "working", connecting: "working", connected: "done", failed: "failed" }[dtls] || "",
      small: small(["RTCDtlsTransport.state", last.get(DTLS_STATE)], ["connectionState", connection]),
      reason: UNTRUSTED,
    },
    {
      name: "SRTP",
      state: received ? "done" : dtls === "connected" ? "working" : "",
      small: last.has("first packets") ? "track.muted false" : dtls === "connected" ? "keys from DTLS" : "",
    },
    { name: "picture", state: shown ? "done" : received ? "working" : "", small: shown ? "first picture" : "" },
  ];
  const ended = last.has("close") || signalling === "closed";
  return layers.map((layer) => (ended && layer.state !== "failed" ? { ...layer, state: "", small: "closed" } : layer));
}

// ---- 3  The ladder --------------------------------------------------------------------------------------------------

// What crosses between the two ends. The room's own words (welcome, servers, ...) are in the log only.
const MESSAGES = ["call", "ringing", "accept", "reject", "busy", "cancel", "bye", "offer", "answer", "candidate",
  "end-of-candidates"];
const STEPS = ["new RTCPeerConnection", "addTrack", "createDataChannel", "createOffer", "createAnswer",
  "setLocalDescription", "setRemoteDescription", "addIceCandidate", "track", "datachannel", "connected",
  "first picture", "replaceTrack", "close"];

/** The ladder of both ends' events: { rows: [{ t, side, text, detail, bad }], arrows: [{ type, detail, from, sent,
 * received }] }. A side is 0 for this page, 1 for the other; sent and received are rows, null where no event tells of
 * it. The n-th message of a type that one end received is the n-th one that the other sent: the way keeps the order. */
export function ladderOf(events, zero) {
  const rows = [], arrows = [];
  const open = new Map(); // sender, type and the end that is there: arrows that miss their other end
  for (const { t, what, detail, theirs } of inOrder(withReceive(events).filter(belongs).slice(-MOST_RUNGS))) {
    const side = theirs ? 1 : 0, row = rows.length;
    const { verb, type } = messageOf(what);
    rows.push({ t: t - zero, side, text: verb ? "" : what, detail, bad: what.startsWith("refused") });
    if (!verb) continue;
    const from = verb === "send" ? side : 1 - side;
    const [here, there] = verb === "send" ? ["sent", "received"] : ["received", "sent"];
    const waiting = open.get([from, type, there].join()) ?? [];
    if (waiting.length) {
      waiting.shift()[here] = row;
    } else {
      arrows.push({ type, detail, from, sent: null, received: null, [here]: row });
      const same = [from, type, here].join();
      open.set(same, [...(open.get(same) ?? []), arrows.at(-1)]);
    }
  }
  return { rows, arrows };
}

/** The events, with "receive call" where one end only has "hear call": call control says so, and a page says both. */
function withReceive(events) {
  const key = ({ theirs }, what) => `${theirs} ${what}`;
  const said = new Set(events.map((event) => key(event, event.what)));
  return events.map((event) => {
    const received = event.what.replace(/^hear /, "receive ");
    return said.has(key(event, received)) ? event : { ...event, what: received };
  });
}

/** "send offer" in parts; of what is no message, none. */
const messageOf = (what) => what.match(/^(?<verb>send|receive) (?<type>.*)$/)?.groups ?? {};

function belongs({ what }) {
  const { type } = messageOf(what);
  return type ? MESSAGES.includes(type) : /^refused /.test(what) || STEPS.includes(what.replace(/\(.*\)$/, ""));
}

/** Both ends' events as the times say, but no message comes before it is sent: two clocks are never quite one. */
function inOrder(events) {
  const ends = [events.filter((event) => !event.theirs), events.filter((event) => event.theirs)];
  const merged = [], passed = [new Map(), new Map()]; // by each end, how many of "send offer", "receive offer", ...
  const count = (side, what) => passed[side].get(what) ?? 0;
  const early = (side) => {
    const { verb, type } = messageOf(ends[side][0]?.what ?? "");
    const sent = `send ${type}`;
    return verb === "receive" && count(1 - side, sent) <= count(side, ends[side][0].what) &&
      ends[1 - side].some(({ what }) => what === sent);
  };
  while (ends[0].length || ends[1].length) {
    const first = (ends[0][0]?.t ?? Infinity) <= (ends[1][0]?.t ?? Infinity) ? 0 : 1;
    const side = early(first) && !early(1 - first) ? 1 - first : first;
    const event = ends[side].shift();
    passed[side].set(event.what, count(side, event.what) + 1);
    merged.push(event);
  }
  return merged;
}

/** A candidate's type and address, of its whole line; any other text as it is. */
function brief(detail) {
  const [, address, port, type] = detail.match(/ (\S+) (\d+) typ (\S+)/) ?? [];
  return type ? `${type} ${address}:${port}` : detail;
}

/** The ladder in words, for those who do not see it. */
function inWords([me, other], { rows, arrows }) {
  const counts = new Map();
  for (const { type, from } of arrows) {
    const what = `${type} ${from === 0 ? "sent" : "received"}`;
    counts.set(what, (counts.get(what) ?? 0) + 1);
  }
  const messages = Array.from(counts, ([what, count]) => (count > 1 ? `${count} times ${what}` : what)).join(", ");
  const step = rows.findLast((row) => row.text)?.text;
  return `Between ${me} and ${other}: ${messages || "no message yet"}.${step ? ` Last step: ${step}.` : ""}`;
}

// ---- 4  Drawing -----------------------------------------------------------------------------------------------------

const SIGNS = { "": "○", working: "…", done: "✓", failed: "✗" };
const IN_WORDS = { "": "not begun", working: "working", done: "done", failed: "failed" };
const ROW = 26, LEFT = 62, RIGHT = 10, LETTER = 7.3; // pixels: a row, beside the two lines, a letter's width

/** Everything that is on the screen. Texts from outside go through textContent, so none is read as markup. */
class View {
  constructor(root, onResize) {
    root.classList.add("teacher");
    this.layers = element("div", { class: "layers" });
    this.names = element("div", { class: "names" }, element("b"), element("b"));
    this.svg = drawn("svg", { role: "img" });
    this.ladder = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "ladder" }, this.svg);
    this.rows = element("tbody");
    const heads = ["ms", "who", "what", "detail"].map((text) => element("th", { scope: "col" }, text));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), this.rows);
    // To be read, not read out: a call has sixty lines in its first second.
    const spoken = { role: "log", "aria-label": "log", "aria-live": "off" };
    this.log = element("div", { class: "scroll", tabindex: 0, ...spoken }, table);
    const figure = (title, ...parts) => element("figure", {}, element("figcaption", {}, title), ...parts);
    const figures = [figure("Layers", this.layers), figure("Ladder", this.names, this.ladder), figure("Log", this.log)];
    root.replaceChildren(...figures);
    this.toEnd = [this.ladder, this.log].map(follower);
    new ResizeObserver(onResize).observe(this.ladder);
  }

  /** Add a row to the log, before another one or at the end. */
  addRow({ who, what, detail, theirs }, t, before = null) {
    const cells = [t.toFixed(1), who, what, detail].map((text) => element("td", {}, text));
    const row = element("tr", { class: theirs ? "theirs" : "ours" }, ...cells);
    this.rows.insertBefore(row, before);
    return row;
  }

  drawLayers(names, ends) {
    this.layers.replaceChildren(...ends.map((layers, end) => layersPart(names[end], layers, end ? "theirs" : "ours")));
  }

  drawLadder(names, { rows, arrows }, bothKnown) {
    names.forEach((name, side) => (this.names.children[side].textContent = name));
    const width = this.ladder.clientWidth, height = (rows.length + 1) * ROW;
    if (width === 0) return; // not on the screen
    const lines = [LEFT, width - RIGHT], y = (row) => (row + 1) * ROW;
    const letters = Math.floor((lines[1] - lines[0] - 24) / LETTER);
    this.svg.replaceChildren(
      ...lines.map((x) => drawn("line", { class: "life", x1: x, x2: x, y1: 0, y2: height })),
      ...arrows.map((arrow) => arrowPart(arrow, lines, y, letters, bothKnown)),
      ...rows.flatMap((row, number) => rowParts(row, lines[row.side], y(number), letters)), // may stand across an arrow
    );
    set(this.svg, { width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": inWords(names, { rows, arrows }) });
  }
}

/** A function that scrolls a box to its end, unless a reader has scrolled back. */
function follower(box) {
  let follows = true, before = 0;
  box.onscroll = () => {
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < ROW;
    follows = atEnd || (follows && box.scrollTop >= before);
    before = box.scrollTop;
  };
  return () => follows && (box.scrollTop = box.scrollHeight);
}

/** One end's strip of layers, and what went wrong. */
function layersPart(name, layers, side) {
  const failed = layers.filter(({ state }) => state === "failed");
  const words = layers.map((one) => `${one.name} ${IN_WORDS[one.state]}${one.small && ` (${one.small})`}`).join("; ");
  const cells = layers.map((one) => element("span", { class: "layer", "data-layer": one.name, "data-state": one.state },
    element("span", {}, `${SIGNS[one.state]} ${one.name}`),
    element("small", {}, one.small)));
  return element("div", { class: side },
    element("b", {}, name),
    element("div", { class: "strip", role: "img", "aria-label": `${name}: ${words}` }, ...cells),
    ...failed.map((one) => element("p", { class: "reason" }, `${one.name} ${one.reason}`)));
}

/** A row of the ladder: its time, and the step of the end whose line is at x. */
function rowParts({ t, side, text, detail, bad }, x, y, letters) {
  const name = shortened(text, letters), colour = bad ? "bad" : "";
  const more = text && detail ? shortened(` ${brief(detail)}`, letters - name.length) : "";
  return [
    drawn("text", { class: "time", x: LEFT - 12, y: y + 4 }, t.toFixed(1)),
    ...(text ? [drawn("circle", { class: `dot ${colour}`, cx: x, cy: y, r: 3.5 })] : []),
    drawn("text", { class: `step side${side} ${colour}`, x: side ? x - 10 : x + 10, y: y + 4 },
      name, drawn("tspan", {}, more)),
  ];
}

/** A message, from one line to the other; broken where both logs are here and one end is missing: it is under way. Its
 * name stands where it was sent, in a row that has no step, and in the middle of an arrow that is known at one end. */
function arrowPart({ type, detail, from, sent, received }, lines, y, letters, bothKnown) {
  const [x1, x2] = from === 0 ? lines : [...lines].reverse();
  const y1 = y(sent ?? received), y2 = y(received ?? sent);
  const angle = (Math.atan2(y2 - y1, x2 - x1) * 180) / Math.PI;
  const missing = sent === null || received === null;
  const [x, place] = missing ? [(x1 + x2) / 2, "middle"] : from === 0 ? [x1 + 10, "start"] : [x1 - 10, "end"];
  const label = shortened(`${type} ${brief(detail.replace(`${type}: `, ""))}`.trim(), letters);
  const state = bothKnown && missing ? "message under-way" : "message";
  return drawn("g", { class: state, "data-type": type, "data-from": from },
    drawn("line", { x1, y1, x2, y2 }),
    drawn("path", { d: "M0 0-9-4v8z", transform: `translate(${x2} ${y2}) rotate(${angle})` }),
    drawn("text", { x, y: y1 - 6, "text-anchor": place }, label));
}

const shortened = (text, letters) => (text.length <= letters ? text : `${text.slice(0, Math.max(letters - 1, 0))}…`);

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** An element of the page; texts among its children stay text. */
function element(tag, attributes = {}, ...children) {
  const node = set(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

/** A part of a drawing (SVG). */
function drawn(tag, attributes = {}, ...children) {
  const node = set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);
  node.append(...children);
  return node;
}
