"""HTTP/3 by libcurl, with ngtcp2 and nghttp3."""

import io
import sys

import pycurl

from h3_common import BASE, BIG, CA, HOST, PARALLEL, PORT, POSTED, check, done, say, scale

HTTP_3_ONLY = 31
HTTP_3 = 30
INFO_HTTP_VERSION = 0x200000 + 46

if not pycurl.version_info()[4] & (1 << 25):
    say("skip all: this libcurl has no HTTP/3: %s" % pycurl.version)
    sys.exit(1)


class Request:
    def __init__(self, path, body=None):
        self.body, self.fields = io.BytesIO(), []
        self.curl = curl = pycurl.Curl()
        curl.setopt(curl.URL, BASE + path)
        curl.setopt(curl.RESOLVE, ["%s:%d:127.0.0.1" % (HOST, PORT)])
        curl.setopt(curl.CAINFO, CA)
        curl.setopt(curl.HTTP_VERSION, HTTP_3_ONLY)
        curl.setopt(curl.TIMEOUT, 60)
        curl.setopt(curl.WRITEDATA, self.body)
        curl.setopt(curl.HEADERFUNCTION, lambda line: self.fields.append(line.decode().strip().lower()))
        curl.setopt(pycurl.PIPEWAIT, 1)
        if body is not None:
            curl.setopt(curl.POST, 1)
            curl.setopt(curl.POSTFIELDSIZE, len(body))
            curl.setopt(curl.READDATA, io.BytesIO(body))

    def verify(self):
        assert self.curl.getinfo(pycurl.RESPONSE_CODE) == 200, self.curl.getinfo(pycurl.RESPONSE_CODE)
        assert self.fields[0].startswith("http/3 200"), self.fields
        return self.body.getvalue()


multi = pycurl.CurlMulti()
multi.setopt(pycurl.M_PIPELINING, 2)
multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 1)
connects = 0


def run(requests):
    """All of them at once, on the one connection."""
    global connects
    for request in requests:
        multi.add_handle(request.curl)
    failed, left = [], len(requests)
    while left:
        while multi.perform()[0] == pycurl.E_CALL_MULTI_PERFORM:
            pass
        queued = 1
        while queued:
            queued, fine, broken = multi.info_read()
            left -= len(fine) + len(broken)
            failed += [text for _, _, text in broken]
        if left:
            multi.select(0.5)
    connects += sum(request.curl.getinfo(pycurl.NUM_CONNECTS) for request in requests)
    for request in requests:
        multi.remove_handle(request.curl)
    assert not failed, failed
    return [request.verify() for request in requests]


def ask(path, body=None):
    return run([Request(path, body)])[0]


def equal(got, expected):
    assert got == expected, "%d bytes" % len(got)


def parallel():
    bodies = run([Request("/n/%d" % n) for n in range(PARALLEL)])
    assert bodies == [b"/n/%d" % n for n in range(PARALLEL)]


def trailers():
    request = Request("/trailers")
    assert run([request]) == [b"body"] and "x-sum: 42" in request.fields, request.fields


def survives():
    before = connects
    scale()
    for n in range(20):
        equal(ask("/after/%d" % n), b"/after/%d" % n)
    assert connects == before, "it connected again"


check("small", lambda: equal(ask("/small"), b"/small"))
check("big", lambda: equal(ask("/big"), BIG))
check("post", lambda: equal(ask("/echo", POSTED), POSTED))
check("parallel", parallel)
check("trailers", trailers)
check("survives", survives)
done()
