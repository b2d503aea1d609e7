//! The event stream: from the driver's thread, which must never wait, to whoever asks on the control
//! socket.

use crate::clock;
use crate::instance::RouterKey;
use krater_model::control::{VrrpEvent, VrrpEventKind, VrrpEvents};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Events on their way to the control thread, which takes them every 20 ms: all routers of a process
/// change state at once, twice.
const IN_FLIGHT: usize = 512;
/// Events kept for readers: some 200 KB.
const KEPT: usize = 1_024;
/// Events in one answer.
pub(crate) const MOST_AT_ONCE: usize = 256;

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Events {
    sender: SyncSender<VrrpEvent>,
    /// The next one's number. A reader sees from it when one found no room.
    next: Cell<u64>,
}

impl Events {
    pub(crate) fn tell(&self, key: &RouterKey, kind: VrrpEventKind) {
        let event = VrrpEvent {
            sequence: self.next.get(),
            unix_ms: clock::unix_ms(),
            vrid: key.vrid,
            interface: key.interface.clone(),
            kind,
        };
        self.next.set(event.sequence + 1);
        match self.sender.try_send(event) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// The control thread's end.
#[derive(Debug)]
pub(crate) struct Journal {
    /// When it began: no other process of this host has the same.
    process: u64,
    receiver: Receiver<VrrpEvent>,
    kept: VecDeque<VrrpEvent>,
}

pub(crate) fn stream() -> (Events, Journal) {
    let (sender, receiver) = sync_channel(IN_FLIGHT);
    let events = Events {
        sender,
        next: Cell::new(1),
    };
    let journal = Journal {
        process: clock::unix_ms(),
        receiver,
        kept: VecDeque::new(),
    };
    (events, journal)
}

impl Journal {
    /// Takes in what came. True when something did.
    pub(crate) fn take(&mut self) -> bool {
        let before = self.last();
        for event in self.receiver.try_iter().take(IN_FLIGHT) {
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(event);
        }
        self.last() != before
    }

    /// The number of the newest event; 0 before the first.
    pub(crate) fn last(&self) -> u64 {
        self.kept.back().map_or(0, |event| event.sequence)
    }

    /// What came after the event with this number. One that was not given yet was another process's, and says nothing.
    pub(crate) fn after(&self, sequence: u64) -> VrrpEvents {
        let sequence = Some(sequence).filter(|known| *known <= self.last());
        let sequence = sequence.unwrap_or_default();
        let newer = self.kept.iter().filter(|event| event.sequence > sequence);
        let events: Vec<VrrpEvent> = newer.take(MOST_AT_ONCE).cloned().collect();
        let lost = events
            .first()
            .map_or(0, |first| first.sequence - sequence - 1);
        VrrpEvents {
            next: events.last().map_or(sequence, |last| last.sequence),
            events,
            lost,
            process: self.process,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use krater_model::Vrid;

    fn key() -> RouterKey {
        RouterKey {
            interface: "eth1".into(),
            vrid: Vrid::new(1).unwrap(),
            v4: true,
        }
    }

    fn tell(events: &Events, count: u64) {
        for late_ms in 0..count {
            events.tell(&key(), VrrpEventKind::Stalled { late_ms });
        }
    }

    #[test]
    fn events_are_numbered_and_read_from_anywhere() {
        let (events, mut journal) = stream();
        assert!(!journal.take());
        tell(&events, 3);
        assert!(journal.take() && !journal.take());
        let read = journal.after(1);
        let numbers: Vec<u64> = read.events.iter().map(|e| e.sequence).collect();
        assert_eq!((numbers, read.next, read.lost), (vec![2, 3], 3, 0));
        assert_eq!(journal.after(3).events, []);
        // Of a process before this one.
        assert_eq!(journal.after(77), journal.after(0));
    }

    #[test]
    fn a_slow_reader_learns_what_it_lost() {
        let (events, mut journal) = stream();
        for _ in 0..4 {
            tell(&events, 500);
            journal.take();
        }
        let read = journal.after(0);
        assert_eq!(read.events.len(), MOST_AT_ONCE);
        assert_eq!(read.lost, 2_000 - 1_024);
        // A control thread that stands still: the driver goes on, and the gap shows.
        tell(&events, 2_000);
        journal.take();
        assert_eq!(journal.last(), 2_512);
        tell(&events, 1);
        journal.take();
        assert_eq!(journal.after(2_512).lost, 4_001 - 2_513);
    }
}
