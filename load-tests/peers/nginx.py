"""nginx as a reverse proxy, one worker process, keep-alive to the upstream, no access log; and with larger buffers."""

import os
import pathlib
import signal

from loads import errors
from loads import tools as installed
from peers import Peer, without_balance

# Debian 12's, of the published results.
PUBLISHED = "1.22"
# Connections are memory to nginx, used or not: `worker_connections` is enough for all scenarios, and no more.
# A pool as large as the load for one route; small ones where there are thousands.
KEEP_ALIVE_ONE, KEEP_ALIVE_MANY = 2048, 64

CONFIG = """\
worker_processes {workers}; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  server_names_hash_max_size 65536; server_names_hash_bucket_size 128;
  client_max_body_size 0; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  proxy_http_version 1.1; proxy_set_header Connection "";
  # Bodies pass as they come, as in the other peers, instead of through files; for answers that is proxy_buffering,
  # whose files are switched off.
  proxy_request_buffering off; proxy_max_temp_file_size 0;
  {buffers}
{hosts}
}}
"""
HOST = """\
  upstream u{i} {{ server 127.0.0.1:{upstream}; keepalive {keep}; keepalive_requests 1000000000; keepalive_timeout 1h; }}
  server {{ listen 127.0.0.1:{port}{options}; server_name h{i}.test; location / {{ {forward}://u{i}; }} }}
"""
# A module of a package of its own; its buffers are not those of HTTP.
STREAM_MODULE = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")
STREAM = """\
load_module {module};
worker_processes {workers}; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
stream {{
  proxy_timeout 1h; {buffers}
  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{upstream}; }}
}}
"""
TLS = """\
  ssl_certificate {0.certificate}; ssl_certificate_key {0.key}; ssl_protocols TLSv1.3;
"""


class Nginx(Peer):
    name, color = "nginx", "#2e9e4f"
    buffers = stream_buffers = ""

    def find(self, tools):
        self.binary = tools.debian("nginx", "nginx-light")
        version = installed.version([self.binary, "-v"])
        installed.expect("nginx", version, PUBLISHED)
        return version

    def command(self, setup, place):
        without_balance(setup)
        if setup.upstream_http2 and not setup.grpc:
            raise errors.Unsupported("no HTTP/2 to the origin, but for gRPC")
        file = place.folder / "nginx.conf"
        if setup.tcp:
            file.write_text(self.stream(setup, place))
            return [self.binary, "-c", file]
        options = " ssl" * setup.tls + " http2" * setup.http2
        forward = "grpc_pass grpc" if setup.grpc else "proxy_pass http"
        keep = KEEP_ALIVE_ONE if setup.routes == 1 else KEEP_ALIVE_MANY
        hosts = "".join(
            HOST.format(
                i=i, port=place.port, upstream=place.upstream, keep=keep, forward=forward, options=options + ("" if i else " backlog=4096")
            )
            for i in range(setup.routes)
        )
        if setup.tls:
            hosts = TLS.format(place.identity) + hosts
        file.write_text(CONFIG.format(workers=setup.workers, folder=place.folder, buffers=self.buffers, hosts=hosts))
        return [self.binary, "-c", file]

    def stream(self, setup, place):
        if not STREAM_MODULE.exists():
            raise errors.Unsupported("its stream module is not installed (libnginx-mod-stream)")
        return STREAM.format(
            module=STREAM_MODULE, workers=setup.workers, folder=place.folder, buffers=self.stream_buffers, port=place.port, upstream=place.upstream
        )

    def reload(self, process, setup, place):
        os.kill(process.pid, signal.SIGHUP)


class NginxLarge(Nginx):
    """With buffers as large as Ringway's for bodies; by default they are pages."""

    name, color = "nginx-64k", "#86c79a"
    for_bodies = True
    buffers = (
        "proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; client_body_buffer_size 64k;"
    )
    stream_buffers = "proxy_buffer_size 64k;"


ORDER = 2
PEERS = [Nginx(), NginxLarge()]
