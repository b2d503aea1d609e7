//! Use cases and permissions; the only caller of `db`.
