//! Every hard maximum that configuration cannot raise: value, unit, reason, source.

use std::time::Duration;

/// Bytes of a small chunk: one page, enough for the head and small body of a usual request.
pub const SMALL_CHUNK_BYTES: usize = 4 * 1024;
/// Bytes of a large chunk, used while a body streams. Measured: 64 KiB moves a 1 MiB body at 704 µs of CPU, 4 KiB at
/// 1,888 µs (ARCHITECTURE.md, performance).
pub const LARGE_CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of a record chunk: five pages, which hold the largest TLS record (16 KiB, and 2 KiB that TLS 1.2 may add).
pub const RECORD_CHUNK_BYTES: usize = 20 * 1024;
/// Small chunks per worker. Address space, not memory: a page counts once touched. Beyond it reads pause until a chunk
/// comes back (`ringway.buffer_exhausted`).
pub const SMALL_CHUNKS_MAX: usize = 32 * 1024;
/// Large chunks per worker (128 MiB of address space). Beyond it reads fall back to small chunks.
pub const LARGE_CHUNKS_MAX: usize = 2 * 1024;
/// Record chunks per worker (80 MiB of address space). Beyond it large chunks take their place.
pub const RECORD_CHUNKS_MAX: usize = 4 * 1024;

/// Bytes per worker of TLS messages that are not whole, in pages: within handshakes all, later those of more than a record.
/// Reason: a peer may begin a message and never end it; five hundred that are begun are more than a core works on in a
/// round trip. Beyond it the message that was begun first is given up, and its connection fails
/// (`ringway.tls.unfinished_messages_refused`).
pub const TLS_UNFINISHED_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest TLS handshake of a client where `transport_socket_connect_timeout` sets none, in milliseconds. Reason: Envoy waits
/// for ever, and a connection that never says anything is then there for ever.
pub const TLS_HANDSHAKE_MS: u64 = 15_000;

/// How long a client whose handshake was refused may take to read why, in milliseconds.
pub const TLS_REFUSAL_MS: u64 = 1_000;

/// How long what is queued for one side of a relay or a tunnel may take to reach the kernel, of a stream its connection, when the
/// other side has broken off, in milliseconds. Reason: a break destroys what has not, and a peer without room is not waited
/// for.
pub const RELAY_BREAK_MS: u64 = 10;

/// Sockets of one worker: accepted, listening and towards upstreams. The fd limit is reached long before.
pub const SOCKETS_MAX: usize = 1 << 20;
/// Connections accepted from one listening socket before other work gets its turn.
pub const ACCEPTS_PER_TURN: usize = 64;
/// Connections of one listener on their way to one worker; beyond it the worker that accepted them serves them. Reason:
/// a worker that does not get on must not collect them.
pub const HANDOVERS_MAX: u64 = 1024;
/// Workers whose numbers are compared before a connection is handed over, unless the balance is exact. Reason: each may
/// be a cache line from another core; the best of eight at random is close to the best of all.
pub const WORKERS_LOOKED_AT_MAX: usize = 8;
/// Pipes of one worker with bytes in them, for bodies and relays that are spliced. Reason: the kernel counts their pages by
/// user, 64 MiB unless configured. Beyond it bytes are copied (`ringway.io.splice_refused`).
pub const PIPES_MAX: usize = 64;
/// Bytes that a pipe takes where the kernel permits it; at least a large chunk, or it is of no use.
pub const PIPE_BYTES: usize = 256 * 1024;
/// Task polls between two visits to the kernel: more wait for the next turn, so that no burst starves the sockets.
pub const POLLS_PER_TURN: usize = 512;
/// Requests of one connection of HTTP/1 that its task may serve before others have their turn. Reason: those that have come
/// already and are answered here have it never wait, and a turn has as many polls as the constant above says.
pub const REQUESTS_PER_POLL: u32 = 4;
/// Buffers handed to one `sendmsg`.
pub const SEND_IOVECS_MAX: usize = 16;
/// How long a listening socket rests after the process ran out of descriptors, in milliseconds.
pub const ACCEPT_BACKOFF_MS: u64 = 50;

/// Connections to internal listeners that may lie in each other. Reason: a listener whose cluster leads to itself would open
/// one for the other until there is no memory; what tunnels need are two or three. Beyond it a connect fails
/// (`ringway.io.internal_refused`).
pub const INTERNAL_NESTING_MAX: u8 = 16;
/// Ends of connections to internal listeners on one worker. Reason: no limit of descriptors holds for them. Beyond it a connect
/// fails (`ringway.io.internal_refused`).
pub const INTERNAL_ENDS_MAX: usize = 64 * 1024;

/// Listening sockets of one address that a process takes from the one it replaces: twice the workers that can be had.
pub const LISTEN_SOCKETS_INHERITED_MAX: usize = 16_384;

/// Shortest wait between two resolutions of a DNS name, in milliseconds. A failed one waits a random time below its
/// interval, which may come out as nothing; this keeps a dead name server from being asked in a loop.
pub const DNS_WAIT_MIN_MS: u64 = 10;
/// Endpoint updates of one cluster that wait for the control thread; beyond it resolution pauses.
pub const ENDPOINT_UPDATES_QUEUED_MAX: usize = 64;

/// Responses of control planes, as what they change, on their way to the control thread's loop. Beyond it nothing more is read
/// from them.
pub const XDS_UPDATES_QUEUED_MAX: usize = 64;

/// Containers (objects, lists, messages) within one another in a configuration. Envoy's limit, measured with 1.40; beyond
/// it the configuration is refused.
pub const CONFIG_DEPTH_MAX: usize = 100;
/// Bytes of one configuration text. A tree of it takes some ten times as much while it is loaded. Beyond it: refused.
pub const CONFIG_TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Values that YAML aliases may add to one document: an alias of an alias of an alias multiplies. Beyond it: refused.
pub const CONFIG_ALIASED_VALUES_MAX: usize = 256 * 1024;
/// Bytes of a map's key that paths of mistakes show: a control plane's may be as long as its message, and stands in the path of
/// every mistake within. Beyond it: its beginning.
pub const CONFIG_KEY_BYTES_SHOWN_MAX: usize = 256;
/// Mistakes reported for one configuration, and warnings; what follows is usually more of the same. Beyond it: counted.
pub const CONFIG_ERRORS_MAX: usize = 100;
/// Fields without effect, those not implemented and those refused, of each so many, that are reported for one configuration or
/// resource. Reason: each has its path, and a message of a few bytes per element may set one in each. Beyond it: counted.
pub const CONFIG_FINDINGS_MAX: usize = 1000;
/// Numbers of fields that the API does not have which are told of one message. Reason: a message of 200 MiB has room for 50
/// million. Beyond it: counted, as often as they stand there.
pub const CONFIG_UNKNOWN_NUMBERS_MAX: usize = 100;

/// Matchers and conditions within one another in a matcher (`xds.type.matcher.v3.Matcher`). Reason: they are followed by
/// recursion; Envoy bounds them by the depth of a configuration. Beyond it: refused.
pub const MATCHER_DEPTH_MAX: usize = CONFIG_DEPTH_MAX;
/// Matchers, conditions, actions, ranges and names in a matcher. Reason: one question may look at all of them. Beyond it:
/// refused.
pub const MATCHER_ENTRIES_MAX: usize = 256 * 1024;

/// Most header lines of one HTTP/1 head, whatever `max_headers_count` says. Reason: the parser's
/// table of headers lives on the stack, 32 bytes each. Beyond it: 431, or 502 for a response.
pub const HEADERS_MAX: usize = 1024;

/// Most bytes of the extensions of one chunk. Reason: nothing on the path reads them; the signed
/// uploads that use them take about 90. Beyond it: 400, or a reset. Source: RFC 9112 §7.1.1.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 1024;

/// Most bytes by which a body's chunk extensions may outweigh its data. Reason: without it one byte
/// of data per kilobyte of extension keeps a core busy. Beyond it: 400, or a reset.
pub const CHUNK_EXTENSION_EXCESS_BYTES_MAX: u64 = 16 * 1024;

/// Most options that the `Connection` headers of one head may list. Beyond it: 400. Source: Envoy
/// refuses ten and more (`MAX_ALLOWED_NOMINATED_HEADERS`).
pub const CONNECTION_OPTIONS_MAX: usize = 9;

/// Bytes one regular expression's program may take; beyond it the configuration is refused. RE2's own budget is 8 MiB.
pub const REGEX_PROGRAM_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of lazily built automaton one core keeps for one regular expression. Beyond it the automaton starts afresh, and
/// if that happens too often the search goes on without one: slower, still linear.
pub const REGEX_CACHE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of one file of certificates, keys or lists, read again while the process runs. The same as for any file that
/// configuration names. Beyond it the last good one stays.
pub const TLS_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What may be spent on making the key of an encrypted private key out of its password: blocks of 128 bytes that scrypt mixes, in
/// memory, 128 MiB of them. Reason: the encrypted key says how many, and it is done on the control thread. Beyond it: refused.
pub const TLS_KEY_COST_MAX: u64 = 1024 * 1024;
/// Iterations of PBKDF2 that cost as much as such a block; 16 million are a few seconds, a thousandth is usual.
pub const TLS_KEY_ITERATIONS_PER_COST: u64 = 16;

/// Bytes that may wait for a receiver, from which large chunks are read for it. Reason: where less may, as for one of many
/// streams, a large chunk would be several times that.
pub const LARGE_READ_ROOM_MIN: usize = LARGE_CHUNK_BYTES / 2;

/// Names of TLS under which a core keeps connections to one endpoint, where requests choose the name. Reason: clients choose
/// it, and each has connections of its own. Beyond it those of the name that was asked for longest ago go.
pub const NAMES_PER_HOST_MAX: usize = 256;
/// Endpoints of a cluster of type `ORIGINAL_DST` that a core remembers. Reason: clients choose them, and each takes memory until
/// the cluster's `cleanup_interval` is over. Beyond it those without connections go at once; if all have some, a further
/// destination is not reached and counted as `upstream_cx_pool_overflow`.
pub const ORIGINAL_DST_HOSTS_MAX: usize = 8192;
/// Clients for whom a core keeps connections to one endpoint, where those are a client's own (PROXY protocol, `original_src`).
/// Reason: each idle one takes a socket here and there until its time is over. Beyond it those of the client that asked
/// longest ago go.
pub const CLIENTS_PER_HOST_MAX: usize = 1024;

/// Bytes of the longest message of a control plane. Reason: the whole state of a large mesh is one message, and it stands
/// in memory at once. Beyond it the stream ends and begins again.
pub const XDS_MESSAGE_BYTES_MAX: usize = 200 * 1024 * 1024;

/// Bytes of one file of a runtime layer, files of it, and directories within one another (the last from Envoy). Reason: who writes
/// them means values, and all of them are read at once. Beyond it: the layer is not used, which is counted
/// (`runtime.load_error`).
pub const RUNTIME_FILE_BYTES_MAX: u64 = 64 * 1024;
pub const RUNTIME_FILES_MAX: usize = 64 * 1024;
pub const RUNTIME_DIRECTORIES_DEPTH_MAX: usize = 16;

/// Most resources that a refusal names, with at most so many bytes of reasons: it goes back in one message.
pub const XDS_REFUSAL_BYTES_MAX: usize = 16 * 1024;

/// Bytes of the reason for which a resource is refused, and of the version that it is of, as they are told and listed: parts of the
/// resource may stand in them. Beyond it they are cut.
pub const XDS_REASON_BYTES_MAX: usize = 2 * 1024;

/// Bytes of a resource's name that a refusal shows, so that it names some, whatever they are called. Beyond it: its beginning.
pub const XDS_NAME_BYTES_SHOWN_MAX: usize = 256;

/// Bytes of a refused resource that is kept to be shown. Beyond it only why it was refused is shown.
pub const XDS_REFUSED_BYTES_MAX: usize = 64 * 1024;

/// Shortest time between two load reports. A server that asks for less, or says nothing, has them so often: Envoy would tell it
/// without a pause.
pub const LOAD_REPORT_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Metrics under names of the endpoint's own in one report of its load (ORCA), one that comes again counting again. Reason: each is
/// compared with those before it. Beyond it nothing of the report is told (`ringway.load_metrics.refused`).
pub const LOAD_METRICS_PER_REPORT_MAX: usize = 256;
/// Metrics of one endpoint that a worker adds up. Reason: endpoints choose their names, and one is looked for among all. Beyond it
/// one of which all is told makes way; if there is none, the value is not told (`ringway.load_metrics.refused`).
pub const LOAD_METRICS_PER_HOST_MAX: usize = 256;
/// Bytes of such a metric's name, with the family that it is of. Beyond it its values are not told (`ringway.load_metrics.refused`).
pub const LOAD_METRIC_NAME_BYTES_MAX: usize = 256;

/// Resources of control planes that cannot be used and are listed by the admin endpoint; more are counted.
pub const XDS_QUARANTINED_MAX: usize = 1000;

/// Attempts before the last that a record tells of. Reason: a relayed connection may make any number (`max_connect_attempts`), and
/// keeps what is told of them as long as it lasts. Beyond it: the first of them and the last are told
/// (`%UPSTREAM_REQUEST_ATTEMPT_COUNT%` has their number).
pub const ATTEMPTS_NOTED_MAX: usize = 16;

/// How long a request waits for the virtual host that it asks for (the filter `on_demand`), and a name counts as asked for at its
/// control plane without an answer. Reason: Envoy lets it wait until a timeout of the stream passes, which may be five minutes or
/// none. Beyond it: it goes on with the routes that there are (`ringway.on_demand_vhds.timeout`).
pub const ON_DEMAND_WAIT: Duration = Duration::from_secs(15);
/// How long a name is not asked for again behind an answer. Reason: clients choose names, and a control plane is to hear of each
/// that it has not only so often.
pub const ON_DEMAND_ANSWER_KEPT: Duration = Duration::from_secs(5);
/// Names that one worker has asked for or has had answered just now; so many for each of the last may be new to a control plane.
/// Reason: clients choose them. Beyond it requests are answered as if there were nothing (`ringway.on_demand_vhds.refused`).
pub const ON_DEMAND_NAMES_MAX: usize = 1024;
/// Shortest time between two looks for names that need not be kept, while there are too many.
pub const ON_DEMAND_LOOKS: Duration = Duration::from_millis(100);
/// Requests of one worker that wait for virtual hosts. Beyond it: as for names.
pub const ON_DEMAND_HELD_MAX: usize = 1024;
/// Names on their way from all workers to the control thread. Beyond it: as for names.
pub const ON_DEMAND_QUEUED_MAX: usize = 256;
/// What workers wait for that is made with its first use, and that is not being made yet. Beyond it they make it themselves. Reason:
/// each is a few dozen bytes, and beyond so many that one thread makes them is no help.
pub const DEFERRED_QUEUED_MAX: usize = 1024;
/// Bytes of a host that is asked for: the longest name of DNS, and a port. Beyond it: as for names.
pub const ON_DEMAND_HOST_BYTES_MAX: usize = 253 + 6;
/// Names of one table that its control plane has been asked for and has not answered. Beyond it: as for names.
pub const ON_DEMAND_UNDER_WAY_MAX: usize = 256;
/// Names of one table that are asked for, with those that were answered by a virtual host and are asked for as long as it is
/// there. Beyond it: as for names.
pub const ON_DEMAND_ASKED_MAX: usize = 10_000;

/// Fields that control planes set and this version lacks of which a warning tells, each once; more are told of at debug level.
pub const XDS_LACKING_SAID_MAX: usize = 1000;
