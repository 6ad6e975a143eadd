//! TLS of connections that begin now: compiled, or waiting for a secret that it names.
use std::fmt;
use std::sync::Arc;

/// See the file's head. That there is none yet is no plain text: whoever has this has no connection without it.
pub enum Secured<T> {
    /// Connections are made with this.
    By(Arc<T>),
    /// A secret of it is still to come: there are no connections. Source: Envoy `NotReadySslSocket`.
    NotReady,
}

impl<T> Secured<T> {
    /// What connections are made with, once it is there.
    pub fn ready(&self) -> Option<&Arc<T>> {
        match self {
            Self::By(tls) => Some(tls),
            Self::NotReady => None,
        }
    }
}

impl<T> Clone for Secured<T> {
    fn clone(&self) -> Self {
        match self {
            Self::By(tls) => Self::By(Arc::clone(tls)),
            Self::NotReady => Self::NotReady,
        }
    }
}

impl<T> From<T> for Secured<T> {
    fn from(tls: T) -> Self {
        Self::By(Arc::new(tls))
    }
}

impl<T> fmt::Debug for Secured<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::By(_) => "By",
            Self::NotReady => "NotReady",
        })
    }
}
