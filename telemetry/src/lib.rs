//! Logging, versions and metrics that every Krater process shares.
