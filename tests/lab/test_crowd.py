"""One camera for several viewers, a mesh, and what they cost: notebooks/lab/crowd.py."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder
from aiortc.contrib.media import MediaRelay
from conftest import run
from pages import image

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.answers.lesson_09 import crowds, rooms
from lab.crowd import (
    Camera,
    Cost,
    Work,
    bars,
    dots,
    effort,
    left_behind,
    mesh,
    numbers_seen,
    star,
    three_sizes,
    work_table,
)

from loopback import OutgoingTrack, SyntheticSource, read_time_code

STOCK = Vp8Encoder.encode, Vp8Decoder.decode


@pytest.fixture(autouse=True)
def restored() -> Any:
    """Every test leaves the codecs as they were."""
    yield
    assert (Vp8Encoder.encode, Vp8Decoder.decode) == STOCK


def test_a_track_in_two_connections_is_shared_out_and_a_relayed_one_is_not() -> None:
    async def scenario() -> None:
        track, relay = OutgoingTrack(SyntheticSource(160, 120, 30)), MediaRelay()
        shared = await numbers_seen([track, track], pictures=12)
        track = OutgoingTrack(SyntheticSource(160, 120, 30))
        relayed = await numbers_seen([relay.subscribe(track), relay.subscribe(track)], pictures=12)
        track.stop()
        await asyncio.sleep(0.1)
        one, two = map(set, shared.values())
        assert one
        assert two
        assert not one & two
        one, two = map(set, relayed.values())
        assert len(one & two) >= 4
        assert image(dots({"shared": shared, "relayed": relayed}).data).shape == (246, 980, 3)

    run(scenario())


def test_who_does_not_read_lets_pictures_pile_up() -> None:
    waiting = run(left_behind(0.3))
    assert waiting.pop("subscribed, not read") > 3
    assert set(waiting.values()) == {0}


def test_a_camera_is_read_once_and_gives_each_viewer_a_picture_of_its_own() -> None:
    async def scenario() -> None:
        camera = Camera(SyntheticSource(160, 120, 30))
        one, two = camera.viewer(), camera.viewer()
        (first, at), (second, again) = await asyncio.gather(one.next(), two.next())
        assert at == again
        assert (first == second).all()
        assert not np.shares_memory(first, second)
        await one.close()
        await two.close()
        await two.close()
        assert len(asyncio.all_tasks()) == 1
        assert read_time_code(first) is None

    run(scenario())


def test_a_star_encodes_for_each_viewer_and_a_mesh_for_each_pair_twice() -> None:
    async def scenario() -> None:
        costs = {"star": await star(2, 0.3, size=(160, 120), rate=10), "mesh": await mesh(3, 0.3, rate=10)}
        assert {name: cost.encoders for name, cost in costs.items()} == {"star": 2, "mesh": 2}
        assert {name: cost.connections for name, cost in costs.items()} == {"star": 2, "mesh": 3}
        assert all(cost.readable > 0 and cost.uploaded > 1000 for cost in costs.values())
        assert [row[2] for row in work_table(costs).rows] == ["2 times", "2 times"]

    run(scenario())


def test_work_counts_only_while_it_is_entered() -> None:
    with Work() as outer, Work():
        three_sizes(2)
    three_sizes(1)
    assert outer.encoded == 6


def test_the_effort_is_drawn_and_a_recorded_cost_says_so() -> None:
    costs = {f"{n} people": Cost(n, n, 10, 10 * (n - 1), 0, 1000, n * 0.1, 1.0) for n in (2, 4)}
    costs["4 people"].recorded = "recorded run: then"
    assert image(effort(costs).data).shape == (330, 980, 3)
    assert image(bars(costs).data).shape == (154, 980, 3)
    assert work_table(costs).note == "recorded run: then"
    assert costs["4 people"].encoders == 3
    assert costs["2 people"].uplink == 8.0


def test_smaller_encodings_take_fewer_bits() -> None:
    sizes = three_sizes(5)
    assert [one.rid for one in sizes] == ["f", "h", "q"]
    assert sizes[0].kbps > sizes[1].kbps > sizes[2].kbps


def test_the_answers_of_the_lesson_are_what_a_person_would_compute() -> None:
    assert {str(case): case.expected for case in crowds()}["16 people, mesh"] == 240
    assert [case.expected for case in rooms()] == ["f", "f", "h", "h", "q", "q"]
