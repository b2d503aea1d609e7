//! Notices a child that lives but does nothing. vrrp moves the VIP away from a frozen data plane within
//! 100 ms; this is about getting it back to work.

use super::{Kind, Running};
use crate::control;
use krater_model::control::Progress;
use serde::de::IgnoredAny;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How often it is looked. Looks that come late because this process itself was stopped count once.
const LOOK: Duration = Duration::from_secs(1);
/// Looks in a row without a sign of life. A host that swaps can stop a process for a second or two.
const PATIENCE: u32 = 5;
/// A status that is not answered within this is no sign of life.
const STATUS: Duration = Duration::from_secs(1);

/// Returns when the child is frozen, with how that was found out.
pub(super) async fn bites(kind: Kind, running: &Running) -> String {
    let mut last = None;
    let mut silent = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let ticks = progress(running);
        let alive = match kind {
            Kind::Dataplane if ticks.is_some() => ticks != last,
            _ => control::get::<IgnoredAny>(kind.socket(), "/status", STATUS)
                .await
                .is_ok(),
        };
        last = ticks;
        silent = if alive { 0 } else { silent + 1 };
        if silent >= PATIENCE {
            return format!("no sign of life in {silent} looks");
        }
    }
}

/// The data plane's progress counter.
fn progress(running: &Running) -> Option<u64> {
    record(running).map(|progress| progress.ticks)
}

/// What the data plane wrote last.
pub(super) fn record(running: &Running) -> Option<Progress> {
    let file = File::from(running.progress.as_ref()?.try_clone().ok()?);
    let mut record = [0; Progress::SIZE];
    file.read_exact_at(&mut record, 0).ok()?;
    Progress::decode(&record)
}
