//! [`LocalReplies`]: how replies of the proxy's own are rewritten before they are sent.

use crate::base::regex::RegexSlots;
use crate::config::access_log::{FormatTemplate, LocalReplyConfig, ResponseMapper, SubstitutionFormat};
use crate::config::error::ConfigError;
use crate::protocol::http::head::Head;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::stream_info::StreamInfo;

use super::context::FormatContext;
use super::filter::Filter;
use super::header_additions::{HeaderAdditions, HeaderScratch};
use super::substitution::SubstitutionFormatter;

const TEXT_PLAIN: &str = "text/plain";
const APPLICATION_JSON: &str = "application/json";

/// A compiled `LocalReplyConfig`. The default rewrites nothing.
#[derive(Debug, Clone, Default)]
pub struct LocalReplies {
    mappers: Box<[Mapper]>,
    body_format: Option<BodyFormat>,
}

#[derive(Debug, Clone)]
struct Mapper {
    filter: Filter,
    status_code: Option<u16>,
    body: Option<Box<[u8]>>,
    body_format: Option<BodyFormat>,
    headers_to_add: HeaderAdditions,
}

#[derive(Debug, Clone)]
struct BodyFormat {
    formatter: SubstitutionFormatter,
    content_type: Box<str>,
}

/// A reply to rewrite, and what its formats may read.
#[derive(Debug)]
pub struct LocalReply<'a> {
    /// The request's head; `None`: none was parsed.
    pub request: Option<&'a Head>,
    /// The reply's head; its status is set already. Headers are added and the status is changed here.
    pub response: &'a mut Head,
    /// Its response code is made that of the reply.
    pub info: &'a mut StreamInfo,
    /// The reply's own text.
    pub body: &'a [u8],
    /// See [`FormatContext::now_ns`].
    pub now_ns: u64,
    /// See [`FormatContext::random`].
    pub random: u64,
}

impl LocalReplies {
    /// Compiles the configuration; `path` is its field path. Regular expressions of filters take their
    /// places in `slots`.
    ///
    /// # Errors
    /// When a filter, a format or a header to add is wrong.
    pub fn compile(
        config: &LocalReplyConfig,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let LocalReplyConfig { mappers, body_format } = config;
        let mappers = mappers
            .iter()
            .enumerate()
            .map(|(index, mapper)| Mapper::compile(mapper, &format!("{path}.mappers[{index}]"), slots))
            .collect::<Result<_, _>>()?;
        let body_format = BodyFormat::compile(body_format.as_ref(), &format!("{path}.body_format"))?;
        Ok(Self { mappers, body_format })
    }

    /// Applies the first mapper whose filter matches, then writes the body to `out`, which is emptied
    /// first. Returns the body's content type.
    ///
    /// As Envoy 1.40 does it: the filter sees the reply's own status; headers are evaluated before the
    /// mapper's status is set, and `%LOCAL_REPLY_BODY%` is empty in them; the body's format sees all.
    pub fn rewrite(
        &self,
        reply: &mut LocalReply<'_>,
        matching: &mut MatchScratch,
        headers: &mut HeaderScratch,
        out: &mut Vec<u8>,
    ) -> &str {
        out.clear();
        reply.info.response_code = Some(reply.response.status());
        let context = reply.context(reply.body);
        let mapper = self.mappers.iter().find(|mapper| mapper.filter.matches(&context, matching));
        let mut body = reply.body;
        let mut format = self.body_format.as_ref();
        if let Some(mapper) = mapper {
            body = mapper.body.as_deref().unwrap_or(body);
            mapper.headers_to_add.evaluate(&reply.context(b""), reply.response, headers);
            mapper.headers_to_add.put(reply.response, headers);
            if let Some(status) = mapper.status_code {
                reply.response.set_status(status);
                reply.info.response_code = Some(status);
            }
            format = mapper.body_format.as_ref().or(format);
        }
        match format {
            Some(BodyFormat { formatter, content_type }) => {
                formatter.write(&reply.context(body), out);
                content_type
            }
            None => {
                out.extend_from_slice(body);
                TEXT_PLAIN
            }
        }
    }
}

impl LocalReply<'_> {
    fn context<'a>(&'a self, body: &'a [u8]) -> FormatContext<'a> {
        FormatContext {
            request: self.request,
            response: Some(self.response),
            local_reply_body: body,
            ..FormatContext::new(self.info, self.now_ns, self.random)
        }
    }
}

impl Mapper {
    fn compile(config: &ResponseMapper, path: &str, slots: &mut RegexSlots) -> Result<Self, ConfigError> {
        let ResponseMapper { filter, status_code, body, body_format_override, headers_to_add } = config;
        Ok(Self {
            filter: Filter::compile(filter, &format!("{path}.filter"), slots)?,
            status_code: *status_code,
            body: body.clone(),
            body_format: BodyFormat::compile(
                body_format_override.as_ref(),
                &format!("{path}.body_format_override"),
            )?,
            headers_to_add: HeaderAdditions::compile(headers_to_add, &format!("{path}.headers_to_add"))?,
        })
    }
}

impl BodyFormat {
    fn compile(config: Option<&SubstitutionFormat>, path: &str) -> Result<Option<Self>, ConfigError> {
        let Some(config) = config else {
            return Ok(None);
        };
        let default = match config.template {
            FormatTemplate::Text(_) => TEXT_PLAIN,
            FormatTemplate::Json(_) => APPLICATION_JSON,
        };
        let content_type = config.content_type.clone().unwrap_or_else(|| default.into());
        Ok(Some(Self { formatter: SubstitutionFormatter::compile(config, path)?, content_type }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Example;
    use super::*;
    use crate::config::access_log::{AccessLogFilter, Comparison, ComparisonOp, JsonTemplate};
    use crate::config::route::{HeaderAppendAction, HeaderValueOption};
    use crate::protocol::http::headers::HeaderName;

    fn status_is(value: u32) -> AccessLogFilter {
        AccessLogFilter::StatusCode(Comparison { op: ComparisonOp::Equal, value, runtime_key: None })
    }

    fn text(template: &str) -> SubstitutionFormat {
        let template = FormatTemplate::Text(template.into());
        SubstitutionFormat { template, omit_empty_values: false, content_type: None }
    }

    fn mapper(filter: AccessLogFilter) -> ResponseMapper {
        ResponseMapper {
            filter,
            status_code: None,
            body: None,
            body_format_override: None,
            headers_to_add: Vec::new(),
        }
    }

    /// Status, content type, body and `x-added` of a 503 with the body `own`.
    fn rewritten(config: &LocalReplyConfig) -> (u16, String, String, Option<String>) {
        let mut slots = RegexSlots::default();
        let replies = LocalReplies::compile(config, "local_reply_config", &mut slots).unwrap();
        let mut example = Example::new();
        let mut response = Head::new();
        response.set_status(503);
        let mut body = b"stale".to_vec();
        let mut reply = LocalReply {
            request: Some(&example.request),
            response: &mut response,
            info: &mut example.info,
            body: b"own",
            now_ns: 0,
            random: 0,
        };
        let content_type = replies
            .rewrite(&mut reply, &mut MatchScratch::default(), &mut HeaderScratch::default(), &mut body)
            .to_owned();
        assert_eq!(example.info.response_code, Some(response.status()));
        let added = response.get(&HeaderName::parse(b"x-added").unwrap());
        let added = added.map(|value| String::from_utf8_lossy(value).into_owned());
        (response.status(), content_type, String::from_utf8(body).unwrap(), added)
    }

    fn expected(status: u16, content_type: &str, body: &str) -> (u16, String, String, Option<String>) {
        (status, content_type.to_owned(), body.to_owned(), None)
    }

    #[test]
    fn reply_without_configuration_stays() {
        assert_eq!(rewritten(&LocalReplyConfig::default()), expected(503, "text/plain", "own"));
    }

    #[test]
    fn first_matching_mapper_applies_and_the_common_format_remains() {
        let mut first = mapper(status_is(503));
        first.status_code = Some(401);
        first.body = Some(b"mapped".as_slice().into());
        first.headers_to_add = vec![HeaderValueOption {
            key: "x-added".into(),
            value: "%RESPONSE_CODE% [%LOCAL_REPLY_BODY%] %RESP(:status)%".into(),
            append_action: HeaderAppendAction::AppendIfExistsOrAdd,
            keep_empty_value: false,
        }];
        let mut second = mapper(status_is(503));
        second.status_code = Some(500);
        let config = LocalReplyConfig {
            mappers: vec![mapper(status_is(404)), first, second],
            body_format: Some(text("<%RESPONSE_CODE%|%LOCAL_REPLY_BODY%|%REQ(:path)%>")),
        };
        let (status, content_type, body, added) = rewritten(&config);
        assert_eq!((status, content_type.as_str()), (401, "text/plain"));
        assert_eq!(body, "<401|mapped|/p?a=1%202&b=xyz>");
        // Evaluated before the status was changed, as in Envoy.
        assert_eq!(added.as_deref(), Some("503 [] 503"));
    }

    #[test]
    fn mapper_may_override_the_format_and_its_type() {
        let mut overriding = mapper(status_is(503));
        overriding.body_format_override = Some(SubstitutionFormat {
            template: FormatTemplate::Json(vec![(
                "body".into(),
                JsonTemplate::String("%LOCAL_REPLY_BODY%".into()),
            )]),
            omit_empty_values: false,
            content_type: None,
        });
        let mut config =
            LocalReplyConfig { mappers: vec![overriding.clone()], body_format: Some(text("common")) };
        assert_eq!(rewritten(&config), expected(503, "application/json", "{\"body\":\"own\"}\n"));
        if let Some(format) = &mut overriding.body_format_override {
            format.content_type = Some("application/problem+json".into());
        }
        config.mappers = vec![overriding];
        assert_eq!(rewritten(&config).1, "application/problem+json");
        config.mappers = vec![mapper(status_is(1))];
        assert_eq!(rewritten(&config), expected(503, "text/plain", "common"));
    }
}
