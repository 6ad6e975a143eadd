//! What few requests wait for before their route is looked for: a virtual host that they ask for, and regular expressions that are made
//! with their first use.

use std::rc::Rc;
use std::sync::Arc;

use super::chain::HttpChain;
use super::downstream::Connection;
use super::error::ProxyError;
use super::http::Request;
use super::on_demand;
use super::stream::Stream;
use crate::base::regex::Expressions;
use crate::runtime::Recycled;

/// Waits for it, in recycled memory; the whole chain that the request goes on with, where that is another then. `None`: there is nothing
/// to wait for. The request's body stays where it is.
///
/// # Errors
/// The client is gone, or a limit of the request has passed.
pub(super) fn prepare<'a>(
    connection: &'a Connection,
    whole: &Rc<HttpChain>,
    stream: &'a Stream,
    request: &'a Request,
) -> Option<Recycled<impl Future<Output = Result<Option<Rc<HttpChain>>, ProxyError>> + use<'a>>> {
    let is_unknown = on_demand::is_unknown(connection, stream, request);
    if !is_unknown && unmade(&connection.chain, stream).is_none() {
        return None;
    }
    let (whole, runtime) = (Rc::clone(whole), &connection.context.runtime);
    Some(runtime.recycled(async move {
        let mut chain = Rc::clone(&connection.chain);
        let mut told = None;
        if is_unknown {
            let held = on_demand::hold(connection, whole, stream, request).await?;
            chain = Rc::clone(&held);
            if held.has_scopes() {
                chain = held.scope(&stream.request, &mut Vec::new());
            }
            told = Some(held);
        }
        if let Some(expressions) = unmade(&chain, stream) {
            runtime.made(&expressions).await;
        }
        Ok(told)
    }))
}

/// Expressions that the request's route may need.
fn unmade(chain: &HttpChain, stream: &Stream) -> Option<Arc<Expressions>> {
    let scratch = &mut *chain.scratch.borrow_mut();
    chain.manager.routes.deferred(&stream.request, &mut scratch.route).cloned()
}
