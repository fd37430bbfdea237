"""An HTTP client that tries again after a server's error, and not after its own (4xx)."""

from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from fetch import busy_server  # the example next to this one: busy once, then well

from retryexec import CancelToken, ExponentialBackoff, Ticker


def fetch_with_retry(url: str, token: CancelToken) -> bytes:
    """Return what is at *url*; raise HTTPError for a 4xx, TimeoutError if *token* ends it."""
    with Ticker(ExponentialBackoff(initial_interval=0.05), cancel=token) as ticker:
        for _ in ticker:
            try:
                with urlopen(url, timeout=token.remaining()) as response:
                    return bytes(response.read())
            except HTTPError as error:
                with error:  # an answer too, with a connection to close
                    if error.code < 500:
                        raise  # asking again would get the same answer
                    print(f"server error {error.code}, retrying")
            except URLError as error:
                print(f"request failed: {error.reason}, retrying")
    raise TimeoutError(url)


def main() -> None:
    with busy_server() as address:
        token = CancelToken(timeout=2 * 60)
        print(fetch_with_retry(f"{address}/news", token).decode())
        try:
            fetch_with_retry(f"{address}/missing", token)
        except HTTPError as error:
            print(f"client error: {error.code}")


if __name__ == "__main__":
    main()
