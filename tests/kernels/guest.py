"""A guest: a kernel, an initial RAM file system with some programs and what they are linked to, and its serial console.

No disk, no network card, no modules; software emulation, so that it runs inside any virtual machine.
"""

import pathlib
import re
import shutil
import subprocess
import threading

import rig

# Without cmpxchg16b, which QEMU 7.2 emulates wrongly: it wrote a pointer into the flags, and Linux 6.12, whose allocator uses it, died of
# a double fault.
CPU = "max,-cx16"
MEMORY_MB = 512
# Translated code, beside the guest's memory.
TRANSLATED_MB = 256


def libraries(program):
    """The shared libraries of a program, by the path under which its loader looks for them."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return []  # It is linked statically.
    return re.findall(r"(/\S+) \(0x", done.stdout)


def file_system(folder, init, programs, files):
    """Makes the initial RAM file system; `programs` are by their place in the guest, `files` are small texts."""
    folder = pathlib.Path(folder)
    root = folder / "root"
    if root.exists():
        shutil.rmtree(root)
    for place in ["proc", "sys", "dev", "tmp", "etc"]:
        (root / place).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)

    def put(source, place):
        target = root / str(place).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        return target

    for place, program in programs.items():
        put(program, place)
        for library in libraries(program):
            put(library, library)
    for place, text in files.items():
        (root / place.lstrip("/")).write_text(text, encoding="ascii")
    put(init, "/init").chmod(0o755)
    image = folder / "initrd"
    with open(image, "wb") as out:
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        subprocess.run(["cpio", "--create", "--format=newc", "--quiet"], cwd=root, input="\n".join(names).encode(), stdout=out, check=True)
    return image


def boot(kernel, image, environment, deadline_s):
    """Runs a guest until it switches itself off; everything it said on its console."""
    words = ["console=ttyS0", "quiet", "panic=-1", "mitigations=off", *(f"{name}={value}" for name, value in environment.items())]
    argv = ["qemu-system-x86_64", "-accel", f"tcg,tb-size={TRANSLATED_MB}", "-cpu", CPU, "-m", str(MEMORY_MB), "-smp", "1", "-nodefaults", "-no-reboot"]
    argv += ["-display", "none", "-serial", "stdio", "-kernel", kernel, "-initrd", image, "-append", " ".join(words)]
    guest = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    overdue = threading.Event()

    def end():
        overdue.set()
        guest.kill()

    timer = threading.Timer(deadline_s, end)
    timer.start()
    try:
        said = guest.stdout.read().decode(errors="replace").replace("\r", "")
        code = guest.wait()
    finally:
        timer.cancel()
        guest.kill()
        guest.wait()
    if overdue.is_set() or code != 0:
        why = f"did not switch itself off within {deadline_s} s" if overdue.is_set() else f"QEMU ended with {code}"
        raise rig.Failed(f"the guest {why}\n{said[-6000:]}")
    return said


def sections(said):
    """What was said between marks, by name: exit code and text."""
    found = re.findall(r"^@@ begin (\S+)\n(.*?)^@@ end \1 (\d+)$", said, re.MULTILINE | re.DOTALL)
    return {name: (int(code), text) for name, text, code in found}
