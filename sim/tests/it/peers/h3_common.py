"""What the HTTP/3 clients have in common: what is asked, and how it is said."""

import sys

HOST = "acme.interop.test"
PORT = int(sys.argv[1])
CA = sys.argv[2]
BASE = "https://%s:%d" % (HOST, PORT)
BIG = bytes(n % 251 for n in range(251)) * (10 * 1024 * 1024 // 251 + 1)
BIG = BIG[: 10 * 1024 * 1024]
POSTED = BIG[: 1024 * 1024]
PARALLEL = 100

_failed = False


def say(line):
    print(line, flush=True)


def check(what, run):
    """Says whether `run` did what it should."""
    global _failed
    try:
        run()
        say("ok %s" % what)
    except Exception as error:
        _failed = True
        say("failed %s: %s" % (what, repr(error).replace("\n", " ")[:300]))


def scale():
    """Returns when there are more workers."""
    say("scale")
    if sys.stdin.readline().strip() != "scaled":
        raise RuntimeError("the test has gone")


def done():
    sys.exit(1 if _failed else 0)
