//! Just as much of WebSocket (RFC 6455) as an echo needs: the handshake's answer and binary frames.

use anyhow::bail;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The key of our handshakes: the server's answer to it can be checked, and need not be secret.
pub(crate) const KEY: &str = "a3JhdGVyLXBlcmYtbG9hZA==";
/// The mask of our frames.
const MASK: [u8; 4] = [0x4b, 0x52, 0x50, 0x46];
/// Longest frame that is read.
const MAX_FRAME: u64 = 16 * 1024 * 1024;
const BINARY: u8 = 2;

/// Sec-WebSocket-Accept for a key (section 4.2.2).
pub(crate) fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The request that opens a WebSocket (section 4.1).
pub(crate) fn opening(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// A whole binary frame.
pub(crate) fn frame(payload: &[u8], masked: bool) -> Vec<u8> {
    let mut out = vec![0x80 | BINARY];
    let bit = if masked { 0x80 } else { 0 };
    #[allow(clippy::cast_possible_truncation, reason = "each range is checked")]
    match payload.len() {
        n @ 0..=125 => out.push(bit | n as u8),
        n @ 126..=0xffff => {
            out.push(bit | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(bit | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    if masked {
        out.extend_from_slice(&MASK);
        out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    } else {
        out.extend_from_slice(payload);
    }
    out
}

/// Reads frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: Vec<u8>,
    payload: Option<(u64, [u8; 4], u64)>,
}

/// What a piece of input brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    More,
    /// A frame with this many bytes has begun.
    Begin(u64),
    End,
}

impl Frames {
    /// Reads on until an event; `input` loses what was used. Unmasked payload goes to `body`.
    pub(crate) fn next(
        &mut self,
        input: &mut &[u8],
        body: &mut impl FnMut(&[u8]),
    ) -> anyhow::Result<Event> {
        loop {
            if let Some((left, mask, at)) = self.payload {
                if left == 0 {
                    self.payload = None;
                    return Ok(Event::End);
                }
                if input.is_empty() {
                    return Ok(Event::More);
                }
                let n = usize::try_from(left).map_or(input.len(), |l| l.min(input.len()));
                let (part, rest) = input.split_at(n);
                *input = rest;
                if mask == [0; 4] {
                    body(part);
                } else {
                    let turn = usize::try_from(at % 4).unwrap_or(0);
                    let plain: Vec<u8> = part
                        .iter()
                        .zip(mask.iter().cycle().skip(turn))
                        .map(|(b, m)| b ^ m)
                        .collect();
                    body(&plain);
                }
                self.payload = Some((left - n as u64, mask, at + n as u64));
                continue;
            }
            let Some((byte, rest)) = input.split_first() else {
                return Ok(Event::More);
            };
            self.head.push(*byte);
            *input = rest;
            if let Some((length, mask)) = parse(&self.head)? {
                self.head.clear();
                self.payload = Some((length, mask, 0));
                return Ok(Event::Begin(length));
            }
        }
    }
}

fn parse(head: &[u8]) -> anyhow::Result<Option<(u64, [u8; 4])>> {
    let [first, second, rest @ ..] = head else {
        return Ok(None);
    };
    if *first != 0x80 | BINARY {
        bail!(
            "a WebSocket frame begins with {first:#04x}: only whole binary frames are known here"
        );
    }
    let (length, rest) = match second & 0x7f {
        126 => match rest {
            [a, b, rest @ ..] => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            _ => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        n => (u64::from(n), rest),
    };
    if length > MAX_FRAME {
        bail!("a WebSocket frame of {length} bytes; at most {MAX_FRAME} are read");
    }
    if second & 0x80 == 0 {
        return Ok(Some((length, [0; 4])));
    }
    Ok(rest.first_chunk::<4>().map(|mask| (length, *mask)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_rfc() {
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn frames_survive_every_split() {
        for size in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0]).collect();
            for masked in [true, false] {
                let bytes = frame(&payload, masked);
                for piece in [1, 3, 5, 4_096, bytes.len()] {
                    let (mut frames, mut seen, mut ends) = (Frames::default(), Vec::new(), 0);
                    for mut part in bytes.chunks(piece) {
                        loop {
                            match frames
                                .next(&mut part, &mut |b| seen.extend_from_slice(b))
                                .unwrap()
                            {
                                Event::More => break,
                                Event::Begin(n) => assert_eq!(n, payload.len() as u64),
                                Event::End => ends += 1,
                            }
                        }
                    }
                    assert!(seen == payload && ends == 1, "{size} {masked} {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let mut sink = |_: &[u8]| ();
        for wrong in [
            &[0x81, 1, 2][..],
            &[0x02, 0],
            &[0x82, 127, 255, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let (mut frames, mut input) = (Frames::default(), wrong);
            assert!(frames.next(&mut input, &mut sink).is_err(), "{wrong:?}");
        }
    }
}
