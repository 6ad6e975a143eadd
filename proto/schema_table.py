#!/usr/bin/env python3
"""Packs the Envoy v3 API into src/control/xds/schema/table.bin.

usage: schema_table.py ENVOY [OUT]

ENVOY as for descriptors.py. The layout is described in src/control/xds/schema/table.rs, which reads it; the
numbers here and there must be changed together (`VERSION`).
"""
import pathlib
import re
import struct
import sys

from google.protobuf import descriptor_pool, message_factory

import descriptors

MAGIC, VERSION = b'RWSC', 1
ROOTS = ('envoy/', 'xds/', 'udpa/')
NOT_ROOTS = ('envoy/annotations/', 'xds/annotations/', 'udpa/annotations/')
NO_TYPE = 0xffff

# Field flags.
REPEATED, MAP, DEPRECATED, DISALLOWED, SENSITIVE = 1, 2, 4, 8, 16
# Message classes: how protobuf's JSON mapping treats a type.
PLAIN, ANY, WRAPPER, STRUCT, LIST, VALUE, TIMESTAMP, DURATION, FIELD_MASK, MAP_ENTRY = range(10)
CLASSES = {
    'google.protobuf.Any': ANY,
    'google.protobuf.Struct': STRUCT,
    'google.protobuf.ListValue': LIST,
    'google.protobuf.Value': VALUE,
    'google.protobuf.Timestamp': TIMESTAMP,
    'google.protobuf.Duration': DURATION,
    'google.protobuf.FieldMask': FIELD_MASK,
    **{f'google.protobuf.{t}Value': WRAPPER
       for t in ('Double', 'Float', 'Int64', 'UInt64', 'Int32', 'UInt32', 'Bool', 'String', 'Bytes')},
}
# Rule codes (schema/rules.rs).
(END, REQUIRED, SKIP, IGNORE_EMPTY, GT, GTE, LT, LTE, CONST_BOOL, MIN_LEN, MAX_LEN, MIN_BYTES, MAX_BYTES, PREFIX,
 SUFFIX, PATTERN, IN, WELL_KNOWN, DEFINED_ONLY, NOT_IN, MIN_ITEMS, MAX_ITEMS, UNIQUE, ITEMS, KEYS, VALUES) = range(26)
LIMITS = {'gt': GT, 'gte': GTE, 'lt': LT, 'lte': LTE}
SIGNED = {'int32', 'int64', 'sint32', 'sint64', 'sfixed32', 'sfixed64'}
UNSIGNED = {'uint32', 'uint64', 'fixed32', 'fixed64'}


class Strings:
    """Pool of length-prefixed strings; offset 0 is the empty string."""

    def __init__(self):
        self.blob, self.known = bytearray(b'\0\0'), {'': 0}

    def add(self, text):
        if text not in self.known:
            self.known[text] = len(self.blob)
            raw = text.encode()
            self.blob += struct.pack('<H', len(raw)) + raw
        return self.known[text]


class Api:
    """The descriptors with their options readable: the extensions come from the same set."""

    def __init__(self, files):
        self.pool = descriptor_pool.DescriptorPool()
        self.files = descriptors.in_order(files).file
        for file in self.files:
            self.pool.Add(file)
        self.classes = {name: message_factory.GetMessageClass(self.pool.FindMessageTypeByName(
            f'google.protobuf.{name}')) for name in ('FieldOptions', 'OneofOptions', 'MessageOptions', 'EnumValueOptions')}

    def option(self, of, kind, extension):
        """An extension of `of`'s options, or None."""
        options = self.classes[kind]()
        options.ParseFromString(of.GetOptions().SerializeToString())
        found = self.pool.FindExtensionByName(extension)
        return options.Extensions[found] if options.HasExtension(found) else None


def collect(api):
    """All messages of the roots and what they refer to; all enums those use."""
    messages, enums = {}, {}

    def add(message):
        if message.full_name in messages:
            return
        messages[message.full_name] = message
        for nested in message.nested_types:
            add(nested)
        for field in message.fields:
            if field.message_type:
                add(field.message_type)
            if field.enum_type:
                enums[field.enum_type.full_name] = field.enum_type

    for file in api.files:
        if file.name.startswith(ROOTS) and not file.name.startswith(NOT_ROOTS):
            for message in api.pool.FindFileByName(file.name).message_types_by_name.values():
                add(message)
    for name in (*CLASSES, 'google.protobuf.Empty'):
        add(api.pool.FindMessageTypeByName(name))
    return dict(sorted(messages.items())), dict(sorted(enums.items()))


def limits(rules, pack, scale=lambda value: value):
    """gt/gte/lt/lte. A lower above an upper limit stands: it means one or the other."""
    return b''.join(bytes([code]) + struct.pack(pack, scale(getattr(rules, name)))
                    for name, code in LIMITS.items() if rules.HasField(name))


def encode_rules(rules, strings):
    """One field's constraints as codes with operands, without the closing END. Refuses what it does not know."""
    out = b''
    if rules.HasField('message'):
        out += bytes([REQUIRED]) * rules.message.required + bytes([SKIP]) * rules.message.skip
    kind = rules.WhichOneof('type')
    if kind is None:
        return out
    rule = getattr(rules, kind)
    known = set(LIMITS)
    u32 = lambda code, value: bytes([code]) + struct.pack('<I', value)
    if kind in SIGNED | UNSIGNED | {'double', 'float'}:
        pack = '<q' if kind in SIGNED else '<Q' if kind in UNSIGNED else '<d'
        known |= {'ignore_empty'}
        out += bytes([IGNORE_EMPTY]) * rule.ignore_empty + limits(rule, pack)
    elif kind == 'duration':
        known |= {'required'}
        out += bytes([REQUIRED]) * rule.required
        out += limits(rule, '<q', lambda d: d.seconds * 1_000_000_000 + d.nanos)
    elif kind == 'any':
        known = {'required'}
        out += bytes([REQUIRED]) * rule.required
    elif kind == 'bool':
        known = {'const'}
        out += bytes([CONST_BOOL, rule.const])
    elif kind in ('string', 'bytes'):
        known = {'min_len', 'max_len', 'min_bytes', 'max_bytes', 'prefix', 'suffix', 'pattern', 'in',
                 'well_known_regex', 'strict', 'ignore_empty'}
        out += bytes([IGNORE_EMPTY]) * rule.ignore_empty
        in_bytes = kind == 'bytes'
        for name, code in (('min_len', MIN_BYTES if in_bytes else MIN_LEN), ('max_len', MAX_BYTES if in_bytes else MAX_LEN),
                           ('min_bytes', MIN_BYTES), ('max_bytes', MAX_BYTES)):
            if name in rule.DESCRIPTOR.fields_by_name and rule.HasField(name):
                out += u32(code, getattr(rule, name))
        if not in_bytes:
            for name, code in (('prefix', PREFIX), ('suffix', SUFFIX), ('pattern', PATTERN)):
                if rule.HasField(name):
                    out += u32(code, strings.add(getattr(rule, name)))
            allowed = getattr(rule, 'in')
            if allowed:
                out += bytes([IN, len(allowed)]) + b''.join(struct.pack('<I', strings.add(a)) for a in allowed)
            if rule.HasField('well_known_regex'):
                strict = rule.strict if rule.HasField('strict') else True
                out += bytes([WELL_KNOWN, rule.well_known_regex, strict])
    elif kind == 'enum':
        known = {'defined_only', 'not_in'}
        out += bytes([DEFINED_ONLY]) * rule.defined_only
        for value in rule.not_in:
            out += bytes([NOT_IN]) + struct.pack('<i', value)
    elif kind == 'repeated':
        known = {'min_items', 'max_items', 'unique', 'items'}
        for name, code in (('min_items', MIN_ITEMS), ('max_items', MAX_ITEMS)):
            if rule.HasField(name):
                out += u32(code, min(getattr(rule, name), 0xffffffff))
        out += bytes([UNIQUE]) * rule.unique
        if rule.HasField('items'):
            out += bytes([ITEMS]) + encode_rules(rule.items, strings)
    elif kind == 'map':
        known = {'min_pairs', 'keys', 'values'}
        if rule.HasField('min_pairs'):
            out += u32(MIN_ITEMS, rule.min_pairs)
        for name, code in (('keys', KEYS), ('values', VALUES)):
            if rule.HasField(name):
                out += bytes([code]) + encode_rules(getattr(rule, name), strings)
    else:
        raise SystemExit(f'constraints on {kind} are not supported')
    unknown = {f.name for f, _ in rule.ListFields()} - known
    assert not unknown, f'{kind}: {unknown} are not supported'
    return out


def camel(name):
    return re.sub('_(.)', lambda match: match.group(1).upper(), name)


def pack(api):
    messages, enums = collect(api)
    message_index = {name: index for index, name in enumerate(messages)}
    enum_index = {name: index for index, name in enumerate(enums)}
    strings, rules, known_rules = Strings(), bytearray(b'\0'), {b'': 0}
    message_rows, field_rows, enum_rows, value_rows, extras = b'', b'', b'', b'', bytearray(b'\0')
    counts = {'constraints': 0}

    def add_rules(encoded):
        if encoded not in known_rules:
            known_rules[encoded] = len(rules)
            rules.extend(encoded + bytes([END]))
        return known_rules[encoded]

    field_count = 0
    for name, message in messages.items():
        proto = descriptors.descriptor_pb2.DescriptorProto()
        message.CopyToProto(proto)
        fields = sorted(message.fields, key=lambda field: field.number)
        by_name = sorted(range(len(fields)), key=lambda index: fields[index].name)
        versioning = api.option(message, 'MessageOptions', 'udpa.annotations.versioning')
        previous = versioning.previous_message_type if versioning else ''
        extra = 0
        if message.oneofs or proto.reserved_name or previous:
            extra = len(extras)
            extras.extend(struct.pack('<I', strings.add(previous)))
            extras.append(len(message.oneofs))
            for oneof in message.oneofs:
                required = api.option(oneof, 'OneofOptions', 'validate.required')
                extras.extend(struct.pack('<IB', strings.add(oneof.name), bool(required)))
            extras.append(len(proto.reserved_name))
            for reserved in proto.reserved_name:
                extras.extend(struct.pack('<I', strings.add(reserved)))
        kind = MAP_ENTRY if message.GetOptions().map_entry else CLASSES.get(name, PLAIN)
        assert len(fields) < 255 and field_count + len(fields) < 65536
        message_rows += struct.pack('<IIHBB', strings.add(name), extra, field_count, len(fields), kind)
        field_count += len(fields)
        for position, field in enumerate(fields):
            assert field.json_name == camel(field.name), f'{field.full_name}: json_name {field.json_name}'
            assert field.number < 65536 and field.type != field.TYPE_GROUP
            assert not (field.containing_oneof and field.containing_oneof.name.startswith('_')), 'proto3 optional'
            flags = REPEATED * field.is_repeated
            if field.message_type and field.message_type.GetOptions().map_entry:
                flags |= MAP
            flags |= DEPRECATED * field.GetOptions().deprecated
            for extension, flag in (('envoy.annotations.disallowed_by_default', DISALLOWED),
                                    ('udpa.annotations.sensitive', SENSITIVE)):
                flags |= flag * bool(api.option(field, 'FieldOptions', extension))
            refers = message_index[field.message_type.full_name] if field.message_type else \
                enum_index[field.enum_type.full_name] if field.enum_type else NO_TYPE
            constraints = api.option(field, 'FieldOptions', 'validate.rules')
            encoded = encode_rules(constraints, strings) if constraints is not None else b''
            counts['constraints'] += bool(encoded)
            oneof = field.containing_oneof.index if field.containing_oneof else 0xff
            field_rows += struct.pack('<IIHHBBBB', strings.add(field.name), add_rules(encoded), field.number, refers,
                                      field.type, flags, oneof, by_name[position])
    value_count = 0
    for name, enum in enums.items():
        enum_rows += struct.pack('<IHH', strings.add(name), value_count, len(enum.values))
        value_count += len(enum.values)
        for value in enum.values:
            flags = DEPRECATED * value.GetOptions().deprecated
            flags |= DISALLOWED * bool(api.option(value, 'EnumValueOptions', 'envoy.annotations.disallowed_by_default_enum'))
            value_rows += struct.pack('<IiI', strings.add(value.name), value.number, flags)
    assert len(messages) < NO_TYPE and len(enums) < NO_TYPE and value_count < 65536

    sections = [message_rows, field_rows, enum_rows, value_rows, bytes(extras), bytes(rules), bytes(strings.blob)]
    numbers = [len(messages), field_count, len(enums), value_count]
    offset, offsets = 8 + 4 * (len(numbers) + len(sections)), []
    body = b''
    for section in sections:
        offsets.append(offset + len(body))
        body += section + bytes(-len(section) % 4)
    counts.update(messages=len(messages), fields=field_count, enums=len(enums), values=value_count)
    return MAGIC + struct.pack(f'<I{len(numbers) + len(sections)}I', VERSION, *numbers, *offsets) + body, counts


if __name__ == '__main__':
    table, counts = pack(Api(descriptors.read(sys.argv[1])))
    default = pathlib.Path(__file__).parent.parent / 'src/control/xds/schema/table.bin'
    pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else default).write_bytes(table)
    print(f'{len(table)} bytes: ' + ', '.join(f'{n} {what}' for what, n in counts.items()))
