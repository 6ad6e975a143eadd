//! The paths that change something. All want POST.
use super::Admin;
use super::request::{Reply, Request};
use super::state::{AdminCommand, DrainListeners};
use hyper::StatusCode;

/// `/quitquitquit`.
pub(super) fn quit(admin: &Admin, _: &Request) -> Reply {
    admin.state.command(AdminCommand::Quit);
    Reply::ok()
}

/// `/healthcheck/fail`.
pub(super) fn healthcheck_fail(admin: &Admin, _: &Request) -> Reply {
    admin.state.command(AdminCommand::FailHealthcheck);
    Reply::ok()
}

/// `/healthcheck/ok`.
pub(super) fn healthcheck_ok(admin: &Admin, _: &Request) -> Reply {
    admin.state.command(AdminCommand::PassHealthcheck);
    Reply::ok()
}

/// `/drain_listeners`.
pub(super) fn drain_listeners(admin: &Admin, request: &Request) -> Reply {
    admin.state.command(AdminCommand::DrainListeners(DrainListeners {
        graceful: request.has("graceful"),
        skip_exit: request.has("skip_exit"),
        inbound_only: request.has("inboundonly"),
    }));
    Reply::ok()
}

/// `/reset_counters`.
pub(super) fn reset_counters(admin: &Admin, _: &Request) -> Reply {
    admin.registry.reset_counters();
    Reply::ok()
}

/// `/reopen_logs`.
pub(super) fn reopen_logs(admin: &Admin, _: &Request) -> Reply {
    admin.state.command(AdminCommand::ReopenLogs);
    Reply::ok()
}

/// `/runtime_modify`: values of the admin layer, from the query or from a form.
pub(super) fn runtime_modify(admin: &Admin, request: &Request) -> Reply {
    if request.parameters.is_empty() {
        return Reply::bad_request(
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\n\
             use an empty value to remove a previously added override",
        );
    }
    match admin.state.modify_runtime(&request.parameters) {
        Ok(()) => Reply::ok(),
        Err(reason) => Reply::refused(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}
