"""A name server that says what a test says, over UDP: A records of one name, with a time to live of one second."""

import socket
import struct
import threading

TTL = 1
NXDOMAIN = 3
TYPE_A = 1


class Resolver:
    """`stands_for` changes what the name stands for; without addresses there is no such name."""

    def __init__(self, host, name, port=53):
        self.name = name.encode()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, port))
        threading.Thread(target=self.serve, daemon=True).start()

    def stands_for(self, *addresses):
        self.addresses = addresses

    def serve(self):
        while True:
            try:
                query, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            self.socket.sendto(self.answer(query), peer)

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]])
            at += 1 + query[at]
        kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
        question = query[12 : at + 5]
        addresses = self.addresses if b".".join(labels).lower() == self.name else ()
        # Response, recursion desired and available. A name without IPv6 addresses exists all the same.
        flags = 0x8180 | (0 if addresses else NXDOMAIN)
        given = addresses if kind == TYPE_A else ()
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", TYPE_A, 1, TTL, 4) + socket.inet_aton(address) for address in given
        )
        return query[:2] + struct.pack("!HHHHH", flags, 1, len(given), 0, 0) + question + records

    def close(self):
        self.socket.close()
