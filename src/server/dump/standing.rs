//! How resources of control planes stand, beside what they are: `client_status` and `error_state`. Envoy 1.40 leaves the first out and
//! has the second of listeners alone.

use serde_json::{Map, Value, json};

use super::super::process::timestamp;
use super::typed;
use crate::control::admin::DumpEntry;
use crate::control::xds::client::{ClientStatus, Failure, Standing};

/// An entry with how its resource, a `message`, stands; `None`: it is used as it was told last.
pub(super) fn with_standing(
    entry: DumpEntry,
    message: &'static str,
    standing: Option<Standing>,
) -> DumpEntry {
    let DumpEntry { type_name, name, render } = entry;
    let standing = standing.unwrap_or(Standing { status: ClientStatus::Acked, failure: None });
    let render = Box::new(move || {
        let mut entry = render();
        if let Value::Object(fields) = &mut entry {
            let Standing { status, failure } = standing;
            fields.extend(failure.map(|failure| ("error_state".to_owned(), error_state(message, failure))));
            fields.insert("client_status".to_owned(), json!(status.name()));
        }
        entry
    });
    DumpEntry { type_name, name, render }
}

/// An `envoy.admin.v3.UpdateFailureState`. What cannot be read is no `failed_configuration`.
fn error_state(message: &'static str, failure: Failure) -> Value {
    let Failure { reason, version, unix_ns, wire } = failure;
    let mut state = Map::new();
    let failed = wire.map(|wire| typed(message, &wire)).filter(|failed| !failed.is_null());
    state.extend(failed.map(|failed| ("failed_configuration".to_owned(), failed)));
    state.insert("last_update_attempt".to_owned(), json!(timestamp(unix_ns)));
    state.insert("details".to_owned(), json!(reason));
    if !version.is_empty() {
        state.insert("version_info".to_owned(), json!(version));
    }
    Value::Object(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::xds::wire;

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    fn shown(standing: Option<Standing>) -> Value {
        let render = Box::new(|| json!({ "version_info": "1", "cluster": { "name": "a" } }));
        let entry = DumpEntry { type_name: "", name: "a".into(), render };
        (with_standing(entry, CLUSTER, standing).render)()
    }

    fn refused(wire: Option<Vec<u8>>) -> Option<Standing> {
        let (reason, version) = ("type: is wrong".to_owned(), "2".to_owned());
        let wire = wire.map(|wire| wire.as_slice().into());
        let failure = Failure { reason, version, unix_ns: 1_000_000_000, wire };
        Some(Standing { status: ClientStatus::Nacked, failure: Some(failure) })
    }

    #[test]
    fn resource_that_is_used_as_it_was_told_has_its_status_alone() {
        let expected = json!({ "version_info": "1", "cluster": { "name": "a" }, "client_status": "ACKED" });
        assert_eq!(shown(None), expected);
    }

    #[test]
    fn refused_resource_stands_beside_the_last_good_one() {
        let mut wire = Vec::new();
        wire::put_bytes(&mut wire, 1, b"a");
        let shown = shown(refused(Some(wire)));
        assert_eq!((&shown["version_info"], &shown["client_status"]), (&json!("1"), &json!("NACKED")));
        assert_eq!(
            shown["error_state"],
            json!({
                "failed_configuration": { "@type": format!("type.googleapis.com/{CLUSTER}"), "name": "a" },
                "last_update_attempt": "1970-01-01T00:00:01Z",
                "details": "type: is wrong",
                "version_info": "2",
            })
        );
    }

    #[test]
    fn what_was_not_kept_or_cannot_be_read_is_left_out() {
        for wire in [None, Some(vec![0xff; 9])] {
            let shown = shown(refused(wire));
            let fields: Vec<_> = shown["error_state"].as_object().unwrap().keys().collect();
            assert_eq!(fields, ["last_update_attempt", "details", "version_info"]);
        }
    }
}
