"""HTTP/3 by curl_cffi: libcurl with ngtcp2 over BoringSSL, as a browser's fingerprint has it."""

from concurrent.futures import ThreadPoolExecutor

from curl_cffi import CurlHttpVersion, CurlInfo, CurlOpt, requests

from h3_common import BASE, BIG, CA, HOST, PARALLEL, PORT, POSTED, check, done, scale


def session():
    return requests.Session(
        http_version=CurlHttpVersion.V3ONLY,
        verify=CA,
        timeout=60,
        curl_options={CurlOpt.RESOLVE: ["%s:%d:127.0.0.1" % (HOST, PORT)]},
    )


one = session()


def ask(path, body=None, by=None):
    by = by or one
    response = by.get(BASE + path) if body is None else by.post(BASE + path, data=body)
    assert response.status_code == 200, response.status_code
    assert response.http_version in (CurlHttpVersion.V3, CurlHttpVersion.V3ONLY), response.http_version
    return response


def equal(got, expected):
    assert got == expected, "%d bytes" % len(got)


def parallel():
    # A session's handle does one thing at a time, so each thread has its own connection.
    def some(worker):
        with session() as own:
            return [ask("/n/%d" % n, by=own).content == b"/n/%d" % n for n in range(worker, PARALLEL, 10)]

    with ThreadPoolExecutor(10) as pool:
        assert all(all(fine) for fine in pool.map(some, range(10)))


def trailers():
    response = ask("/trailers")
    assert response.content == b"body" and response.headers.get("x-sum") == "42", response.headers


def survives():
    ask("/before")
    port = one.curl.getinfo(CurlInfo.LOCAL_PORT)
    scale()
    for n in range(20):
        equal(ask("/after/%d" % n).content, b"/after/%d" % n)
    assert one.curl.getinfo(CurlInfo.LOCAL_PORT) == port, "it connected again"


check("small", lambda: equal(ask("/small").content, b"/small"))
check("big", lambda: equal(ask("/big").content, BIG))
check("post", lambda: equal(ask("/echo", POSTED).content, POSTED))
check("parallel", parallel)
check("trailers", trailers)
check("survives", survives)
done()
