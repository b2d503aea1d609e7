//! The real `amphora` in namespaces of its own. Needs root.

mod apply;
mod crash;
mod mtls;
mod rig;
