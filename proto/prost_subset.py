#!/usr/bin/env python3
"""Writes the prost structs of the Envoy messages that conversion reads, under src/control/xds/pb.

usage: prost_subset.py ENVOY

ENVOY as for descriptors.py. A message listed in KEEP gets a struct with all its fields, so that exhaustive
destructuring sees every one. A message type that is not listed is opaque: fields of that type hold its encoded
bytes (the wire type is the same), enough to tell that they are set. Nested types are flattened
(`Cluster.CommonLbConfig` is `ClusterCommonLbConfig`), a oneof `x` of `M` is the enum `MXOneOf`.
"""
import pathlib
import re
import subprocess
import sys

from google.protobuf import descriptor_pb2

import descriptors

OUT = pathlib.Path(__file__).resolve().parent.parent / 'src/control/xds/pb'

# Rust module: {proto package: messages to keep}; nested messages by their dotted name.
KEEP = {
    'google': {'google.protobuf': 'Any Struct Value ListValue Duration'},
    'bootstrap': {
        'envoy.config.bootstrap.v3': '''Bootstrap Bootstrap.StaticResources Bootstrap.DynamicResources
            Bootstrap.ApplicationLogConfig Bootstrap.ApplicationLogConfig.LogFormat Admin
            ClusterManager LayeredRuntime RuntimeLayer RuntimeLayer.DiskLayer RuntimeLayer.RtdsLayer''',
        'envoy.config.overload.v3': 'OverloadManager ResourceMonitor',
        'envoy.config.metrics.v3': 'StatsConfig StatsMatcher TagSpecifier HistogramBucketSettings',
    },
    'core': {
        'envoy.config.core.v3': '''Node Locality Address SocketAddress Pipe CidrRange SocketOption
            SocketOptionsOverride TcpKeepalive BindConfig Metadata TypedExtensionConfig TransportSocket DataSource
            WatchedDirectory RuntimeFractionalPercent RuntimeUInt32 RuntimeDouble RuntimeFeatureFlag DnsResolutionConfig
            DnsResolverOptions EnvoyInternalAddress BackoffStrategy ProxyProtocolConfig ProxyProtocolPassThroughTLVs
            TlvEntry PerHostConfig ConfigSource PathConfigSource ApiConfigSource GrpcService GrpcService.EnvoyGrpc AggregatedConfigSource
            ExtensionConfigSource''',
    },
    'http': {
        'envoy.config.core.v3': '''HttpProtocolOptions Http1ProtocolOptions Http1ProtocolOptions.HeaderKeyFormat
            Http2ProtocolOptions Http2ProtocolOptions.SettingsParameter KeepaliveSettings
            UpstreamHttpProtocolOptions SchemeHeaderTransformation HeaderValue HeaderValueOption
            SubstitutionFormatString''',
    },
    'types': {
        'envoy.type.v3': '''FractionalPercent Percent Int32Range Int64Range DoubleRange TokenBucket HashPolicy
            HashPolicy.SourceIp HashPolicy.FilterState''',
        'envoy.type.matcher.v3': '''StringMatcher ListStringMatcher RegexMatcher RegexMatchAndSubstitute PathMatcher
            MetadataMatcher MetadataMatcher.PathSegment ValueMatcher ValueMatcher.NullMatch DoubleMatcher ListMatcher
            OrMatcher FilterStateMatcher AddressMatcher HttpRequestHeaderMatchInput''',
        'envoy.type.metadata.v3': 'MetadataKind MetadataKind.Host MetadataKind.Cluster',
    },
    # What the unified matching API is made of, and its inputs.
    'matching': {
        'xds.type.matcher.v3': '''Matcher Matcher.OnMatch Matcher.MatcherList Matcher.MatcherList.FieldMatcher
            Matcher.MatcherList.Predicate Matcher.MatcherList.Predicate.SinglePredicate
            Matcher.MatcherList.Predicate.PredicateList Matcher.MatcherTree Matcher.MatcherTree.MatchMap IPMatcher
            IPMatcher.IPRangeMatcher ServerNameMatcher ServerNameMatcher.DomainMatcher StringMatcher RegexMatcher''',
        'xds.core.v3': 'TypedExtensionConfig CidrRange',
        'envoy.extensions.matching.common_inputs.network.v3': '''DestinationIPInput DestinationPortInput SourceIPInput
            SourcePortInput DirectSourceIPInput SourceTypeInput ServerNameInput TransportProtocolInput
            ApplicationProtocolInput DynamicMetadataInput DynamicMetadataInput.PathSegment''',
        'envoy.extensions.matching.common_inputs.ssl.v3': 'UriSanInput DnsSanInput SubjectInput',
        'envoy.extensions.matching.input_matchers.ip.v3': 'Ip',
        'envoy.extensions.matching.input_matchers.metadata.v3': 'Metadata',
    },
    'listener': {
        'envoy.config.listener.v3': '''Listener Listener.DeprecatedV1 Listener.ConnectionBalanceConfig
            Listener.ConnectionBalanceConfig.ExactBalance AdditionalAddress FilterChain FilterChainMatch Filter
            ListenerFilter ListenerFilterChainMatchPredicate ListenerFilterChainMatchPredicate.MatchSet
            Listener.InternalListenerConfig''',
    },
    'listener_filters': {
        'envoy.extensions.filters.listener.http_inspector.v3': 'HttpInspector',
        'envoy.extensions.filters.listener.original_dst.v3': 'OriginalDst',
        'envoy.extensions.filters.listener.original_src.v3': 'OriginalSrc',
        'envoy.extensions.filters.listener.proxy_protocol.v3': '''ProxyProtocol ProxyProtocol.KeyValuePair
            ProxyProtocol.Rule''',
        'envoy.extensions.filters.listener.tls_inspector.v3': 'TlsInspector',
    },
    'tcp_proxy': {
        'envoy.extensions.filters.network.tcp_proxy.v3': '''TcpProxy TcpProxy.WeightedCluster
            TcpProxy.WeightedCluster.ClusterWeight TcpProxy.TunnelingConfig TcpProxy.TcpAccessLogOptions''',
    },
    'network_filters': {
        'envoy.extensions.filters.network.connection_limit.v3': 'ConnectionLimit',
        'envoy.extensions.filters.network.direct_response.v3': 'Config',
        'envoy.extensions.filters.network.echo.v3': 'Echo',
        'envoy.extensions.filters.network.local_ratelimit.v3': 'LocalRateLimit',
        'envoy.extensions.filters.network.sni_cluster.v3': 'SniCluster',
    },
    'rbac': {
        'envoy.config.rbac.v3': '''Action RBAC RBAC.AuditLoggingOptions Policy Permission Permission.Set Principal
            Principal.Set Principal.Authenticated SourcedMetadata''',
    },
    'network_rbac': {'envoy.extensions.filters.network.rbac.v3': 'RBAC'},
    'http_rbac': {'envoy.extensions.filters.http.rbac.v3': 'RBAC RBACPerRoute'},
    'http_connection_manager': {
        'envoy.extensions.filters.network.http_connection_manager.v3': '''HttpConnectionManager
            HttpConnectionManager.InternalAddressConfig HttpConnectionManager.UpgradeConfig Rds
            HttpConnectionManager.HcmAccessLogOptions HttpConnectionManager.SetCurrentClientCertDetails HttpFilter LocalReplyConfig ResponseMapper RequestIDExtension
            ScopedRoutes ScopedRoutes.ScopeKeyBuilder ScopedRoutes.ScopeKeyBuilder.FragmentBuilder
            ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor
            ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor.KvElement ScopedRouteConfigurationsList
            ScopedRds''',
    },
    'route': {
        'envoy.config.route.v3': '''RouteConfiguration Vhds VirtualHost Route RouteMatch RouteMatch.GrpcRouteMatchOptions
            RouteMatch.ConnectMatcher RouteAction RouteAction.MaxStreamDuration RouteAction.UpgradeConfig
            RouteAction.UpgradeConfig.ConnectConfig WeightedCluster WeightedCluster.ClusterWeight RedirectAction
            DirectResponseAction HeaderMatcher QueryParameterMatcher FilterConfig RouteAction.HashPolicy
            RouteAction.HashPolicy.Header RouteAction.HashPolicy.Cookie RouteAction.HashPolicy.CookieAttribute
            RouteAction.HashPolicy.ConnectionProperties RouteAction.HashPolicy.QueryParameter
            RouteAction.HashPolicy.FilterState ScopedRouteConfiguration ScopedRouteConfiguration.Key
            ScopedRouteConfiguration.Key.Fragment''',
    },
    'http_filters': {
        'envoy.extensions.filters.http.grpc_web.v3': 'GrpcWeb',
        'envoy.extensions.filters.http.on_demand.v3': 'OnDemand PerRouteConfig',
    },
    # Extensions that call their configuration `Config` have a module of their own.
    'grpc_http1_bridge': {'envoy.extensions.filters.http.grpc_http1_bridge.v3': 'Config'},
    'cluster': {
        'envoy.config.cluster.v3': '''Cluster Cluster.CommonLbConfig Cluster.RefreshRate Cluster.CustomClusterType
            Cluster.RoundRobinLbConfig Cluster.RingHashLbConfig Cluster.MaglevLbConfig Cluster.LeastRequestLbConfig
            Cluster.CommonLbConfig.ConsistentHashingLbConfig Cluster.OriginalDstLbConfig Cluster.TransportSocketMatch CircuitBreakers CircuitBreakers.Thresholds LoadBalancingPolicy
            LoadBalancingPolicy.Policy UpstreamConnectionOptions Cluster.EdsClusterConfig''',
    },
    'discovery': {
        'envoy.service.discovery.v3': '''DiscoveryRequest DiscoveryResponse DeltaDiscoveryRequest
            DeltaDiscoveryResponse Resource ResourceError ResourceName''',
        'google.rpc': 'Status',
    },
    'runtime': {'envoy.service.runtime.v3': 'Runtime'},
    'endpoint': {
        'envoy.config.endpoint.v3': '''ClusterLoadAssignment ClusterLoadAssignment.Policy
            ClusterLoadAssignment.Policy.DropOverload LocalityLbEndpoints LbEndpoint Endpoint''',
    },
    'load_stats': {
        'envoy.service.load_stats.v3': 'LoadStatsRequest LoadStatsResponse',
        'envoy.config.endpoint.v3': '''ClusterStats ClusterStats.DroppedRequests UpstreamLocalityStats UpstreamEndpointStats
            EndpointLoadMetricStats''',
    },
    'tls': {
        'envoy.extensions.transport_sockets.tls.v3': '''DownstreamTlsContext UpstreamTlsContext CommonTlsContext
            CommonTlsContext.CombinedCertificateValidationContext TlsParameters TlsCertificate TlsSessionTicketKeys
            CertificateValidationContext SubjectAltNameMatcher Secret GenericSecret SdsSecretConfig
            SPIFFECertValidatorConfig SPIFFECertValidatorConfig.TrustDomain''',
    },
    'access_log': {
        'envoy.config.accesslog.v3': '''AccessLog AccessLogFilter ComparisonFilter StatusCodeFilter DurationFilter
            RuntimeFilter AndFilter OrFilter HeaderFilter ResponseFlagFilter GrpcStatusFilter LogTypeFilter''',
        'envoy.extensions.access_loggers.file.v3': 'FileAccessLog',
        'envoy.extensions.access_loggers.stream.v3': 'StdoutAccessLog StderrAccessLog',
    },
    'extensions': {
        'envoy.extensions.bootstrap.internal_listener.v3': 'InternalListener',
        'envoy.extensions.clusters.dns.v3': 'DnsCluster DnsCluster.RefreshRate',
        'envoy.extensions.filters.http.router.v3': 'Router',
        'envoy.extensions.http.header_formatters.preserve_case.v3': 'PreserveCaseFormatterConfig',
        'envoy.extensions.load_balancing_policies.cluster_provided.v3': 'ClusterProvided',
        'envoy.extensions.load_balancing_policies.common.v3': 'LocalityLbConfig ConsistentHashingLbConfig',
        'envoy.extensions.load_balancing_policies.least_request.v3': 'LeastRequest',
        'envoy.extensions.load_balancing_policies.maglev.v3': 'Maglev',
        'envoy.extensions.load_balancing_policies.random.v3': 'Random',
        'envoy.extensions.load_balancing_policies.ring_hash.v3': 'RingHash',
        'envoy.extensions.load_balancing_policies.round_robin.v3': 'RoundRobin',
        'envoy.extensions.network.dns_resolver.cares.v3': 'CaresDnsResolverConfig',
        'envoy.extensions.network.dns_resolver.getaddrinfo.v3': 'GetAddrInfoDnsResolverConfig',
        'envoy.extensions.request_id.uuid.v3': 'UuidRequestIdConfig',
        'envoy.extensions.resource_monitors.downstream_connections.v3': 'DownstreamConnectionsConfig',
        'envoy.extensions.transport_sockets.internal_upstream.v3': '''InternalUpstreamTransport
            InternalUpstreamTransport.MetadataValueSource''',
        'envoy.extensions.transport_sockets.proxy_protocol.v3': 'ProxyProtocolUpstreamTransport',
        'envoy.extensions.transport_sockets.raw_buffer.v3': 'RawBuffer',
        'envoy.extensions.upstreams.http.v3': '''HttpProtocolOptions
            HttpProtocolOptions.ExplicitHttpConfig HttpProtocolOptions.UseDownstreamHttpConfig
            HttpProtocolOptions.AutoHttpConfig''',
    },
}
# Lists that may be long: kept as bytes and decoded element by element, so that they never stand decoded all at once.
ENCODED = {
    ('envoy.config.bootstrap.v3.Bootstrap.StaticResources', 'clusters'),
    ('envoy.config.bootstrap.v3.Bootstrap.StaticResources', 'listeners'),
    ('envoy.config.route.v3.RouteConfiguration', 'virtual_hosts'),
}
# Members of oneofs that lead back to their own message by way of another.
BOXED = {('envoy.type.matcher.v3.ListMatcher', 'one_of'), ('xds.type.matcher.v3.Matcher.OnMatch', 'matcher')}
F = descriptor_pb2.FieldDescriptorProto
# Proto scalar: (prost attribute, Rust type).
SCALARS = {
    F.TYPE_DOUBLE: ('double', 'f64'), F.TYPE_FLOAT: ('float', 'f32'), F.TYPE_INT64: ('int64', 'i64'),
    F.TYPE_UINT64: ('uint64', 'u64'), F.TYPE_INT32: ('int32', 'i32'), F.TYPE_BOOL: ('bool', 'bool'),
    F.TYPE_STRING: ('string', 'String'), F.TYPE_BYTES: ('bytes = "vec"', 'Vec<u8>'), F.TYPE_UINT32: ('uint32', 'u32'),
}
# Wrappers decode as the value itself: prost implements `Message` for these.
WRAPPERS = {
    f'google.protobuf.{name}Value': rust for name, rust in (
        ('Bool', 'bool'), ('UInt32', 'u32'), ('UInt64', 'u64'), ('Int32', 'i32'), ('Int64', 'i64'),
        ('Double', 'f64'), ('Float', 'f32'), ('String', 'String'), ('Bytes', 'Vec<u8>'))
}
KEYWORDS = {'type', 'match', 'ref', 'self', 'mod', 'use'}


def camel(snake):
    name = ''.join(part[:1].upper() + part[1:] for part in snake.split('_'))
    return 'SelfSource' if name == 'Self' else name


def upper_camel_of_value(value, prefix):
    """`LOGICAL_DNS` of enum `DiscoveryType` is `LogicalDns`; a prefix that repeats the enum's name is cut."""
    if value.startswith(prefix + '_') and not value[len(prefix) + 1].isdigit():
        value = value[len(prefix) + 1:]
    return ''.join(part.capitalize() if part.isupper() else part for part in value.split('_'))


class Generator:
    def __init__(self, files):
        self.messages, self.enums = {}, {}
        for file in files.values():
            self.index(file.package, file.message_type, file.enum_type)
        self.kept, self.module_of_package = {}, {}
        for module, packages in KEEP.items():
            for package, names in packages.items():
                self.module_of_package.setdefault(package, module)
                for name in names.split():
                    full = f'{package}.{name}'
                    if full not in self.messages:
                        raise SystemExit(f'no such message: {full}')
                    self.kept[full] = (module, name.replace('.', ''))
        self.enums_used = {}

    def index(self, scope, messages, enums):
        for enum in enums:
            self.enums[f'{scope}.{enum.name}'] = enum
        for message in messages:
            self.messages[f'{scope}.{message.name}'] = message
            self.index(f'{scope}.{message.name}', message.nested_type, message.enum_type)

    def enum(self, full):
        """Rust path of an enum that a kept message uses: where its message or its package goes, else `types`."""
        package = max((p for p in self.module_of_package if full.startswith(p + '.')), key=len, default=None)
        if package is None:
            module, name = 'types', full.rsplit('.', 1)[1]
        else:
            module, _ = self.kept.get(full.rsplit('.', 1)[0], (self.module_of_package[package], None))
            name = full[len(package) + 1:].replace('.', '')
        self.enums_used[full] = (module, name)
        return module, name

    def kind(self, field, module):
        """(prost attribute, Rust type, is a message) of one value of the field."""
        if field.type in SCALARS:
            return *SCALARS[field.type], False
        full = field.type_name[1:]
        if field.type == F.TYPE_ENUM:
            owner, name = self.enum(full)
            path = name if owner == module else f'super::{owner}::{name}'
            return f'enumeration = "{path}"', 'i32', False
        assert field.type == F.TYPE_MESSAGE, field
        if full in WRAPPERS:
            return 'message', WRAPPERS[full], True
        if full in self.kept:
            owner, name = self.kept[full]
            return 'message', name if owner == module else f'super::{owner}::{name}', True
        return 'bytes = "vec"', 'Vec<u8>', True

    def field(self, full, field, message, module):
        name = ('r#' if field.name in KEYWORDS else '') + field.name
        entry = next((n for n in message.nested_type if n.options.map_entry and
                      field.type_name.endswith(f'.{message.name}.{n.name}')), None)
        if entry is not None:
            key, _, _ = self.kind(entry.field[0], module)
            value, rust, _ = self.kind(entry.field[1], module)
            value = 'bytes' if value.startswith('bytes') else value
            assert key == 'string', message.name
            return f'#[prost(btree_map = "string, {value}", tag = "{field.number}")]\n' \
                   f'pub {name}: std::collections::BTreeMap<String, {rust}>,'
        attribute, rust, is_message = self.kind(field, module)
        if (full, field.name) in ENCODED:
            attribute, rust = SCALARS[F.TYPE_BYTES]
        label = ''
        if field.label == F.LABEL_REPEATED:
            label, rust = ', repeated', f'Vec<{rust}>'
        elif is_message or field.proto3_optional:
            label, rust = ', optional', f'Option<{rust}>'
        return f'#[prost({attribute}{label}, tag = "{field.number}")]\npub {name}: {rust},'

    def message(self, full):
        module, rust_name = self.kept[full]
        message = self.messages[full]
        out, oneofs, seen = [], [], set()
        for field in message.field:
            if not field.HasField('oneof_index') or field.proto3_optional:
                out.append(self.field(full, field, message, module))
                continue
            if field.oneof_index in seen:
                continue
            seen.add(field.oneof_index)
            oneof = message.oneof_decl[field.oneof_index].name
            members = [f for f in message.field
                       if f.HasField('oneof_index') and f.oneof_index == field.oneof_index]
            tags = ', '.join(str(f.number) for f in members)
            enum_name = f'{rust_name}{camel(oneof)}OneOf'
            field_name = ('r#' if oneof in KEYWORDS else '') + oneof
            out.append(f'#[prost(oneof = "{enum_name}", tags = "{tags}")]\npub {field_name}: Option<{enum_name}>,')
            variants = []
            for member in members:
                attribute, rust, _ = self.kind(member, module)
                recursive = rust == rust_name or (full, member.name) in BOXED
                boxed = ', boxed' if recursive and attribute == 'message' else ''
                rust = f'Box<{rust}>' if boxed else rust
                variants.append(f'#[prost({attribute}{boxed}, tag = "{member.number}")]\n{camel(member.name)}({rust}),')
            oneofs.append(f'/// Oneof `{oneof}` of `{full}`.\n#[derive(Clone, PartialEq, prost::Oneof)]\n'
                          f'pub enum {enum_name} {{\n' + '\n'.join(variants) + '\n}\n')
        text = f'/// `{full}`\n#[derive(Clone, PartialEq, prost::Message)]\npub struct {rust_name} {{\n' \
            + '\n'.join(out) + '\n}\n' \
            + f'impl super::Named for {rust_name} {{ const NAME: &\'static str = "{full}"; }}\n'
        return text + '\n'.join(oneofs)

    def enum_text(self, full):
        _, name = self.enums_used[full]
        enum = self.enums[full]
        prefix = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', enum.name).upper()
        values, arms, seen = [], [], set()
        for value in enum.value:
            if value.number in seen:
                continue
            seen.add(value.number)
            variant = upper_camel_of_value(value.name, prefix)
            values.append(f'{variant} = {value.number},')
            arms.append(f'Self::{variant} => "{value.name}",')
        return f'/// `{full}`\n#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]\n' \
            f'#[repr(i32)]\npub enum {name} {{\n' + '\n'.join(values) + '\n}\n' \
            f'impl super::EnumName for {name} {{\nfn proto_name(self) -> &\'static str {{ match self {{\n' \
            + '\n'.join(arms) + '\n} } }\n'

    def write(self):
        modules = {module: [] for module in KEEP}
        for full, (module, _) in self.kept.items():
            modules[module].append(self.message(full))
        for full, (module, _) in sorted(self.enums_used.items()):
            modules[module].append(self.enum_text(full))
        OUT.mkdir(parents=True, exist_ok=True)
        for module, parts in modules.items():
            packages = ', '.join(f'`{p}`' for p in KEEP[module])
            path = OUT / f'{module}.rs'
            path.write_text(f'//! Messages of {packages}. Generated by `proto/prost_subset.py`: do not edit.\n\n'
                            + '\n'.join(parts))
            subprocess.run(['rustfmt', '--edition', '2024', '--config-path', OUT.parents[3], path], check=True)


if __name__ == '__main__':
    Generator(descriptors.read(sys.argv[1])).write()
