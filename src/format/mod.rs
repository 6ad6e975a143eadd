//! Envoy command operators: parsed when configuration is converted, evaluated into bytes.
