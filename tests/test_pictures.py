"""Pictures: the time code and what it survives, the conversion of any size, the stopwatch."""

import itertools
from collections.abc import Iterator
from fractions import Fraction

import cv2
import faults
import numpy as np
import pytest
from aiortc.codecs import depayload, get_decoder, get_encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from faults import Clock
from hypothesis import given
from hypothesis import strategies as st

from loopback import (
    CELL,
    CODE_AREA,
    CODE_COLUMNS,
    CODE_ROWS,
    Meter,
    Picture,
    RtpClock,
    SyntheticSource,
    read_time_code,
    to_frame,
    to_picture,
    write_time_code,
)


@pytest.fixture
def clock() -> Iterator[Clock]:
    with faults.clock() as mine:
        yield mine


def grey(width: int = 160, height: int = 120) -> Picture:
    return np.full((height, width, 3), 90, np.uint8)


def coded(number: int) -> Picture:
    picture = grey()
    write_time_code(picture, number)
    return picture


# ---- Time code -------------------------------------------------------------------------------------------------------


def test_every_number_comes_back() -> None:
    picture = grey(132, 20)  # the smallest
    for number in range(65536):
        write_time_code(picture, number)
        assert read_time_code(picture) == number


@given(st.integers(0, 2**64))
def test_numbers_wrap_at_65536(number: int) -> None:
    assert read_time_code(coded(number)) == number % 65536


def test_time_code_touches_nothing_else() -> None:
    picture = coded(12345)
    picture[CODE_AREA] = 90
    assert np.array_equal(picture, grey())


def test_codes_differ_from_number_to_number() -> None:
    assert all((coded(number) != coded(number + 1)).any() for number in range(500))


@pytest.mark.parametrize("number", [0, 1, 255, 256, 21845, 32768, 54321, 65535])
@pytest.mark.parametrize("errors", [1, 2])
def test_no_one_or_two_wrong_cells_are_read_as_another_number(number: int, errors: int) -> None:
    picture = coded(number)
    for cells in itertools.combinations(range(CODE_ROWS * CODE_COLUMNS), errors):
        damaged = picture.copy()
        for cell in cells:
            row, column = (4 + CELL * part for part in divmod(cell, CODE_COLUMNS))
            damaged[row : row + CELL, column : column + CELL] = 255 - damaged[row : row + CELL, column : column + CELL]
        assert read_time_code(damaged) is None


@pytest.mark.parametrize("colour", [0, 255])
def test_a_blank_picture_has_no_number(colour: int) -> None:
    assert read_time_code(np.full((120, 160, 3), colour, np.uint8)) is None


def test_noise_is_hardly_ever_read() -> None:
    noise = np.random.default_rng(1)
    read = [read_time_code(noise.integers(0, 256, (24, 140, 3), np.uint8)) for _ in range(1000)]
    cells = [noise.integers(0, 2, (CODE_ROWS, CODE_COLUMNS, 1), np.uint8) * np.uint8(255) for _ in range(2000)]
    for pattern in cells:  # noise as coarse as the code itself: one in 65536 is read
        picture = grey()
        picture[CODE_AREA] = pattern.repeat(CELL, 0).repeat(CELL, 1)
        read.append(read_time_code(picture))
    assert sum(number is not None for number in read) <= 1


@given(st.integers(0, 40), st.integers(0, 200))
def test_pictures_too_small_have_no_number(height: int, width: int) -> None:
    picture = np.full((height, width, 3), 255, np.uint8)
    assert read_time_code(picture) is None
    if height >= 20 and width >= 132:
        write_time_code(picture, 77)
        assert read_time_code(picture) == 77


def through(codec: str, bitrate: int, pictures: list[Picture]) -> list[Picture]:
    """Encode and decode pictures with aiortc's own classes, at that many bits a second and 30 pictures a second."""
    parameters = RTCRtpCodecParameters(
        mimeType=f"video/{codec}",
        clockRate=90000,
        payloadType=97,
        parameters={"packetization-mode": "1"} if codec == "H264" else {},
    )
    encoder, decoder = get_encoder(parameters), get_decoder(parameters)
    encoder.target_bitrate = bitrate  # type: ignore[attr-defined]
    decoded: list[Picture] = []
    for number, picture in enumerate(pictures):
        frame = to_frame(picture)
        frame.pts, frame.time_base = number * 3000, Fraction(1, 90000)
        payloads, timestamp = encoder.encode(frame)
        data = b"".join(depayload(parameters, payload) for payload in payloads)
        decoded += [to_picture(output) for output in decoder.decode(JitterFrame(data, timestamp))]  # type: ignore[arg-type]
    return decoded


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (640, 480)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_time_code_survives_compression(size: tuple[int, int]) -> None:
    """In both codecs, at the least and the most bits a second that aiortc uses for VP8, and between."""
    source, first = SyntheticSource(*size, 30), 65400  # across the wrap
    pictures = [source.draw(number / 30) for number in range(200)]
    for number, picture in enumerate(pictures, first):
        write_time_code(picture, number)
    wanted = [number % 65536 for number in range(first, first + 200)]
    for codec, bitrate in itertools.product(["VP8", "H264"], [250_000, 500_000, 1_500_000]):
        decoded = through(codec, bitrate, pictures)
        assert [read_time_code(picture) for picture in decoded] == wanted, (codec, bitrate)
        least = min(cv2.PSNR(*pair) for pair in zip(decoded, pictures, strict=True))
        assert least > 18, f"{codec} at {bitrate}: blurred away"
        assert not all(np.array_equal(*pair) for pair in zip(decoded, pictures, strict=True)), "it was not compressed"


# ---- Colour ----------------------------------------------------------------------------------------------------------

SIZES = [
    (160, 120),
    (161, 121),
    (160, 121),
    (161, 120),
    (132, 20),
    (133, 21),
    (319, 241),
    (641, 479),
    (2, 2),
    (3, 3),
    (1, 1),
]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_of_any_size_come_back(width: int, height: int) -> None:
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([40 + 150 * x / width, 30 + 180 * y / height, 200 - 150 * x / width], 2).astype(np.uint8)
    frame = to_frame(picture)
    even = (width + width % 2, height + height % 2)
    assert (frame.width, frame.height, frame.format.name) == (*even, "yuv420p")
    whole = to_picture(frame)
    assert (whole.shape, whole.dtype) == ((*even[::-1], 3), np.uint8)
    back = whole[:height, :width]
    error = np.abs(back.astype(int) - picture)
    # Small pictures: one colour for 2 x 2 pixels of a steep slope.
    assert error.mean() < (2.5 if min(width, height) > 100 else 60)
    if width > 100 and height > 100:
        edge = np.concatenate([error[-1].ravel(), error[:, -1].ravel()])
        assert edge.mean() < 4, "the last row or column is torn"


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_plain_colours_come_back_in_any_size(width: int, height: int, blue: int, green: int, red: int) -> None:
    picture = np.full((height, width, 3), (blue, green, red), np.uint8)
    seen = to_picture(to_frame(picture)).astype(int)
    assert np.abs(seen - (blue, green, red)).max() <= 6


@given(st.integers(1, 70), st.integers(1, 70))
def test_an_odd_last_row_or_column_is_doubled(width: int, height: int) -> None:
    picture = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), np.uint8)
    before = picture.copy()
    doubled = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.array_equal(to_frame(picture).to_ndarray(), to_frame(doubled).to_ndarray())
    assert np.array_equal(picture, before)


@pytest.mark.parametrize("codec", ["VP8", "H264"])
@pytest.mark.parametrize("size", [(161, 121), (160, 121), (160, 120)])
def test_odd_sizes_survive_the_codec(size: tuple[int, int], codec: str) -> None:
    width, height = size
    source = SyntheticSource(*size, 30)
    pictures = [source.draw(number / 30) for number in range(20)]
    decoded = through(codec, 1_500_000, pictures)
    assert {picture.shape for picture in decoded} == {(height + height % 2, width + width % 2, 3)}
    seen = [picture[:height, :width] for picture in decoded]
    assert min(cv2.PSNR(*pair) for pair in zip(seen, pictures, strict=True)) > 22


# ---- The stopwatch ---------------------------------------------------------------------------------------------------


def test_meter_times_a_picture_from_capture_to_arrival(clock: Clock) -> None:
    meter = Meter()
    numbers = [meter.on_sent(clock.now + later) for later in (0.0, 0.1, 0.2, 0.3)]
    for number, taken in zip(numbers, (0.25, 0.5, 0.125, 0.0625), strict=True):  # in any order
        clock.now = 1000 + 0.1 * number + taken
        meter.on_received(coded(number))
    assert list(meter.delays) == pytest.approx([0.25, 0.5, 0.125, 0.0625])
    assert (meter.sent, meter.received, meter.misread) == (4, 4, 0)
    assert meter.latency_ms == {"p50": 187.5, "p95": pytest.approx(462.5), "max": 500.0}


def test_meter_counts_what_it_cannot_place_as_misread_and_never_as_a_delay() -> None:
    meter = Meter()
    number = meter.on_sent(1000.0)
    for picture in (grey(), coded(number + 1), coded(40000)):  # unreadable, not sent yet, never sent
        meter.on_received(picture)
    assert (meter.received, meter.misread, len(meter.delays)) == (3, 3, 0)
    assert meter.latency_ms == {"p50": None, "p95": None, "max": None}
    meter.on_received(coded(number))
    meter.on_received(coded(number))  # a duplicate
    assert (meter.received, meter.misread, len(meter.delays)) == (5, 4, 1)


def test_meter_goes_on_where_the_numbers_wrap(clock: Clock) -> None:
    meter = Meter()
    for number in range(65536 + 10):
        clock.now += 1 / 30
        assert meter.on_sent(clock.now - 0.25) == number % 65536
        if number > 65530:
            meter.on_received(coded(number))
    assert (meter.sent, meter.received, meter.misread) == (65546, 15, 0)
    assert list(meter.delays) == pytest.approx([0.25] * 15), "timed with the picture that had this number a lap ago"


def test_lost_pictures_take_no_memory() -> None:
    meter = Meter()
    for _ in range(70_000):
        last = meter.on_sent(1000.0)
    held = [value for value in vars(meter).values() if hasattr(value, "__len__")]
    assert max(map(len, held)) <= 1024
    meter.on_received(coded(last))
    meter.on_received(coded(last - 2000))  # long given up
    assert (len(meter.delays), meter.misread) == (1, 1)


def test_meter_rates_and_prints(clock: Clock) -> None:
    meter = Meter()
    assert (meter.received_fps, meter.recent) == (0.0, (0.0, 0.0))
    assert "0 pictures sent" in repr(meter)
    for _ in range(5):
        number = meter.on_sent(clock.now)
        clock.now += 0.025
        meter.on_received(coded(number))
        clock.now += 0.025
    assert meter.received_fps == pytest.approx(20)
    assert meter.recent == pytest.approx((0.025, 20))
    assert repr(meter) == "5 pictures sent, 5 received, 0 misread, 20.0/s; delay in ms: 25.0 p50, 25.0 p95, 25.0 max"
    clock.now += 0.775  # four pictures in the last second, and then none
    assert meter.recent == pytest.approx((0.025, 4))
    for _ in range(60):
        clock.now += 0.1
        meter.on_received(coded(meter.on_sent(clock.now - 0.01)))
    assert meter.recent == pytest.approx((0.01, 10))  # the last thirty only


@given(st.lists(st.floats(0, 100), max_size=50))
def test_the_clock_of_the_call_never_stands_still_or_goes_back(times: list[float]) -> None:
    clock = RtpClock()
    ticks = [clock.ticks(at) for at in times]
    assert all(later > sooner for sooner, later in itertools.pairwise(ticks))
    assert all(tick >= round((at - times[0]) * 90_000) for at, tick in zip(times, ticks, strict=True))
    assert ticks[:1] in ([], [0])


def test_the_clock_of_the_call_tells_the_time_of_capture() -> None:
    clock = RtpClock()
    assert [clock.ticks(at) for at in (5.0, 5.1, 5.5, 15.5)] == [0, 9_000, 45_000, 945_000]
