"""The fault clinic: every fault shows, is told from its double by what a learner sees, and is graded."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aioice
import pytest
from conftest import run
from taps import restored

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import clinic_solver
from lab.check import Mistake
from lab.clinic import Clinic, Patient, begun, deal, deal_two, findings, judged, layers_in, tried
from lab.clinic_evidence import FINDINGS, KNOWN, changes, findings_in
from lab.clinic_faults import BOOK, ILLNESSES, LAYERS, Illness, named, reports
from lab.clinic_solver import Diagnosis, solve

TOGETHER = 9  # patients at once
STOCK = aioice.ice.get_host_addresses


@asynccontextmanager
async def ward(*faults: Illness) -> AsyncIterator[list[Patient]]:
    """Give a patient with each of these faults, and see that nothing is left of them."""
    patients = [Patient(fault.name, (fault,)) for fault in faults]
    await begun(patients)
    try:
        yield patients
    finally:
        await asyncio.gather(*(patient.close() for patient in patients))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert restored()
    assert aioice.ice.get_host_addresses is STOCK


# ---- Every fault -----------------------------------------------------------------------------------------------------


async def examined() -> tuple[dict[str, set[str]], dict[str, Diagnosis], dict[str, str]]:
    """Admit every fault once, several at a time; return what is so at each, what the solver says, what is logged."""
    so, said, logs = {}, {}, {}
    for first in range(0, len(BOOK), TOGETHER):
        async with ward(*BOOK[first : first + TOGETHER]) as patients:
            names = [patient.name for patient in patients]
            seen, solved = await asyncio.gather(
                asyncio.gather(*map(findings, patients)), asyncio.gather(*map(solve, patients))
            )
            so |= dict(zip(names, seen, strict=True))
            said |= dict(zip(names, solved, strict=True))
            logs |= {patient.name: repr(patient.call.log) for patient in patients}
    return so, said, logs


@pytest.fixture(scope="module")
def everybody() -> tuple[dict[str, set[str]], dict[str, Diagnosis], dict[str, str]]:
    found: tuple[dict[str, set[str]], dict[str, Diagnosis], dict[str, str]] = run(examined(), 120)
    return found


@pytest.mark.parametrize("fault", BOOK, ids=lambda fault: fault.name)
def test_a_fault_is_told_by_what_a_learner_sees(
    fault: Illness, everybody: tuple[dict[str, set[str]], dict[str, Diagnosis], dict[str, str]]
) -> None:
    so, said, logs = everybody
    here, there = so[fault.name], so[fault.twin]
    for tell in fault.tells:
        assert tell in here
        assert tell not in there
        assert judged(tell, here, there) == ("separates", "")
    layer, cause, evidence = said[fault.name]
    assert layers_in(layer) & set(fault.layers)
    assert named(cause)[0] is fault
    assert judged(evidence, here, there) == ("separates", "")
    assert "Likely cause" not in logs[fault.name]


def test_the_book_is_whole() -> None:
    assert len(BOOK) == len(ILLNESSES) >= 16
    assert {fault.layer for fault in BOOK} == set(LAYERS)
    for fault in BOOK:
        assert fault.twin in ILLNESSES
        assert ILLNESSES[fault.twin].complaint == fault.complaint
        assert set(fault.tells) <= set(KNOWN)
        assert named(fault.name) == [fault]
    assert len({one.thread.url for one in reports() if one.thread}) == len(reports()) >= 12
    assert len(FINDINGS) == len(KNOWN)


def test_each_number_has_its_patient_and_so_many_in_a_row_have_every_fault() -> None:
    assert {deal(seed).name for seed in range(len(BOOK), 2 * len(BOOK))} == set(ILLNESSES)
    assert [deal(seed).name for seed in (0, 10, 25)] == ["DTLS datagrams lost", "no common codec", "both DTLS clients"]
    for seed in range(30):
        lower, upper = deal_two(seed)
        assert LAYERS.index(lower.layer) <= LAYERS.index("DTLS")
        assert upper.complaint != lower.complaint


# ---- In a person's words ---------------------------------------------------------------------------------------------

CAUSES = {
    "offer lost": "the offer never arrived | pc1 gets no answer because the offer is lost",
    "answer lost": "the answer did not arrive | no answer arrives at pc1 | missing answer",
    "answer damaged": "answer cut in half | truncated answer | the answer is incomplete",
    "candidates lost": "no candidates | candidates were not forwarded | lost candidates",
    "no common codec": "VP9 instead of VP8 | codec mismatch",
    "direction inactive": "the answer says inactive | a=inactive | wrong direction",
    "payload type changed": "wrong payload type | PT 120 instead of 97",
    "wrong port": "candidates have the wrong port | port 9 | wrong address in the candidate",
    "UDP blocked": "a firewall | udp is blocked | network blocks all datagrams",
    "wrong password in the offer": "ice-pwd of the offer is wrong | stale offer: ice-pwd",
    "wrong password in the answer": "the password in the answer was changed | bad ICE credentials in answer",
    "wrong fingerprint": "fingerprint mismatch | hash in the SDP wrong",
    "both DTLS clients": "both peers are active | both send ClientHello",
    "both DTLS servers": "both passive | nobody begins the handshake | both wait",
    "DTLS datagrams lost": "DTLS packets are dropped | DTLS blocked",
    "key picture lost": "lost key frame | PLI not heard",
    "repairs lost": "rtx is lost | retransmissions never arrive",
    "requests lost": "NACKs are lost | requests for repair do not arrive",
    "media cut": "SRTP is cut | the media are lost on the way",
    "source never starts": "camera gives no picture | the source never starts",
    "source hangs": "camera hangs | source stopped giving pictures",
    "track replaced by none": "replaceTrack(None) | track was removed",
    "muted": "forgotten mute | track.enabled = false",
    "lens covered": "lens cap | camera gives black",
    "decoder hangs": "decoder stuck | decoding thread blocked",
    "track not read": "nobody reads the track | track is not consumed | the reading task died",
}
SEEN = {
    "offer not received": "pc2 never received the offer | no offer arrives at pc2",
    "offer refused": "pc2 refused the offer | refused offer in pc2's log",
    "tap empty": "not one datagram on the tap | nothing on the wire",
    "401 at pc1": "pc1 receives 401 | STUN 401 to pc1",
    "wrong destination": "STUN goes to port 9 | the destination port is wrong",
    "right destination": "checks go to the right port",
    "no DTLS": "nothing of DTLS on the tap | no ClientHello from anybody",
    "DTLS out, not in": "DTLS goes out at pc1 but never comes in at pc2",
    "two ClientHellos": "both send ClientHello | ClientHello from both",
    "only pc2 failed": "pc2 failed alone",
    "inactive in the answer": "the answer says a=inactive",
    "no sender report": "not even a sender report",
    "sender report": "pc1 sends sender reports",
    "unknown payload type": "payload type 120 is not in the SDP of pc2",
    "PLI unheard": "pc2 sends PLI and pc1 hears none",
    "NACK unheard": "NACKs do not arrive at pc1",
    "repairs out, not in": "rtx out at pc1, none in at pc2",
    "media out, not in": "SRTP goes out at pc1, none comes in at pc2",
    "track is none": "sender.track is None",
    "pictures wait to be read": "the track's queue grows | more than 20 pictures wait to be read",
    "pictures wait to be decoded": "frames wait to be decoded",
    "nothing waits to be decoded": "few wait to be decoded",
    "not muted": "track.muted is not set",
    "source is black": "the source itself is black",
}  # fmt: skip


@pytest.mark.parametrize(("name", "said"), [(name, one) for name, ways in CAUSES.items() for one in ways.split(" | ")])
def test_a_cause_is_taken_in_the_words_a_person_would_use(name: str, said: str) -> None:
    assert named(said)[0].name == name


@pytest.mark.parametrize(("name", "said"), [(name, one) for name, ways in SEEN.items() for one in ways.split(" | ")])
def test_evidence_is_taken_in_the_words_a_person_would_use(name: str, said: str) -> None:
    assert KNOWN[name] in findings_in(said)


def test_what_is_denied_is_not_taken_as_said() -> None:
    assert KNOWN["sender report"] not in findings_in("no sender reports")
    assert KNOWN["401 at pc2"] not in findings_in("pc1 receives 401")
    assert named("the weather") == []
    assert layers_in("the camera") == {"source"}
    assert layers_in("ice") == {"ICE"}


def test_the_lines_of_a_message_that_differ() -> None:
    assert changes("a\r\nb\r\nc", "a\nx\nc\n") == [("b", "x")]
    assert changes("a\nb\nc", "a\n") == [("b", ""), ("c", "")]


# ---- Grading ---------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_diagnosis_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        ours = Clinic()

        async def told(layer: object, cause: object, evidence: object) -> str:
            capsys.readouterr()
            await ours.diagnose(layer, cause, evidence)
            return capsys.readouterr().out

        patient = await ours.patient(11)  # the answer is cut in half
        assert "I call" in capsys.readouterr().out
        assert (await told(..., ..., ...)).startswith("not yet: replace the dots")
        wrong = await told("DTLS", "answer lost", "no answer came to pc1")
        assert "0 of 4" in wrong
        assert "ICE is completed at both" in wrong  # what a fault in DTLS would look like
        assert "nothing refused" in wrong  # what a lost answer would look like, and is not so here
        assert "not so here" in wrong
        symptom = await told("signalling", "truncated answer", "the offer came as it was sent")
        assert "2 of 4" in symptom
        assert "“answer lost” would show the same" in symptom
        assert "is not known here" in await told("signalling", "truncated answer", "it feels bad")
        assert "0: 'weather' is no layer" in await told("weather", "bad luck", "401 comes in at pc1")
        assert "several layers" in await told("SDP, ICE or DTLS", "bad luck", "401 comes in at pc1")
        assert (await told("SDP", "cut answer: half of it", ["pc1 refused the answer"])).startswith("right")
        assert ours.records[patient.name][-1].points == 4
        assert ours.found == {"answer damaged"}
        assert ours.chart().data.startswith(b"\x89PNG")
        await ours.close()
        with pytest.raises(Mistake, match="nobody is here"):
            await ours.diagnose("ICE", "a firewall", "nothing")
        with pytest.raises(Mistake, match="has gone"):
            await ours.diagnose("ICE", "a firewall", "nothing", patient=patient)
        for mistake in (ours.patient(-1), ours.patient(3, faults=3), ours.case("nobody #1")):
            with pytest.raises(Mistake):
                await mistake

    run(scenario())


def test_a_function_is_asked_about_the_patient_and_about_the_double() -> None:
    async def scenario() -> None:
        async with ward(ILLNESSES["answer damaged"], ILLNESSES["answer lost"]) as (patient, double):
            assert await tried(lambda p: p.refused("pc1", "answer"), patient, double) == ("separates", "")
            assert await tried(lambda p: p.vitals(), patient, double) == ("shared", "")
            assert (await tried(lambda p: False, patient, double))[0] == "false"
            kind, words = await tried(lambda p: 1 / 0, patient, double)
            assert kind == "unknown"
            assert "ZeroDivisionError" in words

    run(scenario())


def test_one_fault_hides_another(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        ours = Clinic()
        assert [fault.name for fault in deal_two(4)] == ["answer damaged", "muted"]
        for _ in range(2):
            patient = await (ours.again() if ours.here else ours.patient(4, faults=2))
            await ours.diagnose(*await solve(patient))
        said = capsys.readouterr().out
        assert said.count("right: patient 4 with two faults, 4 of 4") == 2
        assert said.count("This patient has another one") == 1
        assert "“I call" in said
        assert "black" in said
        await ours.close()
        assert restored()

    run(scenario())


def test_somebody_healthy_has_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        ours = Clinic()
        patient = await ours.healthy()
        page = await patient.vitals()
        assert page.differs(page) == []
        assert page.flow("pc2", "in") == "flows"
        assert "shown: flows" in repr(page)
        assert patient.on_its_way("offer").note == "the offer came as it was sent"
        with pytest.raises(LookupError, match="looks well"):
            await solve(patient)
        await ours.diagnose("ICE", "a firewall", "nothing comes in")
        assert "has nothing" in capsys.readouterr().out
        await ours.close()

    run(scenario())


def test_the_solver_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert clinic_solver.main(["--seeds", "1", "--first", "10"]) == 0
    assert "1 faults, 1 patients, 4 of 4 points" in capsys.readouterr().out
