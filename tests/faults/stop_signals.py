"""Asked to stop: SIGTERM, SIGUSR1 and Ctrl-C save, exit with a known code, and the same command goes on."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults.common import Life, Row, command, equal, live, small, whole

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    straight, begun = small(folder / "straight"), time.monotonic()
    assert live(straight, folder)[0] == 0
    longest, draw = 0.8 * (time.monotonic() - begun), random.Random(2)
    for number, code in CODES.items():
        times = 2 if short else 10
        codes, slowest, done, same, once = Counter[int](), 0.0, 0, 0, 0
        asked = 0
        while codes[code] < times and asked < 5 * times:  # some are done before they are asked
            config = small(folder / f"{number.name}{asked}")
            life = Life(command(config, folder), folder / f"{number.name}{asked}.txt")
            while "step 0:" not in life.words() and "images of" not in life.words():  # the handlers stand by then
                time.sleep(0.01)
            time.sleep(draw.uniform(0, longest))
            life.signal(number)
            sent = time.monotonic()
            found = life.wait()
            if found < 0:  # as a shell shows it: the run was over, its report was being written
                found = 128 - found
            slowest = max(slowest, time.monotonic() - sent)
            asked += 1
            codes[found] += 1
            again, words = live(config, folder)
            assert again == 0, words[-1000:]
            done += 1
            same += equal(straight.out, config.out)
            once += whole(config.out)
        ended = ", ".join(f"{count} with code {one}" for one, count in sorted(codes.items()))
        yield Row(
            "Preemption",
            f"{number.name} at a random moment; the same command again",
            asked,
            f"ended {ended}, at most {slowest:.1f} s later; {same} of {done} runs bit-equal, {once} with each step once",
            "nothing" if same == done else "weights",
            same == once == done and set(codes) <= {code, 0} and codes[code] == times,
        )
