"""An end of a WebSocket for Autobahn's suite, by aiohttp: says every message again.

server                                 prints its port and serves until its standard input ends
client HOST_PORT CONNECT_PORT AGENT    runs all cases of the fuzzing server HOST_PORT, by way of CONNECT_PORT
"""

import asyncio
import sys

from aiohttp import ClientError, ClientSession, WSMsgType, web


async def echo(connection):
    async for message in connection:
        if message.type == WSMsgType.TEXT:
            await connection.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await connection.send_bytes(message.data)
        else:
            break


async def accept(request):
    connection = web.WebSocketResponse(max_msg_size=0)
    await connection.prepare(request)
    await echo(connection)
    return connection


async def server():
    application = web.Application()
    application.add_routes([web.get("/", accept)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def client(named, through, agent):
    async with ClientSession() as session:

        def open(path):
            # Autobahn wants its own port in Host, whichever way a connection takes.
            return session.ws_connect(
                "ws://127.0.0.1:%d%s" % (through, path),
                headers={"Host": "127.0.0.1:%d" % named},
                max_msg_size=0,
                compress=15,
            )

        async with open("/getCaseCount") as connection:
            count = int((await connection.receive()).data)
        for case in range(1, count + 1):
            try:
                async with open("/runCase?case=%d&agent=%s" % (case, agent)) as connection:
                    await echo(connection)
            except (ClientError, ConnectionError):
                pass
        async with open("/updateReports?agent=%s" % agent) as connection:
            await echo(connection)


if sys.argv[1] == "server":
    asyncio.run(server())
else:
    asyncio.run(client(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
