//! Networks that are only remembered.

use super::{Error, Network, Networks};
use futures_util::future::BoxFuture;
use std::sync::{Mutex, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub struct FakeNetworks {
    made: Mutex<Vec<Network>>,
}

impl FakeNetworks {
    /// What was made, in order, each once.
    pub fn made(&self) -> Vec<Network> {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Networks for FakeNetworks {
    fn ensure(&self, networks: Vec<Network>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            for network in networks {
                made.retain(|known| known.id != network.id);
                made.push(network);
            }
            Ok(())
        })
    }
}
