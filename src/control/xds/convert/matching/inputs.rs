//! What conditions and maps look at.
use super::super::at::At;
use super::super::fields::classify;
use super::super::metadata_matcher;
use super::super::report::Class;
use super::super::value::type_name;
use crate::config::matching::Input;
use crate::control::xds::pb::{self, Named};

/// An input.
pub(super) enum Source {
    /// A text, or an address.
    Text(Input),
    /// A value that filters have noted, which is no text. Source: `DynamicMetadataInput`.
    Metadata { filter: Box<str>, path: Vec<Box<str>> },
}

/// An input by its type.
pub(super) fn source(at: &At<'_>, any: &pb::google::Any) -> Option<Source> {
    Some(Source::Text(match type_name(any) {
        pb::matching::DestinationIPInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::DestinationIPInput {});
            Input::DestinationIp
        }
        pb::matching::DestinationPortInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::DestinationPortInput {});
            Input::DestinationPort
        }
        pb::matching::SourceIPInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::SourceIPInput {});
            Input::SourceIp
        }
        pb::matching::SourcePortInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::SourcePortInput {});
            Input::SourcePort
        }
        pb::matching::DirectSourceIPInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::DirectSourceIPInput {});
            Input::DirectSourceIp
        }
        pb::matching::SourceTypeInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::SourceTypeInput {});
            Input::SourceType
        }
        pb::matching::ServerNameInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::ServerNameInput {});
            Input::ServerName
        }
        pb::matching::TransportProtocolInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::TransportProtocolInput {});
            Input::TransportProtocol
        }
        pb::matching::ApplicationProtocolInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::ApplicationProtocolInput {});
            Input::ApplicationProtocol
        }
        pb::matching::UriSanInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::UriSanInput {});
            Input::UriSan
        }
        pb::matching::DnsSanInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::DnsSanInput {});
            Input::DnsSan
        }
        pb::matching::SubjectInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::matching::SubjectInput {});
            Input::Subject
        }
        pb::types::HttpRequestHeaderMatchInput::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::types::HttpRequestHeaderMatchInput { implemented: header_name; });
            Input::RequestHeader(header_name.into())
        }
        pb::matching::DynamicMetadataInput::NAME => return metadata(at, at.unpack(any)?),
        _ => {
            at.extension(Class::Refused, any, "");
            return None;
        }
    }))
}

fn metadata(at: &At<'_>, message: pb::matching::DynamicMetadataInput) -> Option<Source> {
    use pb::matching::DynamicMetadataInputPathSegmentSegmentOneOf as Segment;
    classify!(at, message => pb::matching::DynamicMetadataInput { implemented: filter, path; });
    let key = |at: &At<'_>, message: pb::matching::DynamicMetadataInputPathSegment| {
        classify!(at, message => pb::matching::DynamicMetadataInputPathSegment { implemented: segment; });
        segment.map(|Segment::Key(key)| key)
    };
    let (filter, path) = metadata_matcher::place(at, filter, path, key)?;
    Some(Source::Metadata { filter, path })
}
