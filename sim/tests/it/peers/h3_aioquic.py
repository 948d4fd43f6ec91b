"""HTTP/3 by aioquic: its QUIC, its HTTP/3, its QPACK."""

import asyncio

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated

from h3_common import BIG, CA, HOST, PARALLEL, PORT, POSTED, check, done, scale


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            for answer in self.answers.values():
                answer["ended"].set()
        for event in self.http.handle_event(event):
            answer = self.answers.get(getattr(event, "stream_id", None))
            if answer is None:
                continue
            if isinstance(event, HeadersReceived):
                answer["heads"].append(dict(event.headers))
            elif isinstance(event, DataReceived):
                answer["body"] += event.data
            if event.stream_ended:
                answer["whole"] = True
                answer["ended"].set()

    async def ask(self, path, body=None):
        stream = self._quic.get_next_available_stream_id()
        answer = {"heads": [], "body": bytearray(), "whole": False, "ended": asyncio.Event()}
        self.answers[stream] = answer
        head = [
            (b":method", b"GET" if body is None else b"POST"),
            (b":scheme", b"https"),
            (b":authority", ("%s:%d" % (HOST, PORT)).encode()),
            (b":path", path.encode()),
        ]
        if body is not None:
            head.append((b"content-length", str(len(body)).encode()))
        self.http.send_headers(stream, head, end_stream=body is None)
        if body is not None:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        await asyncio.wait_for(answer["ended"].wait(), 60)
        assert answer["whole"], "the connection ended"
        assert answer["heads"][0][b":status"] == b"200", answer["heads"]
        return answer


async def main():
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=HOST)
    configuration.load_verify_locations(CA)
    loop = asyncio.get_running_loop()
    async with connect("127.0.0.1", PORT, configuration=configuration, create_protocol=Client) as client:

        def ask(*args):
            return asyncio.run_coroutine_threadsafe(client.ask(*args), loop).result()

        def parallel():
            async def all_of_them():
                return await asyncio.gather(*(client.ask("/n/%d" % n) for n in range(PARALLEL)))

            answers = asyncio.run_coroutine_threadsafe(all_of_them(), loop).result()
            assert [bytes(a["body"]) for a in answers] == [b"/n/%d" % n for n in range(PARALLEL)]

        def trailers():
            answer = ask("/trailers")
            assert bytes(answer["body"]) == b"body" and answer["heads"][1] == {b"x-sum": b"42"}, answer

        def equal(answer, body):
            assert bytes(answer["body"]) == body, "%d bytes" % len(answer["body"])

        def survives():
            scale()
            for n in range(20):
                equal(ask("/after/%d" % n), b"/after/%d" % n)

        def everything():
            check("small", lambda: equal(ask("/small"), b"/small"))
            check("big", lambda: equal(ask("/big"), BIG))
            check("post", lambda: equal(ask("/echo", POSTED), POSTED))
            check("parallel", parallel)
            check("trailers", trailers)
            check("survives", survives)

        await loop.run_in_executor(None, everything)


asyncio.run(main())
done()
