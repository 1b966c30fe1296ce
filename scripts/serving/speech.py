"""Callers of a language model who read its answers as they are written: as light as Python can be."""

import asyncio
import json
import time
import urllib.parse


class Answer:
    """What one call saw: when its first piece came, the times between pieces, how many tokens there were."""

    def __init__(self):
        self.first_seconds = None
        self.gaps = []
        self.tokens = 0
        self.cached = 0
        self.error = None


def run(url, clients, bodies, apart=0.0):
    """Sends all bodies from so many clients, who begin so many seconds one after the other, and each of whom takes the next
    one when it has its answer; the answers, and how long it all took."""
    return asyncio.run(_run(url, clients, bodies, apart))


async def _run(url, clients, bodies, apart):
    left = iter(bodies)
    answers = []

    async def client(number):
        await asyncio.sleep(number * apart)
        for body in left:
            answers.append(await ask(url, body))

    started = time.perf_counter()
    await asyncio.gather(*map(client, range(clients)))
    return answers, time.perf_counter() - started


async def ask(url, body):
    """One call of `/v1/completions`, streamed."""
    host, port = urllib.parse.urlparse(url).netloc.split(":")
    body = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    answer = Answer()
    started = last = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    status = await reader.readline()
    if b" 200 " not in status:
        answer.error = status.decode() + (await reader.read(1000)).decode(errors="replace")
        writer.close()
        return answer
    async for line in reader:
        if not line.startswith(b"data: {"):
            if line.startswith(b"data: [DONE]"):
                break
            continue
        now = time.perf_counter()
        # A piece of text; all others are read only for what they say of the whole.
        if b'"usage":{' in line or b'"usage": {' in line or b'"error"' in line:
            piece = json.loads(line[6:])
            if "error" in piece:
                answer.error = json.dumps(piece["error"])
            usage = piece.get("usage") or {}
            answer.tokens = usage.get("completion_tokens", answer.tokens)
            answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        if b'"text":""' in line or b'"choices":[]' in line:
            continue
        if answer.first_seconds is None:
            answer.first_seconds = now - started
        else:
            answer.gaps.append(now - last)
        last = now
    writer.close()
    return answer


def quantile(values, share):
    """The value that this share of all does not exceed."""
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
