//! The built-in member: HTTP/1.1 with keep-alive, whatever is asked.
//!
//! | request | answer |
//! |---|---|
//! | any method, any path | 200 with the text; HEAD without it |
//! | `/bytes/N` | N bytes, N up to 1 GiB |
//! | an upgrade to `websocket` | each message comes back (RFC 6455) |

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::signal::SigSet;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;

/// Connections at the same time; more wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// Largest answer to `/bytes/N`.
const MAX_BYTES: u64 = 1 << 30;
/// Longest WebSocket frame that is echoed, in bytes.
const MAX_FRAME: u64 = 1 << 20;
/// Filler is sent in pieces of this size.
static FILLER: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// Serves until one of `signals` arrives.
pub(super) fn run(
    listeners: Vec<TcpListener>,
    text: String,
    signals: &SigSet,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let text = Bytes::from(text);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    for listener in listeners {
        let _context = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        runtime.spawn(accept(listener, text.clone(), Arc::clone(&slots)));
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let signals = *signals;
    std::thread::Builder::new().spawn(move || {
        // No command runs here: every signal of the set ends us.
        let _ = signals.wait();
        let _ = stop.send(());
    })?;
    let _ = runtime.block_on(stopped);
    runtime.shutdown_background();
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, text: Bytes, slots: Arc<Semaphore>) {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::task::yield_now().await; // out of descriptors: others may close some
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let text = text.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, text.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a client went away");
            }
            drop(slot);
        });
    }
}

async fn answer(
    mut request: Request<Incoming>,
    text: Bytes,
) -> Result<Response<Answer>, Infallible> {
    if let Some(accept) = websocket_accept(&request) {
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
                let _ = echo(TokioIo::new(upgraded)).await;
            }
        });
        let mut response = Response::new(Answer::Text(None));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        return Ok(response);
    }
    let wanted = request
        .uri()
        .path()
        .strip_prefix("/bytes/")
        .map(str::to_owned);
    // A body is taken, or the connection could not be used again.
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let (status, answer) = match wanted.map(|number| number.parse::<u64>()) {
        None => (StatusCode::OK, Answer::Text(Some(text))),
        Some(Ok(number)) if number <= MAX_BYTES => (StatusCode::OK, Answer::Filler(number)),
        Some(_) => {
            let text = Bytes::from_static(b"write /bytes/N, N up to 1073741824\n");
            (StatusCode::BAD_REQUEST, Answer::Text(Some(text)))
        }
    };
    let length = answer.size_hint().lower();
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length)); // also of an answer to HEAD
    Ok(response)
}

/// A body that is a text or so many bytes.
#[derive(Debug)]
enum Answer {
    Text(Option<Bytes>),
    Filler(u64),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Text(text) => text.take(),
            Self::Filler(0) => None,
            Self::Filler(left) => {
                let size = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(FILLER.len());
                *left -= u64::try_from(size).unwrap_or(*left);
                FILLER.get(..size).map(Bytes::from_static)
            }
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => {
                let length = text.as_ref().map_or(0, Bytes::len);
                u64::try_from(length).unwrap_or(u64::MAX)
            }
            Self::Filler(left) => *left,
        })
    }
}

/// The answer to a WebSocket handshake (RFC 6455 section 4.2.2); none when it is not one.
fn websocket_accept<T>(request: &Request<T>) -> Option<HeaderValue> {
    let upgrade = request.headers().get(UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let mut key = request
        .headers()
        .get(SEC_WEBSOCKET_KEY)?
        .as_bytes()
        .to_vec();
    key.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &key);
    let text = base64::engine::general_purpose::STANDARD.encode(hash.as_ref());
    HeaderValue::from_str(&text).ok()
}

/// Sends every frame back, unmasked; answers pings; ends at a close frame (RFC 6455 section 5.2).
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    const PONG: u8 = 10;
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await?;
        let [first, second] = head;
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        if second & 0x80 == 0 || length > MAX_FRAME {
            return Ok(()); // clients must mask; frames are bounded
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        let first = match first & 0x0f {
            PONG => continue,
            PING => (first & 0xf0) | PONG,
            _ => first,
        };
        let mut frame = vec![first];
        match u16::try_from(length) {
            Ok(short @ 0..=125) => frame.push(u8::try_from(short).unwrap_or_default()),
            Ok(middle) => {
                frame.push(126);
                frame.extend(middle.to_be_bytes());
            }
            Err(_) => {
                frame.push(127);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.append(&mut payload);
        stream.write_all(&frame).await?;
        if first & 0x0f == CLOSE {
            return stream.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    /// A member on loopback, until the value goes.
    fn member() -> (TcpStream, tokio::runtime::Runtime) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let slots = Arc::new(Semaphore::new(8));
        runtime.spawn(accept(listener, Bytes::from_static(b"web1"), slots));
        (stream, runtime)
    }

    fn ask(stream: &mut TcpStream, request: &str, body: usize) -> (String, Vec<u8>) {
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let mut bytes = vec![0; body];
        stream.read_exact(&mut bytes).unwrap();
        (String::from_utf8(head).unwrap().to_lowercase(), bytes)
    }

    #[test]
    fn answers_again_and_again_on_one_connection() {
        let (mut stream, _runtime) = member();
        for path in ["/", "/any/path?x=1"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let (head, body) = ask(&mut stream, &request, 4);
            assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
            assert!(head.contains("content-length: 4\r\n"), "{head}");
            assert_eq!(body, b"web1");
        }
        let (head, _) = ask(&mut stream, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 0);
        assert!(head.contains("content-length: 4\r\n"), "{head}");
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(ask(&mut stream, post, 4).1, b"web1");
        let bytes = "GET /bytes/1000000 HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(ask(&mut stream, bytes, 1_000_000).1, vec![b'x'; 1_000_000]);
        let wrong = "GET /bytes/99999999999 HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!(ask(&mut stream, wrong, 0).0.starts_with("http/1.1 400"));
    }

    #[test]
    fn websocket_messages_come_back() {
        let (mut stream, _runtime) = member();
        let request = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (head, _) = ask(&mut stream, request, 0);
        assert!(head.starts_with("http/1.1 101"), "{head}");
        // The example of RFC 6455 section 1.3, in lower case.
        assert!(
            head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{head}"
        );
        for length in [5_usize, 300, 70_000] {
            let mut frame = vec![0x82];
            match length {
                0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
                126..=65_535 => {
                    frame.push(0x80 | 126);
                    frame.extend(u16::try_from(length).unwrap().to_be_bytes());
                }
                _ => {
                    frame.push(0x80 | 127);
                    frame.extend(u64::try_from(length).unwrap().to_be_bytes());
                }
            }
            let header = frame.len();
            frame.extend([1, 2, 3, 4]);
            frame.extend((0..length).map(|at| b'a' ^ [1, 2, 3, 4][at % 4]));
            stream.write_all(&frame).unwrap();
            let mut back = vec![0; header + length];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back[0], 0x82);
            assert!(back[header..].iter().all(|byte| *byte == b'a'));
        }
        stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [0x88, 0]);
    }
}
