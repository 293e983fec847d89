"""A FastCGI application that responds with its parameters as JSON. `python -m ... PORT`"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from typing import Final

# Types of records (FastCGI 1.0, section 8).
_END_REQUEST: Final = 3
_PARAMS: Final = 4
_STDOUT: Final = 6


def parse_parameters(data: bytes) -> dict[str, str]:
    """Return the name-value pairs of PARAMS records."""
    parameters, position = {}, 0
    while position < len(data):
        sizes = []
        for _ in range(2):  # of one byte, or of four with the highest bit set
            length = 1 if data[position] < 0x80 else 4
            size = int.from_bytes(data[position : position + length])
            sizes.append(size & 0x7FFFFFFF)
            position += length
        name, value = (position, position + sizes[0]), (position + sizes[0], position + sum(sizes))
        parameters[data[slice(*name)].decode()] = data[slice(*value)].decode("latin-1")
        position += sum(sizes)
    return parameters


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, whose body is not read."""
    data = b""
    while True:
        _, kind, request, size, padding = struct.unpack("!BBHHBx", await reader.readexactly(8))
        content = (await reader.readexactly(size + padding))[:size]
        if kind == _PARAMS and not content:
            break
        data += content if kind == _PARAMS else b""
    body = b"Content-Type: application/json\r\n\r\n" + json.dumps(parse_parameters(data)).encode()
    for kind, content in ((_STDOUT, body), (_STDOUT, b""), (_END_REQUEST, bytes(8))):
        writer.write(struct.pack("!BBHHBx", 1, kind, request, len(content), 0) + content)
    await writer.drain()
    writer.close()


async def serve(port: int) -> None:
    server = await asyncio.start_server(respond, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
