"""HTTP/3 by Chromium, without a window: a page of the origin's asks and says, and this passes on what it said."""

import base64
import hashlib
import http.client
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from h3_common import CA, HOST, PORT, say, scale

# Chromium does not know the CA, and takes the certificate of this key.
context = ssl.create_default_context(cafile=CA)
with socket.create_connection(("127.0.0.1", PORT)) as plain:
    with context.wrap_socket(plain, server_hostname=HOST) as secured:
        shown = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True))
key = shown.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
spki = base64.b64encode(hashlib.sha256(key).digest()).decode()

profile = tempfile.TemporaryDirectory()
chromium = subprocess.Popen(
    [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--user-data-dir=" + profile.name,
        "--host-resolver-rules=MAP %s 127.0.0.1" % HOST,
        "--origin-to-force-quic-on=%s:%d" % (HOST, PORT),
        "--ignore-certificate-errors-spki-list=" + spki,
        "--remote-debugging-port=0",
        "https://%s:%d/page" % (HOST, PORT),
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)


class Resolved(urllib.request.HTTPSHandler):
    """The page's words are fetched by HTTP/1.1, past Chromium."""

    def https_open(self, request):
        class Connection(http.client.HTTPSConnection):
            def connect(self):
                self.sock = context.wrap_socket(
                    socket.create_connection(("127.0.0.1", PORT)), server_hostname=HOST
                )

        return self.do_open(Connection, request)


opener = urllib.request.build_opener(Resolved)
failed, deadline = False, time.monotonic() + 90
try:
    while True:
        words = opener.open("https://%s:%d/said" % (HOST, PORT), timeout=30).read().decode().splitlines()
        for word in words:
            if word == "scale":
                scale()
            elif word == "done":
                sys.exit(1 if failed else 0)
            else:
                failed |= word.startswith("failed")
                say(word)
        if time.monotonic() > deadline or chromium.poll() is not None:
            say("failed page: it did not come to its end")
            sys.exit(1)
        time.sleep(0.2)
finally:
    chromium.terminate()
    chromium.wait(20)
