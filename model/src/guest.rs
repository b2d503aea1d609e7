//! What PID 1 of the amphora image reads from its surroundings: the config drive, the disk labels by which
//! it is found, DHCP, events of the kernel. Pure: bytes in, checked values out.
//!
//! Foreign documents (OpenStack's, the kernel's) carry keys that are nobody's business here; those are
//! skipped. What is used is checked, and everything is bounded.

pub mod cloud_config;
pub mod delivery;
pub mod dhcp;
pub mod label;
pub mod meta_data;
pub mod network_data;
pub mod order;
pub mod uevent;

/// Longest document of a config drive, in bytes. Nova's are a few KiB; 64 delivered files of the longest path
/// fit twice.
pub const MAX_DOCUMENT: usize = 256 * 1024;

/// Refuses a document that is longer than [`MAX_DOCUMENT`].
fn bounded<'a>(field: &str, text: &'a [u8]) -> Result<&'a [u8], crate::FieldError> {
    if text.len() > MAX_DOCUMENT {
        let why = format!("{} bytes, at most {MAX_DOCUMENT}", text.len());
        return Err(crate::FieldError::new(field, why));
    }
    Ok(text)
}

/// A value as it may be shown on a console: no control characters, not endless.
fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
