//! The REST API: axum handlers without SQL.
