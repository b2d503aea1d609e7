//! The two proxies, each with one listener per lane and one member behind it.

use crate::kit;
use crate::member::Member;
use krater_model::Millis;
use krater_model::state::{InsertHeader, ListenerProtocol};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// A listener and the member behind it. One case at a time.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) address: SocketAddr,
    pub(crate) member: Member,
}

/// Krater's data plane in this process.
pub(crate) struct Krater {
    pub(crate) lanes: Vec<Lane>,
    _dataplane: kit::Dataplane,
}

impl Krater {
    pub(crate) fn start(lanes: usize) -> Self {
        let dataplane = kit::Dataplane::start(2);
        let mut load_balancers = Vec::new();
        let lanes = (0..lanes)
            .map(|_| {
                let member = Member::start();
                let mut setup = kit::Setup::new(ListenerProtocol::Http, &[member.address]);
                setup.listener().insert_headers = vec![InsertHeader::XForwardedFor];
                // Byte by byte a large head takes minutes on a busy host, which is no slow client here.
                setup.listener().timeouts.client_data = Millis::literal(1_200_000);
                let address = setup.address();
                load_balancers.push(setup.lb);
                Lane { address, member }
            })
            .collect();
        dataplane.apply(load_balancers);
        Self {
            lanes,
            _dataplane: dataplane,
        }
    }
}

/// Debian's HAProxy 2.6 with what Octavia's template makes of the same listeners.
pub(crate) struct HaProxy {
    pub(crate) lanes: Vec<Lane>,
    _process: kit::Peer,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    pub(crate) fn start(lanes: usize) -> Self {
        let mut text = String::from(
            "global\n nbthread 2\n maxconn 2000\n\
             defaults\n retries 3\n option redispatch\n option splice-request\n option splice-response\n \
             option http-keep-alive\n",
        );
        let lanes: Vec<Lane> = (0..lanes)
            .map(|n| {
                let address = kit::free();
                let member = Member::start();
                write!(
                    text,
                    "frontend f{n}\n maxconn 1000\n bind {address}\n mode http\n default_backend b{n}\n \
                     timeout client 50000\n\
                     backend b{n}\n mode http\n http-reuse safe\n balance roundrobin\n option forwardfor\n \
                     fullconn 1000\n option allbackups\n timeout connect 5000\n timeout server 50000\n \
                     server s {} weight 1\n",
                    member.address
                )
                .unwrap();
                Lane { address, member }
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let addresses: Vec<_> = lanes.iter().map(|lane| lane.address).collect();
        let process = kit::Peer::haproxy(folder.path(), &text, &addresses);
        Self {
            lanes,
            _process: process,
            _folder: folder,
        }
    }
}
