"""Sends every message back: websocket_server.py PORT."""

import logging
import sys

from websockets.sync.server import serve

# A look at the port is no handshake, and nothing to complain about.
logging.disable(logging.CRITICAL)


def echo(connection):
    for message in connection:
        connection.send(message)


with serve(echo, "0.0.0.0", int(sys.argv[1]), max_size=None) as server:
    server.serve_forever()
