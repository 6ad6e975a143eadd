//! Header changes, as configured at the four levels: weighted cluster, route, virtual host, route configuration.

/// Header changes of one level. Removals happen before additions. Default: none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderMutations {
    /// Added to, or set on, the request before it goes upstream. Source: `request_headers_to_add`.
    pub request_add: Vec<HeaderValueOption>,
    /// Removed from the request; never `Host` or a pseudo header (refused as in Envoy). Source: `request_headers_to_remove`.
    pub request_remove: Vec<Box<str>>,
    /// Added to, or set on, the response before it goes downstream. Source: `response_headers_to_add`.
    pub response_add: Vec<HeaderValueOption>,
    /// Removed from the response. Source: `response_headers_to_remove`.
    pub response_remove: Vec<Box<str>>,
}

impl HeaderMutations {
    /// Whether nothing is changed at this level.
    pub fn is_empty(&self) -> bool {
        self.request_add.is_empty()
            && self.request_remove.is_empty()
            && self.response_add.is_empty()
            && self.response_remove.is_empty()
    }
}

/// One header to add or set. Source: `envoy.config.core.v3.HeaderValueOption`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderValueOption {
    /// Name. Source: `header.key`.
    pub key: Box<str>,
    /// Format string with command operators (`%REQ(...)%`, ...); at most 16,384 bytes. Source: `header.value`, `header.raw_value`.
    pub value: Box<str>,
    /// What happens when the header is there already. Default `AppendIfExistsOrAdd`. Source: `append_action`, or the
    /// older `append` (false: `OverwriteIfExistsOrAdd`).
    pub append_action: HeaderAppendAction,
    /// Whether the header is added even when its value comes out empty. Default false. Source: `keep_empty_value`.
    pub keep_empty_value: bool,
}

/// What happens when a header to add is there already. Source: `HeaderValueOption.HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderAppendAction {
    /// Add a further value. Source: `APPEND_IF_EXISTS_OR_ADD`.
    #[default]
    AppendIfExistsOrAdd,
    /// Do nothing. Source: `ADD_IF_ABSENT`.
    AddIfAbsent,
    /// Replace all its values; add it when missing. Source: `OVERWRITE_IF_EXISTS_OR_ADD`.
    OverwriteIfExistsOrAdd,
    /// Replace all its values; do nothing when missing. Source: `OVERWRITE_IF_EXISTS`.
    OverwriteIfExists,
}
