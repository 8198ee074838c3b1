"""Cells that take a step may be run twice: notebooks/lab/again.py."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import sys
from pathlib import Path

import pytest
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))
from lab.again import before, steps_taken
from lab.bench import call_after
from lab.check import Mistake


def test_the_call_itself_comes_back_while_its_steps_are_taken_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        call = await call_after(0)
        try:
            for number, step in enumerate(call.steps[:10]):
                assert steps_taken(call) == list(range(number))
                assert await before(call, f"{step.who} {step.what}") is call
                await step.run()
        finally:
            await call.close()

    run(scenario())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("step", ["pc1 setLocalDescription(offer)", "createAnswer", "setRemoteDescription(answer)"])
def test_a_step_that_was_taken_gives_a_new_call_that_goes_on(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        call = await call_after()
        again = await before(call, step)
        try:
            assert again is not call
            taken = steps_taken(again)
            assert await before(again, step) is again
            for number, one in enumerate(again.steps):
                if number not in taken:
                    await one.run()
            assert again.pc2.picture is not None
        finally:
            await call.close()
            await again.close()
        closed = await before(again, step)  # nothing can be done with one that is closed
        assert closed is not again
        await closed.close()

    run(scenario())
    assert capsys.readouterr().out.count("a new call: the old one does not stand before pc") == 2


def test_what_the_other_side_has_sent_meanwhile_lies_in_the_mailbox() -> None:
    async def scenario() -> None:
        call = await call_after(0)
        again = await before(call, "setRemoteDescription(answer)")
        try:
            assert again.pc1.channel.inbox.qsize() == 3  # answer, candidate, end-of-candidates
            assert again.pc1.pc.signalingState == "have-local-offer"
        finally:
            await call.close()
            await again.close()

    run(scenario())


def test_a_name_no_step_has_is_a_mistake() -> None:
    async def scenario() -> None:
        call = await call_after(0)
        try:
            with pytest.raises(
                Mistake, match="no step is called 'createAnser'; there is pc1 addTrack, pc1 createOffer"
            ):
                await before(call, "createAnser")
        finally:
            await call.close()

    run(scenario())
