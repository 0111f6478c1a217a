"""What Docker gives the services of compose.yaml: a network each, names for one another, and published ports."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

DOCKER_DNS = "127.0.0.11"
HOST = "10.77.0.1"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Names:
    """Every service that runs has its name, for who reads /etc/hosts and for who asks DNS."""

    def __init__(self, folder: Path, addresses: Mapping[str, Sequence[str]]) -> None:
        self.addresses = {name: list(some) for name, some in addresses.items()}
        lines = [f"{address} {name}\n" for name, some in self.addresses.items() for address in some]
        _put(folder, "/etc/hosts", "".join(lines))
        _put(folder, "/etc/resolv.conf", "nameserver 127.0.0.1\n")

    def serve(self, server: socket.socket) -> None:
        threading.Thread(target=self._answer, args=(server,), daemon=True).start()

    def _answer(self, server: socket.socket) -> None:
        while True:
            query, client = server.recvfrom(512)
            end = query.index(b"\0", 12) + 5
            name = query[13 : end - 5].decode("ascii", "replace")
            known = name in self.addresses
            found = self.addresses.get(name, []) if query[end - 4 : end - 2] == b"\0\1" else []
            head = query[:2] + struct.pack(">HHHHH", 0x8580 if known else 0x8583, 1, len(found), 0, 0)
            records = b"".join(
                b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 1, 4) + socket.inet_aton(address) for address in found
            )
            server.sendto(head + query[12:end] + records, client)


def _put(folder: Path, target: str, text: str) -> None:
    file = folder / Path(target).name
    file.write_text(text)
    subprocess.run(["mount", "--bind", str(file), target], check=True)


class Networks:
    """One for each container, joined by a bridge; what stays outside of them has the address HOST."""

    def __init__(self) -> None:
        Path("/run/netns").mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "compose", "type", "bridge")
        _ip("addr", "add", f"{HOST}/24", "dev", "compose")
        _ip("link", "set", "compose", "up")
        self._count = 1

    def add(self, container: str) -> str:
        """Its address."""
        self._count += 1
        address = f"10.77.0.{self._count}"
        outside = f"veth{self._count}"
        _ip("netns", "add", container)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", container)
        _ip("link", "set", outside, "master", "compose", "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _ip("-n", container, *command)
        return address

    @staticmethod
    def enter(container: str) -> list[str]:
        """What to put in front of a command; it becomes the command's process."""
        return ["nsenter", f"--net=/run/netns/{container}"]

    @staticmethod
    def datagrams(container: str, address: str, port: int) -> socket.socket:
        """A socket in a container's network, where it stays."""
        made: list[socket.socket] = []

        def make() -> None:
            # Of this thread only, which ends here.
            with Path(f"/run/netns/{container}").open() as namespace:
                if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made[0].bind((address, port))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def publish(port: int, address: str) -> None:
    """A container's port on loopback, as `127.0.0.1:port:port` does."""
    listener = socket.create_server(("127.0.0.1", port))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            target.close()

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection((address, port), 5)
            except OSError:
                client.close()
                continue
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
