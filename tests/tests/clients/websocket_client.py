"""Talks to an echo and prints what comes of it: websocket_client.py URL once|wait."""

import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

url, what = sys.argv[1:]
try:
    with connect(url, max_size=None) as connection:
        if what == "wait":
            connection.send("hello")
            connection.recv()
            print("open", flush=True)
            connection.recv(timeout=60)
            sys.exit("nobody sends anything")
        lengths = []
        for message in ["hello", b"x" * 2_000_000]:
            connection.send(message)
            lengths.append(str(len(connection.recv(timeout=15))))
    print(*lengths, "closed", connection.close_code)
except InvalidStatus as error:
    print(error.response.status_code, error.response.body.decode())
except ConnectionClosed as error:
    # 1006: without a closing handshake.
    code = error.rcvd.code if error.rcvd else None
    print("broken off" if code is None else f"closed {code}", flush=True)
