//! Every hard maximum that configuration cannot raise: value, unit, reason, source.
