"""HAProxy; for large bodies also with splice(2), and with larger buffers. One thread, upstream connections reused."""

import os
import signal

from loads import tools as installed
from peers import Peer, without_balance

# Debian 12's, of the published results.
PUBLISHED = "2.6"
CONFIG = """\
global
  nbthread {workers}
  maxconn 6000
{tuning}
defaults
  mode {mode}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
{options}
frontend f
  bind 127.0.0.1:{port} backlog 4096{bind}
{choice}
"""
BACKEND = """\
backend b{i}
  http-reuse always
  server s 127.0.0.1:{upstream} pool-max-conn -1 pool-purge-delay 1h{speaks}
"""
RELAY = """\
backend b0
  server s 127.0.0.1:{upstream}
"""


class HaProxy(Peer):
    name, color = "haproxy", "#2f6fd0"
    tuning = options = ""

    def find(self, tools):
        self.binary = tools.debian("haproxy", "haproxy")
        version = installed.version([self.binary, "-v"])
        installed.expect("HAProxy", version, PUBLISHED)
        return version

    def command(self, setup, place):
        without_balance(setup)
        choice = "  default_backend b0"
        if setup.routes > 1:
            map_file = place.folder / "hosts.map"
            map_file.write_text("".join(f"h{i}.test b{i}\n" for i in range(setup.routes)))
            choice = f"  use_backend %[req.hdr(host),lower,map({map_file})]"
        bind = " proto h2" if setup.http2 and not setup.tls else ""
        if setup.tls:
            alpn = "h2,http/1.1" if setup.http2 else "http/1.1"
            bind = f" ssl crt {place.identity.both} ssl-min-ver TLSv1.3 alpn {alpn}"
        text = CONFIG.format(
            mode="tcp" if setup.tcp else "http", workers=setup.workers, port=place.port, bind=bind, tuning=self.tuning, options=self.options, choice=choice
        )
        speaks = " proto h2" if setup.upstream_http2 else ""
        if setup.tcp:
            text += RELAY.format(upstream=place.upstream)
        else:
            text += "".join(BACKEND.format(i=i, upstream=place.upstream, speaks=speaks) for i in range(setup.routes))
        file = place.folder / "haproxy.cfg"
        file.write_text(text)
        # Only a master can reload; alone it would be a process more in the memory figures.
        return [self.binary, *(["-W"] if setup.reloads else []), "-db", "-f", file]

    def reload(self, process, setup, place):
        os.kill(process.pid, signal.SIGUSR2)


class HaProxySplice(HaProxy):
    name, color = "haproxy-splice", "#7aa7ea"
    for_bodies = True
    options = "  option splice-request\n  option splice-response"


class HaProxyLarge(HaProxy):
    """With buffers as large as Ringway's for bodies; the default is 16 KiB."""

    name, color = "haproxy-64k", "#1d4388"
    for_bodies = True
    tuning = "  tune.bufsize 65536"


ORDER = 3
PEERS = [HaProxy(), HaProxySplice(), HaProxyLarge()]
