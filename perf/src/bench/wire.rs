//! Whether client and kernel saw the same bytes between client and load balancer.

use super::workload::Workload;
use crate::load::tally::Totals;
use crate::sockets::Moved;
use anyhow::bail;

/// What a handshake, tickets and the end of a TLS connection add at the most, in each direction.
const HANDSHAKE: u64 = 16 * 1024;
/// Share by which records are longer than what is in them, at the most: one per small write.
const RECORDS: u64 = 2;

/// Compares what a load's client counted with what the kernel did at the load balancer's sockets.
pub(super) fn compare(work: &Workload, client: &Totals, kernel: &Moved) -> anyhow::Result<()> {
    let connections = kernel.connections;
    if connections != client.connections {
        let theirs = client.connections;
        bail!(
            "unequal work: {theirs} connections at the client, {connections} at the load balancer's sockets"
        );
    }
    // The end of a client's stream counts as a byte; above TLS the client counts what is inside.
    let (longer, more) = match work.service.is_tls() {
        true => (RECORDS, connections * HANDSHAKE),
        false => (1, 0),
    };
    for (what, counted, seen, most) in [
        (
            "from client to load balancer",
            client.sent_bytes,
            kernel.received,
            client.sent_bytes * longer + more + connections,
        ),
        (
            "from load balancer to client",
            client.received_bytes,
            kernel.sent,
            client.received_bytes * longer + more,
        ),
    ] {
        if !(counted..=most).contains(&seen) {
            bail!(
                "unequal work: bytes {what}: {counted} at the client, {seen} at the load balancer's sockets"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::select;

    fn equal(work: &str, client: (u64, u64, u64), kernel: (u64, u64, u64)) -> bool {
        let work = select(&[work.into()]).unwrap()[0];
        let client = Totals {
            connections: client.0,
            sent_bytes: client.1,
            received_bytes: client.2,
            ..Totals::default()
        };
        let kernel = Moved {
            connections: kernel.0,
            received: kernel.1,
            sent: kernel.2,
        };
        compare(&work, &client, &kernel).is_ok()
    }

    #[test]
    fn a_byte_more_or_less_is_unequal() {
        let client = (8, 1_000, 5_000);
        for received in 1_000..=1_008 {
            assert!(equal("http-1k", client, (8, received, 5_000)));
        }
        for kernel in [
            (7, 1_000, 5_000),
            (9, 1_000, 5_000),
            (8, 999, 5_000),
            (8, 1_009, 5_000),
            (8, 1_000, 4_999),
            (8, 1_000, 5_001),
        ] {
            assert!(!equal("http-1k", client, kernel), "{kernel:?}");
        }
    }

    #[test]
    fn tls_is_longer_within_bounds() {
        let client = (1, 1_000, 5_000);
        assert!(equal("tls-1k", client, (1, 1_700, 7_000)));
        assert!(!equal("tls-1k", client, (1, 999, 7_000)));
        assert!(!equal("tls-1k", client, (1, 1_700, 4_999)));
        assert!(!equal("tls-1k", client, (1, 1_700, 30_000)));
    }
}
