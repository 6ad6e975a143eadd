//! Configuration compiled for the workers: immutable, per resource.
