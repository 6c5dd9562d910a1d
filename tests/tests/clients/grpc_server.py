"""A gRPC service without a schema: every method of echo.Echo answers what it is sent."""

import sys
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method.endswith("Talk"):
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, context: (b"echo " + request for request in requests)
            )
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"echo " + request)


server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=8),
    options=[("grpc.max_receive_message_length", -1)],
)
server.add_generic_rpc_handlers((Echo(),))
server.add_insecure_port("[::]:" + sys.argv[1])
server.start()
server.wait_for_termination()
