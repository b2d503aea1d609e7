//! HTTP/2: `--streams` requests at a time on each connection. By the `h2` library on one thread: it costs
//! more per request than the loop for HTTP/1.1, and its own cost is printed like that one's.

use super::args::Args;
use super::schedule::Schedule;
use super::tally::{Summary, Tally, Watch};
use super::target::{Scheme, Target};
use super::tls;
use crate::pattern;
use crate::sys::Timer;
use anyhow::{Context, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rustls::pki_types::ServerName;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Waker, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{sleep_until, timeout};

/// Most streams of a connection: what servers allow without being told otherwise (RFC 9113, 6.5.2).
const MAX_STREAMS: u32 = 100;
/// Receive windows: a stream's and a connection's, so that no answer of the bench waits for an update.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// Pause of a place after an error.
const PAUSE: Duration = Duration::from_millis(10);

/// Refuses what HTTP/2 has no meaning for, or is not built for it.
fn check(args: &Args, target: &Target) -> anyhow::Result<()> {
    if target.scheme != Scheme::Http {
        bail!("--http2: only for http:// and https://; leave it out");
    }
    let streams = args.streams.unwrap_or(1);
    if streams == 0 || streams > MAX_STREAMS {
        bail!("--streams {streams}: use 1 to {MAX_STREAMS}");
    }
    for (given, option) in [
        (args.close, "--close"),
        (args.pipeline > 1, "--pipeline"),
        (args.upload.is_some(), "--upload"),
        (args.chunked, "--chunked"),
        (args.bulk.is_some(), "--bulk"),
        (args.size.is_some(), "--size"),
        (args.connect, "--connect"),
        (args.idle, "--idle"),
        (args.slow.is_some(), "--slow"),
        (args.resume, "--resume"),
    ] {
        if given {
            bail!("{option}: not supported yet together with --http2; leave it out");
        }
    }
    if args.ca.is_some() && !target.tls {
        bail!("--ca: only for TLS; leave it out");
    }
    Ok(())
}

/// What all streams share.
struct Shared {
    args: Args,
    target: Target,
    request: Request<()>,
    tls: Option<tokio_rustls::TlsConnector>,
    schedule: RefCell<Schedule>,
    tally: RefCell<Tally>,
    /// How many streams wait for a request to become due.
    waiting: RefCell<u32>,
    /// One has begun to wait.
    free: Notify,
    /// A request is due.
    due: Notify,
}

/// Runs the load and sums up.
pub(crate) fn run(args: &Args, target: &Target) -> anyhow::Result<Summary> {
    check(args, target)?;
    nix::sys::prctl::set_timerslack(1)?;
    let scheme = if target.tls { "https" } else { "http" };
    let uri = format!("{scheme}://{}{}", target.host, target.path);
    let mut config = None;
    if target.tls {
        let mut of_http2 = tls::config(args)?;
        of_http2.alpn_protocols = vec![b"h2".to_vec()];
        config = Some(Arc::new(of_http2).into());
    }
    let start = Instant::now();
    let whole = args.warmup() + args.span();
    let shared = Rc::new(Shared {
        request: Request::get(uri).body(()).context("URL")?,
        tls: config,
        schedule: Schedule::new(start, whole, args.requests, args.rate).into(),
        tally: Tally::new(Watch {
            pids: args.pids.clone(),
            cores: args.cores.clone(),
        })?
        .into(),
        waiting: 0.into(),
        free: Notify::new(),
        due: Notify::new(),
        args: args.clone(),
        target: target.clone(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, all(&shared, start, whole))?;
    let mut tally = shared.tally.borrow_mut();
    tally.close()?;
    tally.summary()
}

async fn all(shared: &Rc<Shared>, start: Instant, whole: Duration) -> anyhow::Result<()> {
    let window = tokio::task::spawn_local(window(Rc::clone(shared), start, whole));
    let clock = tokio::task::spawn_local(clock(Rc::clone(shared)));
    let mut connections = Vec::new();
    for _ in 0..shared.args.connections {
        let one = Rc::clone(shared);
        connections.push(tokio::task::spawn_local(
            async move { one.connection().await },
        ));
    }
    for connection in connections {
        connection.await?;
    }
    window.abort();
    clock.abort();
    for task in [window, clock] {
        match task.await {
            Ok(result) => result?,
            Err(error) if error.is_cancelled() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Opens and closes the measured window.
async fn window(shared: Rc<Shared>, start: Instant, whole: Duration) -> anyhow::Result<()> {
    let from = start + shared.args.warmup();
    sleep_until(from.into()).await;
    shared.tally.borrow_mut().open(from)?;
    sleep_until((start + whole).into()).await;
    shared.tally.borrow_mut().close()
}

/// Wakes a stream whenever a request is due: tokio's own timer is too coarse for an open loop.
async fn clock(shared: Rc<Shared>) -> anyhow::Result<()> {
    let timer = Timer::new()?;
    loop {
        let Some(at) = shared.schedule.borrow().due(Instant::now()) else {
            shared.due.notify_waiters();
            return Ok(());
        };
        if *shared.waiting.borrow() == 0 {
            shared.free.notified().await;
            continue;
        }
        timer.until(at).await?;
        shared.due.notify_one();
        tokio::task::yield_now().await;
    }
}

impl Shared {
    /// When the next request was due; none when there is no more.
    async fn next(&self) -> Option<Instant> {
        loop {
            let now = Instant::now();
            if let Some(at) = self.schedule.borrow_mut().take(now) {
                return Some(at);
            }
            self.schedule.borrow().due(now)?;
            *self.waiting.borrow_mut() += 1;
            self.free.notify_one();
            self.due.notified().await;
            *self.waiting.borrow_mut() -= 1;
        }
    }

    fn over(&self) -> bool {
        self.schedule.borrow().due(Instant::now()).is_none()
    }

    fn failed(&self, error: &anyhow::Error) {
        self.tally.borrow_mut().failed(|| format!("{error:#}"));
    }

    /// Keeps one connection with its streams until the schedule ends.
    async fn connection(self: Rc<Self>) {
        while !self.over() {
            let opened = timeout(self.args.patience(), self.open()).await;
            let late = || {
                Err(anyhow::anyhow!(
                    "no connection within {:?}",
                    self.args.patience()
                ))
            };
            match opened.unwrap_or_else(|_| late()) {
                Ok(sender) => {
                    let mut streams = Vec::new();
                    for _ in 0..self.args.streams.unwrap_or(1) {
                        let (one, sender) = (Rc::clone(&self), sender.clone());
                        streams.push(tokio::task::spawn_local(async move {
                            one.stream(sender).await;
                        }));
                    }
                    for stream in streams {
                        if let Err(error) = stream.await {
                            self.failed(&error.into());
                        }
                    }
                }
                Err(error) => self.failed(&error),
            }
            if !self.over() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn open(self: &Rc<Self>) -> anyhow::Result<SendRequest<Bytes>> {
        let to = self.target.address;
        self.tally.borrow_mut().connections += 1;
        let stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false);
        let Some(tls) = &self.tls else {
            return self.handshake(&builder, stream).await;
        };
        let name = ServerName::from(to.ip());
        let stream = tls.connect(name, stream).await.context("TLS")?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(b"h2") {
            bail!("the server does not speak HTTP/2: it chose no h2 by ALPN");
        }
        self.tally.borrow_mut().full_handshakes += 1;
        self.handshake(&builder, stream).await
    }

    async fn handshake(
        self: &Rc<Self>,
        builder: &h2::client::Builder,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> anyhow::Result<SendRequest<Bytes>> {
        let counted = Counted {
            stream,
            shared: Rc::clone(self),
        };
        let (sender, connection) = builder
            .handshake::<_, Bytes>(counted)
            .await
            .context("HTTP/2 preface")?;
        // Its errors are those of its streams too, which count them.
        drop(tokio::task::spawn_local(connection));
        Ok(sender)
    }

    /// One request after the other, until the schedule or the connection ends.
    async fn stream(&self, mut sender: SendRequest<Bytes>) {
        loop {
            match sender.ready().await {
                Ok(ready) => sender = ready,
                // A server may say goodbye to a connection that waits; there is a new one then.
                Err(error) if error.is_go_away() => return,
                Err(error) => {
                    if !self.over() {
                        self.failed(&anyhow::Error::from(error).context("connection"));
                    }
                    return;
                }
            }
            let Some(at) = self.next().await else { return };
            let patience = self.args.patience();
            match timeout(patience, self.exchange(&mut sender)).await {
                Ok(Ok(length)) => self.tally.borrow_mut().answered(at, length),
                Ok(Err(error)) => {
                    self.failed(&error);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => self.failed(&anyhow::anyhow!("no answer within {patience:?}")),
            }
        }
    }

    async fn exchange(&self, sender: &mut SendRequest<Bytes>) -> anyhow::Result<u64> {
        let (answer, _) = sender.send_request(self.request.clone(), true)?;
        let answer = answer.await?;
        let status = answer.status().as_u16();
        if status != self.args.status {
            bail!("status {status}, expected {}", self.args.status);
        }
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(part) = body.data().await {
            let part = part?;
            if self.args.pattern && !pattern::matches(length, &part) {
                bail!("a body that is not the pattern, from byte {length} on");
            }
            length += part.len() as u64;
            body.flow_control().release_capacity(part.len())?;
        }
        match self.args.length {
            Some(expected) if expected != length => {
                bail!("a body of {length} bytes, expected {expected}")
            }
            _ => Ok(length),
        }
    }
}

/// A stream whose bytes are counted, those of HTTP/2's frames.
struct Counted<S> {
    stream: S,
    shared: Rc<Shared>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        waker: &mut Waker<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(waker, buffer);
        let read = buffer.filled().len() - before;
        self.shared.tally.borrow_mut().received_bytes += read as u64;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        waker: &mut Waker<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(waker, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.shared.tally.borrow_mut().sent_bytes += written as u64;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(waker)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(waker)
    }
}
