//! Amphorae that are only remembered, for tests of flows.

use super::{Boot, Compute, Error, Instance, Nic};
use futures_util::future::BoxFuture;
use krater_model::{AmphoraId, MacAddr};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub struct FakeCompute {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    amphorae: BTreeMap<AmphoraId, FakeAmphora>,
    calls: Vec<String>,
    fail: Vec<(&'static str, bool)>,
}

/// What a fake amphora is.
#[derive(Debug, Clone)]
pub struct FakeAmphora {
    /// As it was booted first.
    pub boot: Boot,
    /// Plugged.
    pub nics: Vec<Nic>,
    /// Its agent lives.
    pub agent_alive: bool,
    /// It was not lost in a reboot.
    pub intact: bool,
}

impl FakeCompute {
    /// The next call of this name fails.
    pub fn fail_next(&self, what: &'static str, retryable: bool) {
        self.lock().fail.push((what, retryable));
    }

    /// Names and amphorae of all calls, such as `boot 8f…`.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// What exists.
    pub fn amphorae(&self) -> BTreeMap<AmphoraId, FakeAmphora> {
        self.lock().amphorae.clone()
    }

    /// Changes an amphora behind the controller's back: kills its agent, reboots its host.
    pub fn change(&self, amphora: AmphoraId, change: impl FnOnce(&mut FakeAmphora)) {
        if let Some(found) = self.lock().amphorae.get_mut(&amphora) {
            change(found);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(
        &self,
        what: &'static str,
        amphora: AmphoraId,
        work: impl FnOnce(&mut State) -> Result<T, &'static str>,
    ) -> Result<T, Error> {
        let mut state = self.lock();
        state.calls.push(format!("{what} {amphora}"));
        let error = |text: &'static str, retryable| Error {
            amphora,
            what,
            source: text.into(),
            retryable,
        };
        if let Some(at) = state.fail.iter().position(|(name, _)| *name == what) {
            let (_, retryable) = state.fail.remove(at);
            return Err(error("injected fault", retryable));
        }
        work(&mut state).map_err(|text| error(text, false))
    }
}

const ABSENT: &str = "there is no such amphora";

impl Compute for FakeCompute {
    fn boot(&self, boot: Boot) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async move {
            let amphora = boot.amphora;
            self.call("boot", amphora, |state| {
                let made = state
                    .amphorae
                    .entry(amphora)
                    .or_insert_with(|| FakeAmphora {
                        boot,
                        nics: Vec::new(),
                        agent_alive: true,
                        intact: true,
                    });
                made.agent_alive = true;
                Ok(format!("fake-{amphora}"))
            })
        })
    }

    fn delete(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.call("delete", amphora, |state| {
                state.amphorae.remove(&amphora);
                Ok(())
            })
        })
    }

    fn plug(&self, amphora: AmphoraId, nic: Nic) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.call("plug", amphora, |state| {
                let nics = &mut state.amphorae.get_mut(&amphora).ok_or(ABSENT)?.nics;
                nics.retain(|known| known.mac != nic.mac);
                nics.push(nic);
                Ok(())
            })
        })
    }

    fn unplug(&self, amphora: AmphoraId, mac: MacAddr) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.call("unplug", amphora, |state| {
                if let Some(found) = state.amphorae.get_mut(&amphora) {
                    found.nics.retain(|nic| nic.mac != mac);
                }
                Ok(())
            })
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, Error>> {
        Box::pin(async move {
            let instance = |(id, found): (&AmphoraId, &FakeAmphora)| Instance {
                amphora: *id,
                compute_id: format!("fake-{id}"),
                agent_alive: found.agent_alive,
                intact: found.intact,
            };
            Ok(self.lock().amphorae.iter().map(instance).collect())
        })
    }

    fn restart_agent(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.call("restart_agent", amphora, |state| {
                let found = state.amphorae.get_mut(&amphora).ok_or(ABSENT)?;
                found.agent_alive = true;
                Ok(())
            })
        })
    }
}
