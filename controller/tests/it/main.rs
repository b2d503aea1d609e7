//! Tests of the controller's API against a fresh database, with a worker that ends every flow well.

mod common;
mod graph;
mod hostile;
mod lists;
mod members;
mod quota;
mod shapes;
mod state_machine;
mod unsupported;
