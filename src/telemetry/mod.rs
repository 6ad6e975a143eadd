//! Metric names, per-core counters, histograms and the application log.
