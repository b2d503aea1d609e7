//! Against sockets whose state is made by hand.

use super::*;
use crate::io::{PipePool, TlsInfo, TlsStream};
use crate::runtime::{ListenerRuntime, Shared};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::Waker;
use tokio::net::{TcpListener, TcpStream};

/// Long enough for a loaded machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (here, there) = tokio::join!(connecting, listener.accept());
    (here.unwrap(), there.unwrap().0)
}

/// A TLS session keeps what the socket does not take. When the client reads at last, that must go
/// out although its member says nothing more.
#[tokio::test]
async fn what_tls_keeps_goes_out_without_more_from_the_source() {
    let provider = || Arc::new(crate::tls::provider());
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let (near, far) = pair().await;
    socket2::SockRef::from(&near)
        .set_send_buffer_size(8 * 1024)
        .unwrap();
    let far = far.into_std().unwrap();
    far.set_nonblocking(false).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let (go, wait) = std::sync::mpsc::channel::<usize>();
    let (done, mut read) = tokio::sync::oneshot::channel();
    let reader = std::thread::spawn(move || {
        let session =
            ClientConnection::new(Arc::new(client), "a.example".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(session, far);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        let mut all = vec![0; wait.recv().unwrap()];
        done.send(stream.read_exact(&mut all).is_ok()).unwrap();
    });
    let (peer, local) = (near.peer_addr().unwrap(), near.local_addr().unwrap());
    let tls = TlsStream::accept(near, Arc::new(server)).await.unwrap();
    let listener = Arc::new(ListenerRuntime::new(krater_model::ListenerId::random()));
    let mut to = Conn::tls_client(tls, TlsInfo::default(), peer, local, listener);

    // Written until the socket takes no more and the session keeps a rest.
    let mut written = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while to.poll_flush(&mut cx).is_ready() {
        match to.poll_write_vectored(&mut cx, &[IoSlice::new(&[7; 16 * 1024])]) {
            Poll::Ready(n) => written += n.unwrap(),
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    go.send(written).unwrap();

    let (silent, _member) = pair().await;
    let (peer, local) = (silent.peer_addr().unwrap(), silent.local_addr().unwrap());
    let mut from = Conn::member(silent, peer, local);
    let worker = WorkerShared::new(Arc::new(Shared::new(PipePool::new(0))), 0);
    let mut flow = Flow::new(u64::MAX);
    let all = tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            _ = poll_fn(|cx| flow.poll(cx, &mut from, &mut to, &worker)) => false,
            all = &mut read => all.unwrap(),
        }
    });
    assert_eq!(all.await, Ok(true), "of {written} bytes some stay");
    reader.join().unwrap();
}
