//! Row types, migrations and queries.
