"""Calls one method of echo.Echo and prints what comes of it: grpc_client.py ADDRESS METHOD KIND."""

import itertools
import sys
import time

import grpc

address, method, kind = sys.argv[1:]
options = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
]
channel = grpc.insecure_channel(address, options=options)
path = "/echo.Echo/" + method


def endless():
    for number in itertools.count():
        yield str(number).encode()
        time.sleep(0.02)


try:
    if kind == "unary":
        print([channel.unary_unary(path)(b"0", timeout=15).decode()])
    elif kind == "large":
        print([len(channel.unary_unary(path)(b"x" * 3_000_000, timeout=15))])
    elif kind == "stream":
        requests = (str(number).encode() for number in range(5))
        print([answer.decode() for answer in channel.stream_stream(path)(requests, timeout=15)])
    elif kind == "endless":
        for answer in channel.stream_stream(path)(endless(), timeout=60):
            print(answer.decode(), flush=True)
except grpc.RpcError as error:
    print(error.code().name, error.details(), flush=True)
