"""Real nginx and HAProxy on free ports of this machine, from configurations in a folder."""

import atexit
import os
import shutil
import socket
import subprocess
import time

from server import free_port

INSTALL = os.path.join(os.path.dirname(__file__), "../../install/nginx.conf")


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


class Proxy:
    """A process in the foreground, stopped by its id."""

    def start(self, command, ports):
        with open(os.path.join(self.folder, "output"), "wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        atexit.register(self.stop)
        deadline = time.monotonic() + 20
        for port in ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        raise AssertionError(f"{command[0]} does not listen on {port}: {self.read('output')}") from None
                    time.sleep(0.02)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def read(self, name):
        with open(os.path.join(self.folder, name), errors="replace") as file:
            return file.read()

    def files(self):
        """Everything that it has written, by path."""
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(self.folder) for name in names]
        return {path: open(path, errors="replace").read() for path in paths}


class Nginx(Proxy):
    """The shipped configuration; of it only ports are changed. `h2_port` is the same by HTTP/2 without TLS."""

    def __init__(self, folder, server_port, api_port):
        self.folder, self.port, self.h2_port = folder, free_port(), free_port()
        os.mkdir(folder)
        with open(INSTALL) as file:
            site = file.read()
        for shipped, ours in {
            "    listen 80;\n": f"    listen 127.0.0.1:{self.port};\n    listen 127.0.0.1:{self.h2_port} http2;\n",
            "    listen [::]:80;\n": "",
            "    server 127.0.0.1:8000;\n": f"    server 127.0.0.1:{server_port};\n",
            "    server 127.0.0.1:8080;\n": f"    server 127.0.0.1:{api_port};\n",
        }.items():
            if site.count(shipped) != 1:
                raise AssertionError(f"install/nginx.conf has not one line {shipped!r}")
            site = site.replace(shipped, ours)
        self.write("site.conf", site)
        temporary = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root root;\n" if os.getuid() == 0 else ""  # its workers have to reach the folder
        self.write(
            "nginx.conf",
            f"{user}daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{\n    access_log {folder}/access.log;\n{temporary}"
            f"    include {folder}/site.conf;\n}}\n",
        )
        self.start([find("nginx"), "-p", f"{folder}/", "-c", f"{folder}/nginx.conf"], [self.port, self.h2_port])

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w") as file:
            file.write(text)


class HaProxy(Proxy):
    """Adds the client's address below what the client has sent, and checks the server in the ways that are usual."""

    # name: (directives, whether the internal listener is asked)
    CHECKS = {
        "plain": ("option httpchk", False),
        "head": ("option httpchk HEAD /ws/", False),
        "options": ("option httpchk OPTIONS /sse/", False),
        "ready": ("option httpchk GET /readyz", True),
        "ready-head": ("option httpchk HEAD /readyz", True),
        "metrics": ("option httpchk HEAD /metrics HTTP/1.1\\r\\nHost:\\ localhost", True),
    }

    def __init__(self, folder, server_port, internal_port):
        self.folder, self.port, self.h2_port = folder, free_port(), free_port()
        self.control = os.path.join(folder, "control")
        os.mkdir(folder)
        backends = "".join(
            f"backend {name}\n    {directives}\n"
            f"    server a 127.0.0.1:{server_port} check inter 100ms fall 1 rise 1"
            f"{f' port {internal_port}' if is_internal else ''}\n"
            for name, (directives, is_internal) in self.CHECKS.items()
        )
        with open(os.path.join(folder, "haproxy.cfg"), "w") as file:
            file.write(
                f"""global
    stats socket {self.control} mode 600 level admin
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout tunnel 75s
    option forwardfor header X-Real-IP
    option abortonclose
frontend clients
    bind 127.0.0.1:{self.port}
    bind 127.0.0.1:{self.h2_port} proto h2
    http-request add-header X-Forwarded-For %[src]
    default_backend ready
{backends}"""
            )
        self.start([find("haproxy"), "-db", "-f", os.path.join(folder, "haproxy.cfg")], [self.port, self.h2_port])

    def checks(self):
        """What each check has found last, as `UP 200`."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(self.control)
            control.sendall(b"show stat\n")
            text = b"".join(iter(lambda: control.recv(65_536), b"")).decode()
        names, *lines = [line.split(",") for line in text.splitlines() if line]
        names[0] = names[0].lstrip("# ")
        rows = [dict(zip(names, line)) for line in lines]
        return {row["pxname"]: f"{row['status']} {row['check_code']}" for row in rows if row["svname"] == "a"}
