"""Ticks beside other events: one loop hears attempts, updates and the word to stop.

Where Go selects from several channels, Python gets from one queue that all of them feed.
"""

from dataclasses import dataclass
from queue import Queue

from retryexec import CancelToken, ConstantBackoff, Ticker


@dataclass(frozen=True)
class Update:
    text: str


@dataclass(frozen=True)
class Stopped:
    pass


Event = float | Update | Stopped  # a tick is the clock's time, a float


def main() -> None:
    events: Queue[Event] = Queue()
    token = CancelToken(timeout=30)
    token.on_cancel(lambda: events.put(Stopped()))  # at the deadline, too
    with Ticker(ConstantBackoff(0.02), cancel=token) as ticker:
        ticker.feed(events.put)  # from a thread of the ticker's own, until it ends
        events.put(Update("the configuration has changed"))
        attempts = 0
        while True:
            match events.get():
                case Update(text):
                    print(f"update: {text}")
                case Stopped():
                    print("stopped")
                    break
                case _:
                    attempts += 1
                    print(f"attempt {attempts}")
                    if attempts == 3:  # as many as it happens to take
                        token.cancel()


if __name__ == "__main__":
    main()
