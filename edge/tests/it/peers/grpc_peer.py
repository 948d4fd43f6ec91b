"""A grpcio server, and a grpcio client that asks it through a gateway.

Prints `port N`, reads `gateway HOST:PORT` and prints `ok NAME` or `failed NAME WHY` for each case.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    context.set_trailing_metadata((("sum", str(len(request))),))
    return request


def refuse(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % é")


def count(request, context):
    for n in range(int(request)):
        yield str(n).encode()


def collect(requests, context):
    return b",".join(requests)


def echo(requests, context):
    for request in requests:
        yield request


def slow(request, context):
    context.add_callback(cancelled.set)
    while context.is_active() and not cancelled.wait(0.01):
        pass
    return b"late"


def budget(request, context):
    return str(context.time_remaining()).encode()


def half(request, context):
    yield b"half"
    context.abort(grpc.StatusCode.DATA_LOSS, "the other half is gone")


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Budget": grpc.unary_unary_rpc_method_handler(budget),
    "Half": grpc.unary_stream_rpc_method_handler(half),
}


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def cases(channel):
    def method(kind, name):
        return getattr(channel, kind)(f"/test.Peer/{name}")

    def case_unary():
        answer, call = method("unary_unary", "Unary").with_call(b"hello", timeout=20)
        assert answer == b"hello", answer
        assert ("sum", "5") in [tuple(pair) for pair in call.trailing_metadata()]

    def case_empty_message():
        assert method("unary_unary", "Unary")(b"", timeout=20) == b""

    def case_large_messages():
        message = b"x" * (3 << 20)
        assert method("unary_unary", "Unary")(message, timeout=60) == message

    def case_server_stream():
        got = list(method("unary_stream", "Count")(b"1000", timeout=60))
        assert got == [str(n).encode() for n in range(1000)], len(got)

    def case_client_stream():
        parts = [str(n).encode() for n in range(1000)]
        assert method("stream_unary", "Collect")(iter(parts), timeout=60) == b",".join(parts)

    def case_both_streams():
        # Each message is sent when the one before it has come back.
        came = threading.Semaphore(1)

        def ask():
            for n in range(200):
                came.acquire()
                yield str(n).encode()

        for n, answer in enumerate(method("stream_stream", "Echo")(ask(), timeout=60)):
            assert answer == str(n).encode()
            came.release()
        assert n == 199, n

    def case_status():
        code, details = code_of(lambda: method("unary_unary", "Refuse")(b"", timeout=20))
        assert code == grpc.StatusCode.FAILED_PRECONDITION, code
        assert details == "not today: 100 % é", details

    def case_status_after_messages():
        got = []

        def read():
            for message in method("unary_stream", "Half")(b"", timeout=20):
                got.append(message)

        code, _ = code_of(read)
        assert (code, got) == (grpc.StatusCode.DATA_LOSS, [b"half"]), (code, got)

    def case_deadline():
        cancelled.clear()
        began = time.monotonic()
        code, _ = code_of(lambda: method("unary_unary", "Slow")(b"", timeout=0.5))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
        assert time.monotonic() - began < 10
        assert cancelled.wait(20), "the server was not told"

    def case_deadline_is_passed_on():
        left = float(method("unary_unary", "Budget")(b"", timeout=30))
        assert 1 < left < 31, left

    def case_cancel():
        cancelled.clear()
        call = method("unary_unary", "Slow").future(b"", timeout=60)
        time.sleep(0.2)
        call.cancel()
        assert cancelled.wait(20), "the server was not told"

    def case_no_such_method():
        code, _ = code_of(lambda: method("unary_unary", "Nothing")(b"", timeout=20))
        assert code == grpc.StatusCode.UNIMPLEMENTED, code

    def case_no_route():
        call = channel.unary_unary("/elsewhere.Peer/Unary")
        code, details = code_of(lambda: call(b"", timeout=20))
        assert code == grpc.StatusCode.UNIMPLEMENTED, code
        assert details == "no match holds for this request", details

    def case_dead_upstream():
        call = channel.unary_unary("/dead.Peer/Unary")
        code, details = code_of(lambda: call(b"", timeout=20))
        assert code == grpc.StatusCode.UNAVAILABLE, code
        assert details == "the upstream cannot be reached", details

    found = dict(locals())
    return [(name[5:], case) for name, case in found.items() if name.startswith("case_")]


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"port {port}", flush=True)
    gateway = sys.stdin.readline().split()[1]
    failed = False
    with grpc.insecure_channel(gateway) as channel:
        for name, case in cases(channel):
            try:
                case()
                print(f"ok {name}", flush=True)
            except Exception as error:
                failed = True
                print(f"failed {name} {type(error).__name__} {error!r}", flush=True)
    server.stop(None)
    sys.exit(failed)


main()
