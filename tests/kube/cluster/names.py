"""The DNS of the test cluster: `SERVICE.NAMESPACE.svc.cluster.local` to its ClusterIP, as kubectl has it."""

import ipaddress
import json
import socket
import struct
import subprocess
import sys
import time

ZONE = "svc.cluster.local"
KNOWN_S = 1.0


def services() -> dict[str, str]:
    """Addresses by name."""
    done = subprocess.run(["kubectl", "get", "services", "-A", "-o", "json"], capture_output=True, text=True)
    found = {}
    for item in json.loads(done.stdout)["items"] if done.returncode == 0 else []:
        if item["spec"].get("clusterIP", "None") != "None":
            found[f"{item['metadata']['name']}.{item['metadata']['namespace']}.{ZONE}"] = item["spec"]["clusterIP"]
    return found


def answer(query: bytes, known: dict[str, str]) -> bytes:
    """A query for one A record answered; AAAA has none."""
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode())
        at += 1 + size
    (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
    address = known.get(".".join(labels).lower())
    record = b""
    if address and kind == 1:
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + ipaddress.ip_address(address).packed
    flags = 0x8580 | (0 if address else 3)
    return query[:2] + struct.pack("!HHHHH", flags, 1, 1 if record else 0, 0, 0) + query[12 : at + 5] + record


def main() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((sys.argv[1], 53))
    known, read = services(), time.monotonic()
    while True:
        query, peer = sock.recvfrom(4096)
        if time.monotonic() - read > KNOWN_S:
            known, read = services(), time.monotonic()
        sock.sendto(answer(query, known), peer)


main()
