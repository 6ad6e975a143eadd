"""The real WebSocket ends of tests/peers/websocket.py, on the `websockets` library: run by the Python of `.ci/run install`.

    websocket_parts.py serve PORT         # a server: echoes; /talk has it speak first
    websocket_parts.py crowd PORT COUNT   # so many clients at once, each of which must get its own messages back
"""

import asyncio
import logging
import random
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

# Autobahn breaks the rules on purpose; a violation is no news.
QUIET = logging.getLogger("quiet")
QUIET.setLevel(logging.CRITICAL)
MESSAGES = 30
MESSAGE_BYTES_MAX = 100_000


async def answer(connection):
    if connection.request.path == "/talk":
        await talk(connection)
    async for message in connection:
        await connection.send(message)


async def talk(connection):
    """A ping, a message in frames of its own, and the end."""
    pong = await connection.ping("are you there")
    await pong

    async def pieces():
        for number in range(100):
            yield b"%04d" % number
            # The next frame is not in the same packet.
            await asyncio.sleep(0)

    await connection.send(pieces())
    await connection.close(4000, "that was all")


async def run_server(port):
    options = {"max_size": None, "ping_interval": None, "logger": QUIET}
    async with serve(answer, "127.0.0.1", port, **options) as server:
        await server.serve_forever()


async def client(port, number):
    """Sends everything while it reads: what comes back must be its own, in order."""
    chance = random.Random(number)
    messages = [chance.randbytes(chance.randrange(MESSAGE_BYTES_MAX)) for _ in range(MESSAGES)]
    async with connect(f"ws://127.0.0.1:{port}/{number}", max_size=None, ping_interval=None, compression=None) as connection:

        async def send():
            for message in messages:
                await connection.send(message)

        sending = asyncio.create_task(send())
        for message in messages:
            if await connection.recv() != message:
                raise SystemExit(f"client {number} received what it had not sent")
        await sending


async def run_crowd(port, count):
    await asyncio.gather(*(client(port, number) for number in range(count)))


match sys.argv[1:]:
    case ["serve", port]:
        asyncio.run(run_server(int(port)))
    case ["crowd", port, count]:
        asyncio.run(run_crowd(int(port), int(count)))
    case _:
        raise SystemExit(__doc__)
