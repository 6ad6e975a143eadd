//! The TLVs of a TCP proxy's own, beside those of a client's header, as connections to endpoints may begin with them. Source:
//! Envoy `TcpProxy.proxy_protocol_tlvs`.

use crate::config::access_log::SubstitutionFormat;
use crate::config::error::ConfigError;
use crate::config::proxy_protocol::{HeaderTlvs as Config, OwnedTlv, TlvMerge};
use crate::format::context::FormatContext;
use crate::format::substitution::SubstitutionFormatter;

/// See the file's head.
#[derive(Debug)]
pub struct HeaderTlvs {
    fixed: Box<[OwnedTlv]>,
    formats: Box<[(u8, SubstitutionFormatter)]>,
    merge: TlvMerge,
}

impl HeaderTlvs {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// A value is no format string.
    pub fn compile(config: &Config) -> Result<Self, ConfigError> {
        let Config { fixed, formats, merge } = config;
        let format = |(kind, format): &(u8, SubstitutionFormat)| {
            SubstitutionFormatter::compile(format, "proxy_protocol_tlvs.format_string")
                .map(|format| (*kind, format))
        };
        Ok(Self {
            fixed: fixed.as_slice().into(),
            formats: formats.iter().map(format).collect::<Result<_, _>>()?,
            merge: *merge,
        })
    }

    /// Whether they change anything for a client; `has_header`: its connection has begun with one.
    pub fn apply(&self, has_header: bool) -> bool {
        !has_header || self.merge != TlvMerge::AddIfAbsent
    }

    /// All TLVs of a client for whom they apply, in their order. `theirs`: those of its header, if there was one.
    pub fn merged(&self, theirs: Option<&[OwnedTlv]>, context: &FormatContext<'_>) -> Vec<OwnedTlv> {
        let mut ours = self.fixed.to_vec();
        for (kind, format) in &self.formats {
            let mut value = Vec::new();
            format.write(context, &mut value);
            ours.push((*kind, value.into()));
        }
        let theirs = theirs.unwrap_or_default();
        match self.merge {
            TlvMerge::AddIfAbsent => ours,
            TlvMerge::OverwriteByType => {
                let count = ours.len();
                for tlv in theirs {
                    if ours.iter().take(count).all(|(kind, _)| *kind != tlv.0) {
                        ours.push(tlv.clone());
                    }
                }
                ours
            }
            TlvMerge::Append => [theirs, &ours].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::access_log::FormatTemplate;
    use crate::protocol::stream_info::{StreamInfo, set_text};

    fn tlv(kind: u8, value: &str) -> OwnedTlv {
        (kind, value.as_bytes().into())
    }

    /// Types 5 and 5 are fixed, 6 is the server's name.
    fn tlvs(merge: TlvMerge) -> HeaderTlvs {
        let format = SubstitutionFormat {
            template: FormatTemplate::Text("%REQUESTED_SERVER_NAME%".into()),
            omit_empty_values: false,
            content_type: None,
        };
        let config = Config { fixed: vec![tlv(5, "a"), tlv(5, "b")], formats: vec![(6, format)], merge };
        HeaderTlvs::compile(&config).unwrap()
    }

    #[test]
    fn header_of_the_client_has_its_own_or_ours_or_both() {
        let mut info = StreamInfo::default();
        set_text(&mut info.requested_server_name, "a.test");
        let context = FormatContext::new(&info, 0, 0);
        let theirs = [tlv(7, "x"), tlv(6, "y"), tlv(7, "z")];
        let ours = [tlv(5, "a"), tlv(5, "b"), tlv(6, "a.test")];
        for (merge, expected) in [
            (TlvMerge::OverwriteByType, [&ours[..], &[tlv(7, "x"), tlv(7, "z")]].concat()),
            (TlvMerge::Append, [&theirs[..], &ours].concat()),
        ] {
            assert!(tlvs(merge).apply(true));
            assert_eq!(tlvs(merge).merged(Some(&theirs), &context), expected, "{merge:?}");
        }
        assert!(!tlvs(TlvMerge::AddIfAbsent).apply(true), "even if it has none");
    }

    #[test]
    fn client_without_a_header_has_ours_whatever_the_policy() {
        let info = StreamInfo::default();
        let context = FormatContext::new(&info, 0, 0);
        let expected = [tlv(5, "a"), tlv(5, "b"), tlv(6, "-")];
        for merge in [TlvMerge::AddIfAbsent, TlvMerge::OverwriteByType, TlvMerge::Append] {
            assert!(tlvs(merge).apply(false));
            assert_eq!(tlvs(merge).merged(None, &context), expected, "{merge:?}");
        }
    }
}
