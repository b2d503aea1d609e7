//! The answer to a WebSocket's handshake: a member that cannot compute it is no WebSocket server, and
//! gets no tunnel (RFC 6455 section 4.2.2).

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use krater_dataplane_core::http1::{Fault, RequestHead, ResponseHead};

/// What is appended to the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a 101 to a WebSocket's request accepts its key.
pub(super) fn check(
    request: &RequestHead,
    response: &ResponseHead,
    bytes: &[u8],
) -> Result<(), Fault> {
    if response.status != 101 || request.websocket_key.is_empty() {
        return Ok(());
    }
    let websocket = response.only(b"upgrade", bytes);
    if !websocket.is_some_and(|to| to.eq_ignore_ascii_case(b"websocket")) {
        return Ok(()); // another protocol that was offered too
    }
    let wanted = accept(&request.websocket_key);
    match response.only(b"sec-websocket-accept", bytes) {
        Some(value) if value == wanted => Ok(()),
        _ => Err(Fault::WebSocketAccept),
    }
}

/// SHA-1 of key and GUID, in base64.
fn accept(key: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    let digest = hash.finish();
    let mut text = Vec::with_capacity(28);
    for three in digest.as_ref().chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = DIGITS.get((bits >> shift & 63) as usize);
            text.push(match digit {
                Some(digit) if i <= three.len() => *digit,
                _ => b'=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 section 1.3.
    #[test]
    fn the_example_of_the_standard() {
        let text = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(text, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
