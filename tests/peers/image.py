"""What the Dockerfile does, without a container engine: its root folder is made and Ringway runs in it, as a user without privileges, with
the seccomp profile of deploy/ (io_uring must come up) and with the same profile less its io_uring calls (epoll must come up).

    python3 tests/peers/image.py        # needs root, for chroot; Linux on x86_64
"""

import ctypes
import json
import os
import pathlib
import platform
import re
import struct
import subprocess
import tempfile

import rig

USER = 65532
DEMO_PORT = 10000
LD_W_ABS, JEQ, JSET, AND, RET = 0x20, 0x15, 0x45, 0x54, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
AUDIT_ARCH_X86_64 = 0xC000003E
HEADERS = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"]


def numbers():
    for path in HEADERS:
        if os.path.exists(path):
            return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", pathlib.Path(path).read_text())}
    raise rig.Failed("the kernel's headers are not installed (linux-libc-dev)")


def filter_program(profile, without=()):
    """The profile as classic BPF: arch, then one test per rule, then the default."""
    known = numbers()
    refuse = ERRNO | profile["defaultErrnoRet"]
    code = [(LD_W_ABS, 0, 0, 4), (JEQ, 1, 0, AUDIT_ARCH_X86_64), (RET, 0, 0, refuse), (LD_W_ABS, 0, 0, 0)]
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            if name in without or name not in known:
                continue
            if not rule.get("args"):
                code += [(JEQ, 0, 1, known[name]), (RET, 0, 0, ALLOW)]
                continue
            (argument,) = rule["args"]
            low = 16 + 8 * argument["index"]  # the low half; the flags and families tested here fit in it
            if argument["op"] == "SCMP_CMP_EQ":
                test = [(JEQ, 0, 1, argument["value"])]
            elif argument["op"] == "SCMP_CMP_MASKED_EQ":
                test = [(AND, 0, 0, argument["value"]), (JEQ, 0, 1, argument["valueTwo"])]
            else:
                raise rig.Failed(f"an operator this test does not know: {argument}")
            body = [(LD_W_ABS, 0, 0, low), *test, (RET, 0, 0, ALLOW), (LD_W_ABS, 0, 0, 0)]
            code += [(JEQ, 0, len(body), known[name]), *body]
    code.append((RET, 0, 0, refuse))
    return b"".join(struct.pack("HBBI", *line) for line in code)


def confine(root, program):
    """Runs between fork and exec: folder, user, then the filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    length = len(program) // 8
    held = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("HxxxxxxQ", length, ctypes.addressof(held))
    pointer = ctypes.create_string_buffer(descriptor, len(descriptor))
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

    def enter():
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
        # PR_SET_NO_NEW_PRIVS, then PR_SET_SECCOMP with a filter.
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.addressof(pointer), 0, 0):
            os._exit(99)

    # The kernel reads the program through the descriptor: both must live as long as the function.
    enter.keep = (held, pointer)
    return enter


def run_confined(root, program, expected):
    if rig.accepts(DEMO_PORT):
        raise rig.Failed(f"port {DEMO_PORT} is taken, the demonstration needs it")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["/usr/local/bin/ringway", "demo"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=confine(root, program), env={}
        )

        def text():
            log.seek(0)
            return log.read().decode(errors="replace")

        try:
            rig.wait_for(lambda: rig.accepts(DEMO_PORT) or process.poll() is not None, "the demonstration")
            if process.poll() is not None:
                raise rig.Failed(f"ended with {process.returncode}\n{text()}")
            answer = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{DEMO_PORT}/"], capture_output=True, timeout=10, check=False)
            if answer.returncode != 0 or not answer.stdout:
                raise rig.Failed(f"no answer: {answer.stderr!r}\n{text()}")
            identity = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            if not re.search(rf"^Uid:\t{USER}\t", identity, re.MULTILINE) or "Seccomp:\t2" not in identity:
                raise rig.Failed("it does not run confined")
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(rig.DEADLINE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise rig.Failed(f"it did not end on SIGTERM\n{text()}") from None
        if process.returncode != 0:
            raise rig.Failed(f"SIGTERM: exit code {process.returncode}\n{text()}")
        if not re.search(expected, text()):
            raise rig.Failed(f"expected {expected!r}\n{text()}")


def run():
    if os.geteuid() != 0 or platform.machine() != "x86_64":
        raise rig.Failed("needs root and x86_64")
    profile = json.loads((rig.ROOT / "deploy/seccomp-io_uring.json").read_text())
    rings = {name for rule in profile["syscalls"] for name in rule["names"] if name.startswith("io_uring")}
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        subprocess.run(["sh", rig.ROOT / "deploy/image-root.sh", rig.ringway(), name], check=True)
        size = sum(path.stat().st_size for path in pathlib.Path(name).rglob("*") if path.is_file())
        print(f"image: {size / 1e6:.1f} MB in {sum(path.is_file() for path in pathlib.Path(name).rglob('*'))} files")
        run_confined(name, filter_program(profile), r"io_uring")
        print("with the seccomp profile: io_uring, user 65532, exit code 0")
        run_confined(name, filter_program(profile, without=rings), r"epoll")
        print("without its io_uring calls: epoll, user 65532, exit code 0")


if __name__ == "__main__":
    rig.main(run)
