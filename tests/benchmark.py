"""How fast the call is: python tests/benchmark.py  (about five minutes; --rounds 1 for a first look).

Prints medians and ratios from one run in which the variants take turns, for figures of different runs do not compare.
Every variant carries the same pictures at 30 a second:

    loopback     this program
    stock        the same with aiortc's own jitter buffer
    codec        convert, encode, decode, convert, and no network; the codec called as aiortc calls it, in threads
    one thread   the same without the threads: each hand-over costs some 0.3 ms, which aiortc does not let us save
"""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import argparse
import asyncio
import gc
import importlib.util
import io
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame

PROJECT = Path(loopback.__file__).resolve().parent
SIZES = ((320, 240), (640, 480), (1280, 720))
FPS = 30
WARM_UP = 0.7  # s: the first second of a call has a key frame and finds its bit rate


@dataclass
class Figures:
    """What one turn of one variant measured."""

    delays: list[float]  # s
    cpu: float  # s of processor time of the process for one picture, drawing it included
    sent: int
    received: int
    first_frame: float | None = None  # s from making the peers


async def call(size: tuple[int, int], seconds: float, *, marker_bit: bool = True) -> Figures:
    """Measure a whole call."""
    one = loopback.Call(loopback.SyntheticSource(*size, FPS), marker_bit=marker_bit)
    try:
        await one.run()
        await asyncio.sleep(WARM_UP)
        cpu, before, known = time.process_time(), one.meter.received, len(one.meter.delays)
        await asyncio.sleep(seconds)
        cpu = (time.process_time() - cpu) / max(1, one.meter.received - before)
        delays = list(one.meter.delays)[known:]
        await one.finish()
        return Figures(delays, cpu, one.meter.sent, one.meter.received, one.after("first picture"))
    finally:
        await one.close()


async def codec_alone(size: tuple[int, int], seconds: float, *, threads: bool) -> Figures:
    """Measure convert, encode, decode, convert, at the pace of a call: a processor that sleeps in between is slower."""

    async def do(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments) if threads else function(*arguments)

    source, encoder, decoder = loopback.SyntheticSource(*size, FPS), Vp8Encoder(), Vp8Decoder()
    delays: list[float] = []
    cpu = time.process_time()
    warm, count = round(WARM_UP * FPS), round((WARM_UP + seconds) * FPS)
    for number in range(count):
        if number == warm:
            cpu = time.process_time()
        picture, start = await source.next()
        frame = loopback.to_frame(picture)
        frame.pts, frame.time_base = number * 3000, Fraction(1, 90000)
        payloads, timestamp = await do(encoder.encode, frame)
        data = b"".join(vp8_depayload(payload) for payload in payloads)
        for decoded in await do(decoder.decode, JitterFrame(data=data, timestamp=timestamp)):
            loopback.to_picture(decoded)
        delays.append(time.perf_counter() - start)
    return Figures(delays[warm:], (time.process_time() - cpu) / (count - warm), count, count)


def by_size(rounds: int, seconds: float) -> None:
    """Print delay, processor time and losses of the variants at three sizes."""
    turns: dict[tuple[tuple[int, int], str], list[Figures]] = defaultdict(list)
    for _ in range(rounds):
        for size in SIZES:
            turns[size, "loopback"].append(asyncio.run(call(size, seconds)))
            turns[size, "stock"].append(asyncio.run(call(size, seconds, marker_bit=False)))
            turns[size, "codec"].append(asyncio.run(codec_alone(size, seconds, threads=True)))
            turns[size, "one thread"].append(asyncio.run(codec_alone(size, seconds, threads=False)))
    print(f"\n{rounds} rounds of {seconds:g} s, VP8, {FPS} pictures/s; delay: capture to decoded picture, median\n")
    print("size       variant        delay ms  ratio   cpu ms/picture  ratio   first picture ms   sent  received")
    for size in SIZES:
        ours = turns[size, "loopback"]
        for variant in ("loopback", "stock", "codec", "one thread"):
            figures = turns[size, variant]
            firsts = [f.first_frame * 1000 for f in figures if f.first_frame]
            print(
                f"{size[0]}x{size[1]:<6} {variant:<13} {delay(figures):8.2f} {delay(ours) / delay(figures):5.2f}x"
                f"{cpu(figures):16.2f} {cpu(ours) / cpu(figures):6.2f}x"
                f"{f'{statistics.median(firsts):.0f}' if firsts else '':>18}"
                f"{sum(f.sent for f in figures):8} {sum(f.received for f in figures):8}"
            )
    print("\nratio: loopback divided by this variant")


def delay(figures: list[Figures]) -> float:
    """Return the median delay in ms."""
    return statistics.median(delay for f in figures for delay in f.delays) * 1000


def cpu(figures: list[Figures]) -> float:
    """Return the median of the turns' processor time for a picture, in ms."""
    return statistics.median(f.cpu for f in figures) * 1000


def from_process_start(rounds: int) -> None:
    """Print how long it takes from typing the command to the first picture at pc2."""
    took = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            command = [sys.executable, str(Path(loopback.__file__).resolve()), "--view", "none", "--seconds", "0.2"]
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if "first picture" in line:
                        took.append(time.perf_counter() - start)
    print(f"\nprocess start to first remote picture: {statistics.median(took) * 1000:.0f} ms, median of {rounds}")


async def together(number: int, seconds: float) -> None:
    """Print delay, processor time and memory of that many calls at once, at 320x240."""

    def memory() -> float:  # MB; pages in use now, where the system tells
        statm = Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    before = memory()
    calls = [loopback.Call(loopback.SyntheticSource(320, 240, FPS)) for _ in range(number)]
    try:
        await asyncio.gather(*(one.run() for one in calls))
        await asyncio.sleep(WARM_UP)
        known, cpu = [len(one.meter.delays) for one in calls], time.process_time()
        await asyncio.sleep(seconds)
        cpu = (time.process_time() - cpu) / seconds
        delays = [d for one, n in zip(calls, known, strict=True) for d in list(one.meter.delays)[n:]]
        grown = memory() - before
        print(
            f"{number:5} {statistics.median(delays) * 1000:10.2f} {cpu * 100:10.0f} % of a core "
            f"{grown:8.0f} MB {len(delays) / seconds / number:10.1f} pictures/s each"
        )
    finally:
        await asyncio.gather(*(one.close() for one in calls))


async def through_the_server(rounds: int, seconds: float) -> None:
    """Print how a call between two programs through the phone's server compares with one in this process, taking turns,
    video both ways in each: from the sent offer to the first picture, and the delay of the pictures."""
    from phone.measure import one_call, two_programs

    size, ours, theirs = (640, 480), list[tuple[float, float]](), list[tuple[float, float]]()
    async with two_programs(size) as url:
        for _ in range(rounds):
            source, back = (loopback.SyntheticSource(*size, FPS) for _ in range(2))
            one = loopback.Call(source, back=back)
            try:
                await one.run()
                await asyncio.sleep(WARM_UP)
                known = len(one.meter.delays)
                await asyncio.sleep(seconds)
                at = {(event.who, event.what): event.t for event in one.log.events}
                setup = at["pc1", "first picture"] - at["pc1", "send offer"]  # pc1's, as the caller's is below
                ours.append((setup, statistics.median(list(one.meter.delays)[known:])))
            finally:
                await one.close()
            measured = await one_call(url, size, seconds)
            theirs.append((measured.setup, statistics.median(measured.delays)))
    print("\n640x480, both ways  offer to first picture ms   delay ms")
    for name, turns in (("in one process", ours), ("by the server*", theirs)):
        setups, delays = zip(*turns, strict=True)
        print(f"{name} {statistics.median(setups) * 1000:30.0f} {statistics.median(delays) * 1000:14.1f}")
    print("* and with sound: three programs, where the other is one")


def with_a_page() -> None:
    """Print the delay between Python and a page in Chromium, both ways, as its test measures it."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/phone/test_delay.py"]
    ended = subprocess.run([*command, "-k", "reads"], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    print("\nthe phone's page, in Chromium")
    print("\n".join(re.findall(r"(?:Python to page|page to Python).*p50.*", ended.stdout)) or ended.stdout)


async def window(seconds: float) -> None:
    """Print the processor time of drawing the window's picture, and the program's share of a core in a call and idle:
    with a window where there is a display, else drawn all the same."""
    session = loopback.Session(loopback.parse(["--seconds", "600"]))
    session.console.stream = io.StringIO()
    draw, drawn = session.view.draw, list[float]()

    def timed(*arguments: Any, **options: Any) -> Any:
        before = time.thread_time()
        picture = draw(*arguments, **options)
        drawn.append(time.thread_time() - before)
        return picture

    async def share_of_a_core() -> float:
        await asyncio.sleep(WARM_UP)
        drawn.clear()
        before = time.process_time()
        for _ in range(round(seconds * FPS)):
            await asyncio.sleep(1 / FPS)
            if not session.window:
                session._draw()
        return (time.process_time() - before) / seconds * 100

    session.view.draw = timed  # type: ignore[method-assign]
    running = asyncio.create_task(session.run())
    try:
        while session.action or not (session.live and session.live.meter.received):
            await asyncio.sleep(0.05)
        in_call = await share_of_a_core()
        where = "" if session.window else ", without a display"
        print("\nthe window, {1}x{0}{2}: drawing".format(*session.view.shape[:2], where), end=" ")
        print(f"{statistics.median(drawn) * 1000:.2f} ms of processor time a picture; the program, of a core:")
        print(f"{in_call:.0f} % in a call", end=", ")
        session.press("h")
        print(f"{await share_of_a_core():.1f} % after hanging up")
    finally:
        session.press("q")
        await running


def lessons() -> None:
    """Print how long running all lessons takes."""
    needed = ("jupyter", "matplotlib", "nbclient", "psutil")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        print(f"\nThe lessons are left out: {', '.join(missing)} not installed. To measure them too:")
        print(f"{sys.executable} -m pip install -c constraints.txt -e '.[notebooks]'")
        return
    print("\nthe lessons, each in a kernel of its own, its start included\n", flush=True)
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, str(PROJECT / "notebooks" / "render.py"), "--check"])
    outcome = "" if ended.returncode == 0 else ", but not all is as it should be: see above"
    print(f"together: {time.perf_counter() - start:.0f} s{outcome}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--together", type=int, metavar="N", help="only N calls at once, in this process")
    options = parser.parse_args()
    gc.freeze()  # as the program does
    if options.together:
        asyncio.run(together(options.together, options.seconds))
        return
    by_size(options.rounds, options.seconds)
    from_process_start(options.rounds + 2)
    print("\ncalls at once, 320x240, each number in a process of its own")
    print("\ncalls   delay ms        cpu             memory", flush=True)
    for number in (1, 2, 4, 8):
        command = [sys.executable, __file__, "--together", str(number), "--seconds", str(options.seconds)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)})
    asyncio.run(window(options.seconds))
    if missing := [name for name in ("aiohttp", "playwright", "pytest") if importlib.util.find_spec(name) is None]:
        print(f"\nThe phone is left out: {', '.join(missing)} not installed (pip install -e '.[test]')")
    else:
        sys.path.append(str(PROJECT / "notebooks"))
        asyncio.run(through_the_server(options.rounds, options.seconds))
        with_a_page()
    lessons()


if __name__ == "__main__":
    main()
