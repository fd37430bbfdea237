"""How a ticker behaves: its first tick, its end, a slow consumer, a backoff that two share.

On virtual clocks, so that the times are exact and nobody waits for them.
"""

from retryexec import CancelToken, ConstantBackoff, Ticker
from retryexec.testing import VirtualClock


def the_first_tick_comes_at_once() -> None:
    token = CancelToken()
    token.cancel()
    clock = VirtualClock()
    print("cancelled before it began:", list(Ticker([1, 2], cancel=token, clock=clock)))


def it_ends_with_the_sequence_or_by_stop_or_by_the_token() -> None:
    print("the sequence ends:", list(Ticker([1, 2], clock=VirtualClock())))

    ticker = Ticker(ConstantBackoff(1), clock=VirtualClock())
    ticks = []
    for tick in ticker:
        ticks.append(tick)
        if tick == 2:
            ticker.stop()  # any number of times, from any thread
    print("stopped:", ticks)

    clock = VirtualClock()
    token = CancelToken(timeout=2.5, clock=clock)
    print("out of time:", list(Ticker(ConstantBackoff(1), cancel=token, clock=clock)))


def a_slow_consumer_finds_one_tick_waiting() -> None:
    clock = VirtualClock()
    ticks = []
    for tick in Ticker(ConstantBackoff(1).take(3), clock=clock):
        ticks.append(tick)
        if tick == 0:
            clock.advance(5)  # the work takes five seconds: one tick waits, not five
    print("slow at first:", ticks)


def a_backoff_may_be_shared() -> None:
    backoff = ConstantBackoff(1).take(1)  # a frozen value: each ticker iterates it anew
    tickers = [Ticker(backoff, clock=VirtualClock()) for _ in range(2)]
    print("two tickers, one backoff:", [list(ticker) for ticker in tickers])


if __name__ == "__main__":
    the_first_tick_comes_at_once()
    it_ends_with_the_sequence_or_by_stop_or_by_the_token()
    a_slow_consumer_finds_one_tick_waiting()
    a_backoff_may_be_shared()
