"""The fault clinic of lesson 10: patients, which are calls with one fault nobody tells, and the grading of a diagnosis.

    patient = await clinic.patient(7)            a call with a fault, the same for one number in every run
    await patient.vitals()                       all instruments on one page
    await clinic.diagnose("ICE", "UDP blocked", "checks go out, none comes in, to the right port")
    await clinic.patient(3, faults=2)            two faults, one behind the other
    await clinic.case("simple-peer #134")        a report of the field
    clinic.chart()                               how far you are

A cause may be said in a person's words. Evidence is words, or a function of the patient that says whether it is so; it
counts when it holds here and not at a patient with the fault that looks most like this one, who is called in for it.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import inspect
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from IPython.display import Image

from loopback import Call, CallError, Message, Peer, Picture, play

from . import private
from .check import Mistake, blamed, say, unanswered
from .clinic_evidence import FINDINGS, KNOWN, Vitals, changes, counted, error_of, findings_in, is_black
from .clinic_faults import BOOK, ENOUGH, ILLNESSES, LAYERS, NOTHING, RATE, SIZE, Illness, named, reports
from .draw import INK, Table, chart, still
from .faults import Edit, FaultyChannel, double
from .private import Waiting
from .wire import Tap

__all__ = ["Clinic", "Patient", "clinic"]

TICK = 0.02  # s; a busy machine makes it longer, so what is counted in ticks is never too short
PATIENCE = 1000  # ticks until a fault must have shown
LEAD, WINDOW = 6, 18  # ticks until a call that rested is awake, and of the moment that vitals() looks at
PAUSE = 15  # ticks without a new picture: then it stands
Evidence = str | Callable[["Patient"], Any]


# ---- A patient -------------------------------------------------------------------------------------------------------


class Silent(loopback.Health):
    """A peer's health that names no cause, and takes no silence for the end: that is for the learner to find."""

    SILENCE = float("inf")

    @property
    def trouble(self) -> tuple[int, str]:
        """No cause."""
        return 0, "that is what you are here to find"


class Overheard(FaultyChannel):
    """One end of a channel that changes what its peer sends, and keeps what its peer was given."""

    def __init__(self, inbox: asyncio.Queue[str], outbox: asyncio.Queue[str], edits: Iterable[Edit]) -> None:
        super().__init__(inbox, outbox, edits)
        self.taken: list[Message] = []

    async def receive(self) -> str:
        text = await super().receive()
        self.taken.append(json.loads(text))
        return text


class Patient:
    """A call with faults, and the instruments to look at it. `call` and `tap` are what they are in every lesson."""

    call: Call
    ticks: int  # of TICK seconds or more, since admission
    connected_ticks: int  # since both peers say connected
    still: int  # ticks without a new picture at pc2, after the first
    made_still: int  # ticks without a new picture at pc1, after the first
    pauses: int  # how often the picture stood, and went on

    def __init__(self, name: str, faults: Sequence[Illness], edits: Sequence[Edit] = ()) -> None:
        self.name, self._faults = name, tuple(faults)
        self.ticks = self.connected_ticks = self.still = self.made_still = 0
        self.pauses = 0
        self.nurses: list[asyncio.Task[None]] = []  # of the faults: they end with the patient
        self._acts = [fault.act for fault in faults if fault.act]
        one, two = asyncio.Queue[str](), asyncio.Queue[str]()
        self._ends = (
            Overheard(one, two, [*edits, *(edit for fault in faults for edit in fault.one())]),
            Overheard(two, one, [edit for fault in faults for edit in fault.two()]),
        )
        options = {"deadline": 3600.0, **dict(option for fault in faults for option in fault.options)}
        made = [fault.source() for fault in faults if fault.source]
        self.call = Call(made[0] if made else loopback.SyntheticSource(*SIZE, RATE), channels=self._ends, **options)
        for peer in self.call.peers:
            peer.health = Silent(peer)
        self.tap = Tap(self.call)  # opened first: it is nearest to the peers, and sees what they see
        self._beyond = Tap(self.call, faults=[fault for illness in faults for fault in illness.wire()])
        self._counts = (0, 0)
        self.closed = False

    # What one looks at.

    async def vitals(self) -> Vitals:
        """Return what all instruments show, on one page. Takes half a second: some show what changes."""
        self._check_open()
        for _ in range(LEAD):
            await self._tick()
        begun, made, shown = len(self.tap.datagrams), self.call.meter.sent, self.call.meter.received
        for _ in range(WINDOW):
            await self._tick()
        stats = {peer.name: list((await peer.pc.getStats()).values()) for peer in self.call.peers}
        return Vitals(
            self,
            tuple(self.call.log.events),
            tuple(self.tap.datagrams),
            begun,
            stats,
            (made, self.call.meter.sent),
            (shown, self.call.meter.received),
        )

    def on_its_way(self, kind: str) -> Table:
        """Return what happened to a message on its way: the lines that differ between what was sent and what came.
        `kind` is "offer", "answer" or "candidate"."""
        sent, taken = self.texts(kind)
        if not sent or not taken:
            note = f"no {kind} was sent" if not sent else f"the {kind} was sent and did not come"
            return Table(("as sent", "as it came"), [("", [])], (50, 50), note=note)
        rows = changes(sent, taken)
        note = "" if rows else f"the {kind} came as it was sent"
        note = f"and {len(rows) - 4} more lines that did not come" if len(rows) > 6 else note
        shown: list[tuple[str, ...]] = [(one or "(nothing)", other or "(nothing)") for one, other in rows]
        return Table(
            ("as sent", "as it came"), [("", shown[: 4 if len(rows) > 6 else 6])], (50, 50), code=(0, 1), note=note
        )

    def texts(self, kind: str) -> tuple[str, str]:
        """Return the first message of a kind as it was sent and as it came, "" where it was not."""
        if kind not in ("offer", "answer", "candidate"):
            raise Mistake(f"no {kind!r} is sent: there are offer, answer and candidate")
        giver, taker = self._ends if kind != "answer" else self._ends[::-1]
        field = "candidate" if kind == "candidate" else "sdp"
        found = [next((m[field] for m in kept if m.get("type") == kind), "") for kept in (giver.sent, taker.taken)]
        return found[0], found[1]

    @property
    def waiting(self) -> Waiting:
        """What waits at pc2: packets for one that is missing, pictures for the decoder, decoded ones for a reader."""
        receivers = self.call.pc2.pc.getReceivers()
        return private.waiting(self.call.pc2) if receivers and receivers[0].track else Waiting(0, 0, 0)

    @property
    def source_picture(self) -> Picture | None:
        """The newest picture that the source gave, before the track did anything to it."""
        return self._given.picture

    def layers(self) -> str:
        """The state of every layer at both peers, in one line."""
        return loopback.layer_states(*self.call.peers)

    # What faults and findings ask.

    def peer(self, who: str) -> Peer:
        """Return pc1 or pc2."""
        return {"pc1": self.call.pc1, "pc2": self.call.pc2}[who]

    def altered(self, kind: str) -> bool:
        """Whether a message came as another text than was sent."""
        sent, taken = self.texts(kind)
        return bool(sent and taken) and sent != taken

    def count(self, layer: str, who: str, direction: str, says: str = "", codec: str | None = None) -> int:
        """Return how many such datagrams the tap has seen."""
        return counted(self.tap.datagrams, layer, who, direction, says, codec)

    def errors(self, who: str, code: str) -> int:
        """Return how many STUN error responses with that code came in at a peer."""
        return sum(error_of(d) == code for d in self.tap.only("STUN", who, "in"))

    def logged(self, who: str, what: str) -> bool:
        """Whether the log has that event."""
        return any(event.who == who and event.what == what for event in self.call.log.events)

    def sent(self, who: str, kind: str) -> bool:
        """Whether a peer has sent a message of that kind."""
        return self.logged(who, f"send {kind}")

    def refused(self, who: str, kind: str) -> bool:
        """Whether a peer has refused a message of that kind."""
        return self.logged(who, f"refused {kind}")

    def ice(self, who: str, state: str) -> bool:
        """Whether ICE is in that state."""
        return bool(self.peer(who).pc.iceConnectionState == state)

    def dtls(self, who: str, state: str) -> bool:
        """Whether DTLS is in that state."""
        return self.peer(who).health.dtls_state == state

    @property
    def checks_go_out(self) -> bool:
        """Whether both peers send STUN."""
        return all(self.count("STUN", who, "out") > 0 for who in ("pc1", "pc2"))

    @property
    def black(self) -> bool:
        """Whether the picture at pc2 is black."""
        return is_black(self.call.pc2.picture)

    # Admission, and the end.

    async def begin(self) -> None:
        """Let the call run until what tells its first fault can be seen. Raises CallError when it cannot."""
        self.tap.open()
        self._beyond.open()
        self._given = Keep(self.call)
        playing = [asyncio.create_task(self._play(script)) for script in self.call.scripts]
        try:
            shows = self._faults[0].shows if self._faults else well
            for _ in range(PATIENCE):
                if shows(self):
                    break
                await self._tick()
                if self._acts and self.call.meter.received >= ENOUGH:
                    await self._acts.pop()(self)
            else:
                raise CallError("this patient has shown nothing: is this machine too busy?")
        finally:
            await loopback.cancelled(*playing)  # what still waits would ask every millisecond

    @staticmethod
    async def _play(script: list[loopback.Step]) -> None:
        with contextlib.suppress(CallError):
            await play(script)

    async def _tick(self) -> None:
        await asyncio.sleep(TICK)
        self.ticks += 1
        connected = all(peer.pc.connectionState == "connected" for peer in self.call.peers)
        self.connected_ticks = self.connected_ticks + 1 if connected else 0
        made, shown = self.call.meter.sent, self.call.meter.received
        self.made_still = self.made_still + 1 if made == self._counts[0] and made else 0
        self.pauses += self.still >= PAUSE and shown != self._counts[1]
        self.still = self.still + 1 if shown == self._counts[1] and shown else 0
        self._counts = made, shown

    async def close(self) -> None:
        """End the call, and with it what its faults hold."""
        self.closed = True
        await loopback.cancelled(*self.nurses)
        self._beyond.close()
        self.tap.close()
        await self.call.close()

    def _check_open(self) -> None:
        if self.closed:
            raise Mistake(f"{self.name} has gone: admit this patient again")

    def __repr__(self) -> str:
        return f"{self.name}: {self.layers()}"


class Keep:
    """Keeps the newest picture that a call's source gives."""

    def __init__(self, call: Call) -> None:
        self.picture: Picture | None = None
        source = call.track.source
        give = source.next

        async def following() -> tuple[Picture, float]:
            picture, captured_at = await give()
            self.picture = picture.copy()
            return picture, captured_at

        source.next = following  # type: ignore[method-assign]


def well(patient: Patient) -> bool:
    """Whether a call without a fault has shown what there is to see."""
    return patient.call.meter.received >= 30 and patient.count("SRTCP", "pc1", "out", "SR") >= 1


# ---- Who comes with a number -----------------------------------------------------------------------------------------


def deal(seed: int) -> Illness:
    """Return the fault of the patient with that number: each so many numbers in a row have every fault once."""
    turn, place = divmod(seed, len(BOOK))
    order = list(BOOK)
    random.Random(turn).shuffle(order)
    return order[place]


def deal_two(seed: int) -> tuple[Illness, Illness]:
    """Return two faults, of which the first hides the second."""
    chance = random.Random(f"two {seed}")
    first = [one for one in BOOK if one.complaint == NOTHING]
    second = [one for one in BOOK if one.complaint != NOTHING and one.layer != "SDP"]
    return chance.choice(first), chance.choice(second)


def harmless(seed: int) -> list[Edit]:
    """Return something odd that is no fault, for some numbers: a candidate that comes twice."""
    return [double("candidate")] if random.Random(f"odd {seed}").random() < 0.3 else []


# ---- Grading ---------------------------------------------------------------------------------------------------------

LAYER_WORDS = {
    "signalling": r"signal|channel|message",
    "SDP": r"\bsdp\b|descript|offer/answer|offer and answer|negotiat|jsep",
    "ICE": r"\bice\b|\bstun\b|\bturn\b|connectivity|network|\bnat\b|firewall|transport|\budp\b",
    "DTLS": r"dtls|handshake|\btls\b|encrypt|security|crypto",
    "RTP": r"s?rtp|s?rtcp|media|packet",
    "source": r"source|camera|captur|device|input|track",
    "decoder": r"decod|codec",
    "application": r"app|program|code|button|reader|\bui\b|user",
}
LOOKS = {
    "signalling": "a message that one side has sent has not come, or not whole; both logs say which",
    "SDP": "the texts differ on their way, or one refuses the other; compare what was sent with what came",
    "ICE": "both have both descriptions, and ICE is new, checking or failed; the tap has STUN, or not even that",
    "DTLS": "ICE is completed at both, and DTLS is connecting or failed",
    "RTP": "both say connected, packets leave pc1, and something of them, or of the feedback, does not get across",
    "source": "both say connected, and nothing new, or nothing but black, comes from where pictures are made",
    "decoder": "all packets are there, and pictures wait to be decoded",
    "application": "every layer does its work, and the program around it does something else than one wants",
}


def layers_in(text: str) -> set[str]:
    """Return the layers that a learner's word may mean."""
    exact = {layer for layer in LAYERS if layer.casefold() == str(text).strip().casefold()}
    return exact or {layer for layer, words in LAYER_WORDS.items() if re.search(words, str(text), re.IGNORECASE)}


@dataclass(frozen=True)
class Score:
    """Points of one diagnosis: 1 for the layer, 1 for the cause, 2 for evidence that separates."""

    layer: int
    cause: int
    evidence: int

    @property
    def points(self) -> int:
        """All of them."""
        return self.layer + self.cause + self.evidence


# ---- The clinic ------------------------------------------------------------------------------------------------------


MOST = 12  # patients in the chart
COLOURS = {"layer": "#9fb3c8", "cause": "#5b8def", "evidence": "#2e9e6b"}


class Clinic:
    """Admits patients, grades diagnoses, and keeps the record of a learner. Whoever is admitted sends the last one
    home."""

    def __init__(self) -> None:
        self.here: list[Patient] = []
        self.records: dict[str, list[Score]] = {}
        self.found: set[str] = set()  # the faults whose diagnosis had all points
        self.seen: dict[str, set[str]] = {}  # by fault: what was so at a patient who was called in for a comparison
        self.cured: dict[str, set[str]] = {}  # of patients with two faults: those that were found

    # Admission

    async def patient(self, seed: int, *, faults: int = 1) -> Patient:
        """Admit the patient with that number, who has one fault, or two; print what the user says. Raises Mistake."""
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 or faults not in (1, 2):
            raise Mistake("a patient has a number, 0 or more, and one or two faults")
        name = f"patient {seed}" if faults == 1 else f"patient {seed} with two faults"
        self.cured[name] = set()
        (patient,) = await self._admit((name, deal_two(seed) if faults == 2 else (deal(seed),), harmless(seed)))
        return patient

    async def patients(self, *seeds: int) -> list[Patient]:
        """Admit several at once, each with one fault."""
        return await self._admit(*((f"patient {seed}", (deal(seed),), harmless(seed)) for seed in seeds))

    async def healthy(self) -> Patient:
        """Admit somebody who has nothing, to know what that looks like."""
        (patient,) = await self._admit(("a healthy call", (), []))
        return patient

    async def case(self, thread: str) -> Patient:
        """Admit a report of the field, as in "simple-peer #134": its fault, made again here."""
        found = [
            one for one in BOOK if one.thread and thread.casefold() in (str(one.thread).casefold(), one.thread.url)
        ]
        if not found:
            raise Mistake(f"no report is called {thread!r}; there is {', '.join(str(one.thread) for one in reports())}")
        (patient,) = await self._admit((thread, (found[0],), []))
        return patient

    async def again(self) -> Patient:
        """Admit the last patient once more, with the faults cured that you have found."""
        patient = self._last(None)
        left = [one for one in patient._faults if one.name not in self.cured.get(patient.name, set())]
        (new,) = await self._admit((patient.name, left, []))
        return new

    async def _admit(self, *who: tuple[str, Sequence[Illness], list[Edit]]) -> list[Patient]:
        await self.close()
        patients = [Patient(*one) for one in who]
        self.here = patients
        await begun(patients)
        for patient in patients:
            says = patient._faults[0].complaint if patient._faults else "All is well."
            say(f"{patient.name}: “{says}”")
        return patients

    async def close(self) -> None:
        """Send everybody home."""
        going, self.here = self.here, []
        await asyncio.gather(*(patient.close() for patient in going))

    def _last(self, patient: Patient | None) -> Patient:
        patient = patient or (self.here[-1] if self.here else None)
        if patient is None:
            raise Mistake("nobody is here: await clinic.patient(7)")
        patient._check_open()
        return patient

    # Diagnosis

    async def diagnose(
        self,
        layer: str | EllipsisType,
        cause: str | EllipsisType,
        evidence: Evidence | Sequence[Evidence] | EllipsisType,
        *,
        patient: Patient | None = None,
    ) -> None:
        """Grade a diagnosis of the patient who was admitted last, or of that one: print what is right, and of what is
        not what it would have looked like. Layer 1 point, cause 1, evidence that separates 2."""
        given = [evidence] if isinstance(evidence, str) or callable(evidence) else evidence
        if isinstance(given, EllipsisType) or any(unanswered(one) for one in (layer, cause, given)) or not given:
            say("not yet: replace the dots by your diagnosis: a layer, a cause, and the evidence.")
            return
        patient = self._last(patient)
        if not patient._faults:
            say(f"not yet: {patient.name} has nothing.")
            return
        meant = named(str(cause))
        target = next((one for one in meant[:1] if one in patient._faults), self._open_fault(patient))
        here, verdicts = await self._compared(patient, target, given)
        lines = {"layer": self._layer(str(layer), target, patient), "cause": self._cause(meant, target, here)}
        lines["evidence"] = self._evidence(verdicts, target, told=lines["cause"][0] == 1)
        score = Score(*(points for points, _ in lines.values()))
        self.records.setdefault(patient.name, []).append(score)
        if score.points == 4:
            self.found.add(target.name)
            self.cured.setdefault(patient.name, set()).add(target.name)
        self._say(score, lines, target, patient)

    async def _compared(
        self, patient: Patient, target: Illness, given: Sequence[Evidence]
    ) -> tuple[set[str], list[tuple[str, str]]]:
        """Return what is so at a patient, and what each piece of evidence is worth beside the double."""
        async with contextlib.AsyncExitStack() as stack:
            other = None
            if target.twin not in self.seen or any(map(callable, given)):
                other = await stack.enter_async_context(self._twin_of(target))
            here, *there = await asyncio.gather(*(findings(one) for one in (patient, other) if one))
            if there:
                self.seen[target.twin] = there[0]
            return here, [
                await tried(one, patient, other)
                if callable(one) and other
                else judged(str(one), here, self.seen[target.twin])
                for one in given
            ]

    @contextlib.asynccontextmanager
    async def _twin_of(self, illness: Illness) -> AsyncIterator[Patient]:
        """Give a patient with the fault that looks most like this one: who is here, or comes for the comparison."""
        twin = ILLNESSES[illness.twin]
        here = next((one for one in self.here if one._faults == (twin,)), None)
        other = here or Patient(twin.name, (twin,))
        try:
            if other is not here:
                await begun([other])
            yield other
        finally:
            if other is not here:
                await other.close()

    def _open_fault(self, patient: Patient) -> Illness:
        found = self.cured.get(patient.name, set())
        return next((one for one in patient._faults if one.name not in found), patient._faults[0])

    def _say(self, score: Score, lines: dict[str, tuple[int, str]], target: Illness, patient: Patient) -> None:
        if score.points == 4:
            say(f"right: {patient.name}, 4 of 4. {target.name}, in {target.layer}: {target.looks}.")
            say(f"The cure: {target.cure}.")
            left = [one for one in patient._faults if one.name not in self.cured.get(patient.name, set())]
            if left and len(patient._faults) > 1:
                say("This patient has another one: await clinic.again().")
            if target.thread and str(target.thread) == patient.name:
                say(f"What the thread found: {target.thread.found}.")
            return
        say(f"not yet: {patient.name}, {score.points} of 4")
        for name, (points, words) in lines.items():
            say(f"  {name} {points}: {words}")

    def _layer(self, text: str, target: Illness, patient: Patient) -> tuple[int, str]:
        meant = layers_in(text)
        if not meant:
            return 0, f"{text!r:.40} is no layer: there are {', '.join(LAYERS)}"
        if len(meant) > 2:
            return 0, f"{text!r:.40} names several layers: name the one in which it lies"
        if meant & set(target.layers):
            return 1, "right"
        layer = next(one for one in LAYERS if one in meant)
        return 0, f"not {layer}. There one would see: {LOOKS[layer]}. Here: {patient.layers()}"

    def _cause(self, meant: list[Illness], target: Illness, so: AbstractSet[str]) -> tuple[int, str]:
        if not meant:
            return 0, "no cause that this clinic knows is meant by that: clinic.book() has their names"
        if meant[0] is target:
            return 1, "right"
        missing = [tell for tell in meant[0].tells if tell not in so]
        here = f". Here it is not so: {', '.join(missing)}" if missing else ""
        return 0, f"with “{meant[0].name}” one would see: {meant[0].looks}{here}"

    def _evidence(self, verdicts: list[tuple[str, str]], target: Illness, told: bool) -> tuple[int, str]:
        for kind in ("false", "unknown"):
            for verdict, words in verdicts:
                if verdict == kind:
                    return 0, words
        if any(verdict == "separates" for verdict, _ in verdicts):
            return 2, "right: so here, and not with the fault that looks most like it"
        name = f"“{target.twin}”" if told else "another fault"
        place = ", ".join(dict.fromkeys(KNOWN[tell].place for tell in target.tells))
        return 0, f"it is so, but {name} would show the same. What tells them apart is seen in {place}"

    # Records

    def book(self) -> Table:
        """Return the names of all faults that are known here, by layer."""
        rows: list[tuple[str, ...]] = [
            (layer, "; ".join(one.name for one in BOOK if one.layer == layer)) for layer in LAYERS
        ]
        return Table(("layer", "faults"), [("", rows)], (16, 84))

    def alike(self) -> Table:
        """Return the faults that look alike, and what tells them apart."""
        rows, seen = list[tuple[str, ...]](), set[str]()
        for one in BOOK:
            if one.name not in seen:
                other = ILLNESSES[one.twin]
                rows.append((one.complaint, one.name, one.looks, other.name, other.looks))
                seen |= {one.name, other.name} if other.twin == one.name else {one.name}
        groups = [
            (f"“{says}”", [row[1:] for row in rows if row[0] == says]) for says in dict.fromkeys(row[0] for row in rows)
        ]
        return Table(("fault", "what tells it", "its double", "what tells that"), groups, (14, 36, 14, 36))

    def chart(self) -> Image:
        """Draw how far one is. Left the points of the patients diagnosed last, with the number of tries; right the
        faults of each layer, a square each, filled where a diagnosis had all four points."""
        figure, axes = chart(330)
        grid = figure.add_gridspec(1, 2, width_ratios=(5, 4))
        axes.set_subplotspec(grid[0])
        self._draw_tries(axes)
        right = figure.add_subplot(grid[1], facecolor="none")
        right.spines[:].set_visible(False)
        self._draw_layers(right)
        return still(figure)

    def _draw_tries(self, axes: Any) -> None:
        latest = list(self.records.items())[-MOST:]
        for row, (_, tries) in enumerate(latest):
            left = 0
            for part, colour in COLOURS.items():
                axes.barh(row, getattr(tries[-1], part), left=left, height=0.6, color=colour)
                left += getattr(tries[-1], part)
            axes.text(left + 0.06, row, f"{len(tries)} {'try' if len(tries) == 1 else 'tries'}", va="center")
        for part, colour in COLOURS.items():
            axes.barh(0, 0, color=colour, label=part)
        axes.set_xlabel("points of the last diagnosis")
        axes.set_xlim(0, 4.9)
        axes.set_xticks(range(5))
        axes.set_yticks(range(len(latest)), [name.replace(" with two faults", ", two faults") for name, _ in latest])
        axes.set_ylim(max(len(latest), 6) - 0.5, -0.5)
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)

    def _draw_layers(self, axes: Any) -> None:
        for row, layer in enumerate(LAYERS):
            for place, one in enumerate(fault for fault in BOOK if fault.layer == layer):
                colour = COLOURS["evidence"] if one.name in self.found else "none"
                axes.barh(row, 0.8, left=place, height=0.6, color=colour, edgecolor=INK)
        axes.set_xlim(-0.1, 5)
        axes.set_xticks([])
        axes.set_yticks(range(len(LAYERS)), LAYERS)
        axes.tick_params(colors=INK, labelcolor=INK, length=0)
        axes.invert_yaxis()
        axes.set_title(f"{len(self.found)} of {len(BOOK)} faults found", fontsize=10, color=INK)


async def begun(patients: Sequence[Patient]) -> None:
    """Let several calls run until each shows its fault; close them all where one cannot."""
    try:
        await asyncio.gather(*(patient.begin() for patient in patients))
    except BaseException:
        await asyncio.gather(*(patient.close() for patient in patients), return_exceptions=True)
        raise


async def findings(patient: Patient) -> set[str]:
    """Return the names of the findings that are so at a patient."""
    vitals = await patient.vitals()
    return {one.name for one in FINDINGS if one.true(vitals)}


def judged(text: str, here: AbstractSet[str], there: AbstractSet[str]) -> tuple[str, str]:
    """Return what evidence in words is worth: in a word, separates, shared, false or unknown, and in a sentence. `here`
    are the findings that are so at the patient, `there` those at the double."""
    best = "unknown"
    for sentence in [*filter(str.strip, re.split(r"[;.\n]+|\band\b", text)), text]:
        if sentence is text and best != "unknown":
            break
        found = findings_in(sentence)
        so = [one for one in found if one.name in here]
        if any(one.name not in there for one in so):
            best = "separates"
        elif so and best != "separates":
            best = "shared"
        elif found and not so:
            return "false", f"“{' '.join(sentence.split())}”: not so here. Look at {found[0].place}"
    if best == "unknown":
        words = "say what is seen where, as in “401 comes in at pc1”, or give a function of the patient"
        return best, f"what “{text}” means is not known here: {words}"
    return best, ""


async def tried(function: Callable[[Patient], Any], here: Patient, there: Patient) -> tuple[str, str]:
    """Try a learner's function on the patient and on the double; return what it is worth, as `judged` does."""
    found = []
    for patient in (here, there):
        try:
            result = function(patient)
            found.append(bool(await result if inspect.isawaitable(result) else result))
        except Exception as error:  # noqa: BLE001  of any kind: the function is a learner's
            return "unknown", blamed(error, function) or f"it raised {type(error).__name__}: {error}"
    if not found[0]:
        return "false", "your function says no to this patient"
    return ("shared" if found[1] else "separates"), ""


clinic = Clinic()
