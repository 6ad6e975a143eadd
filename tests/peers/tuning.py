"""The programs of tuning/ on a running proxy: a flame graph of each kind, and what must be seen in it.

    python3 tests/peers/tuning.py     # needs perf, wrk and the right to sample (root, or kernel.perf_event_paranoid at 1)
"""

import pathlib
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree

import rig

BOOTSTRAP = """
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: @http@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"""

FLAMEGRAPH = pathlib.Path(__file__).resolve().parents[2] / "tuning/flamegraph"
# Functions that are on the stack of every working or waiting worker; the compiler may inline any one of them.
EXPECTED = re.compile(r"ringway::(worker|runtime|proxy)")


def shares(path):
    """Name and share in percent of each frame drawn."""
    titles = [title.text for title in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}title")]
    found = [re.fullmatch(r"(.*): ([0-9.]+) % \(.*\)", title, re.DOTALL) for title in titles]
    return [(one[1], float(one[2])) for one in found if one]


def picture(pid, folder, *flags):
    path = pathlib.Path(folder) / "flame.svg"
    done = subprocess.run([FLAMEGRAPH, str(pid), "--seconds", "2", "--output", path, *flags], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise rig.Failed(f"{FLAMEGRAPH.name} {' '.join(flags)}: {done.stderr.strip()}")
    drawn = shares(path)
    symbols = sum(share for name, share in drawn if EXPECTED.search(name))
    print(f"{' '.join(flags) or '--on-cpu'}: {len(drawn)} frames, {done.stdout.splitlines()[0].split(': ')[1]}")
    workers = max((share for name, share in drawn if name == "worker"), default=0)
    if workers < 50 or symbols < 50:
        raise rig.Failed(f"{flags}: workers have {workers} %, frames of Ringway {symbols} %: stacks are not unwound, or have no symbols\n{drawn[:20]}")


def run():
    (port,) = rig.free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "tuning.yaml"
        config.write_text(BOOTSTRAP.replace("@http@", str(port)), encoding="ascii")
        argv = [rig.ringway(), "--disable-hot-restart", "-c", str(config), "--concurrency", "2", "-l", "error"]
        with rig.Process(argv, ready_port=port) as proxy:
            load = subprocess.Popen(["wrk", "-t1", "-c8", "-d60", f"http://127.0.0.1:{port}/"], stdout=subprocess.DEVNULL)
            try:
                picture(proxy.pid, folder)
                picture(proxy.pid, folder, "--off-cpu")
                if load.poll() is not None:
                    raise rig.Failed("wrk ended before the pictures were taken")
            finally:
                load.terminate()
                load.wait()


if __name__ == "__main__":
    rig.main(run)
