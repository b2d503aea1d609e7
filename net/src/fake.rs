//! An in-memory kernel for tests: [`LinkControl`] with namespaces, veth pairs that take each other
//! along, tags, and events. It refuses what the kernel refuses with the same error codes.

use crate::link::{Address, Link, LinkChange, LinkControl, Route, Rule, VethSpec};
use crate::watch::{Event, Watch};
use crate::{Error, Result};
use krater_model::net::MacAddr;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Events that a slow watcher may be behind before it gets [`Event::Resync`].
const EVENTS: usize = 64;

/// A kernel: several namespaces.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    inner: Arc<Mutex<Kernel>>,
}

/// One namespace of a [`FakeKernel`].
#[derive(Debug, Clone)]
pub struct FakeLinks {
    kernel: FakeKernel,
    /// Any open file: its descriptor's number stands for the namespace.
    file: Arc<File>,
}

#[derive(Debug, Default)]
struct Kernel {
    next_index: u32,
    namespaces: BTreeMap<i32, Namespace>,
    /// Ends of veth pairs: (namespace, index) to its peer.
    pairs: BTreeMap<(i32, u32), (i32, u32)>,
    /// Error that the next operation whose name starts with the text answers.
    fault: Option<(String, i32)>,
    /// Names of all changing operations, in order.
    log: Vec<String>,
}

#[derive(Debug)]
struct Namespace {
    links: BTreeMap<u32, Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
    rules: Vec<Rule>,
    events: broadcast::Sender<Event>,
}

impl FakeKernel {
    /// A new namespace, with a loopback.
    pub fn namespace(&self) -> io::Result<FakeLinks> {
        let file = Arc::new(File::open("/dev/null")?);
        let mut kernel = self.lock();
        kernel.next_index += 1;
        let lo = Link {
            index: 1,
            name: "lo".into(),
            mac: None,
            up: true,
            carrier: true,
            mtu: 65_536,
            kind: None,
            master: None,
            loopback: true,
        };
        let namespace = Namespace {
            links: BTreeMap::from([(1, lo)]),
            addresses: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            events: broadcast::channel(EVENTS).0,
        };
        kernel.namespaces.insert(file.as_raw_fd(), namespace);
        drop(kernel);
        Ok(FakeLinks {
            kernel: self.clone(),
            file,
        })
    }

    /// The next operation whose description starts with `operation` fails with `errno`, once.
    pub fn fail_next(&self, operation: &str, errno: i32) {
        self.lock().fault = Some((operation.into(), errno));
    }

    /// Descriptions of all changing operations so far.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for FakeLinks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn fail(what: &str, errno: i32) -> Error {
    Error::new(what, io::Error::from_raw_os_error(errno))
}

impl FakeLinks {
    /// A link that falls from the sky, as a hot-plugged NIC does. Returns its index.
    pub fn plug(&self, name: &str, mac: MacAddr) -> u32 {
        let mut kernel = self.kernel.lock();
        kernel.add_link(self.file.as_raw_fd(), name, Some(mac), None, false, None)
    }

    /// Carrier lost or found.
    pub fn set_carrier(&self, index: u32, carrier: bool) {
        let mut kernel = self.kernel.lock();
        if let Some(namespace) = kernel.namespaces.get_mut(&self.file.as_raw_fd())
            && let Some(link) = namespace.links.get_mut(&index)
        {
            link.carrier = carrier;
            let _ = namespace.events.send(Event::Link(link.clone()));
        }
    }

    fn change<T>(
        &self,
        what: String,
        work: impl FnOnce(&mut Kernel, i32) -> std::result::Result<T, i32>,
    ) -> Result<T> {
        let mut kernel = self.kernel.lock();
        if let Some((_, errno)) = kernel.fault.take_if(|(start, _)| what.starts_with(&*start)) {
            return Err(fail(&what, errno));
        }
        let done = work(&mut kernel, self.file.as_raw_fd()).map_err(|errno| fail(&what, errno))?;
        kernel.log.push(what);
        Ok(done)
    }

    fn change_own(
        &self,
        what: String,
        work: impl FnOnce(&mut Namespace) -> std::result::Result<(), i32>,
    ) -> Result<()> {
        self.change(what, |kernel, me| {
            work(kernel.namespaces.get_mut(&me).ok_or(libc::EINVAL)?)
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Namespace) -> T) -> Result<T> {
        let kernel = self.kernel.lock();
        let namespace = kernel.namespaces.get(&self.file.as_raw_fd());
        namespace
            .map(work)
            .ok_or_else(|| fail("read a fake namespace", libc::EINVAL))
    }
}

impl Kernel {
    fn add_link(
        &mut self,
        netns: i32,
        name: &str,
        mac: Option<MacAddr>,
        kind: Option<&str>,
        up: bool,
        master: Option<u32>,
    ) -> u32 {
        self.next_index += 1;
        let [.., c, d] = self.next_index.to_be_bytes();
        let link = Link {
            index: self.next_index,
            name: name.into(),
            mac: Some(mac.unwrap_or(MacAddr([2, 0, 0, 0, c, d]))),
            up,
            carrier: up,
            mtu: 1500,
            kind: kind.map(Into::into),
            master,
            loopback: false,
        };
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            let _ = namespace.events.send(Event::Link(link.clone()));
            namespace.links.insert(link.index, link);
        }
        self.next_index
    }

    fn free_name(&self, netns: i32, name: &str) -> std::result::Result<(), i32> {
        let namespace = self.namespaces.get(&netns).ok_or(libc::EINVAL)?;
        if namespace.links.values().any(|link| link.name == name) {
            return Err(libc::EEXIST);
        }
        Ok(())
    }

    /// Takes a link out of its namespace, with what hangs on it.
    fn take(&mut self, netns: i32, index: u32) -> Option<Link> {
        let namespace = self.namespaces.get_mut(&netns)?;
        let link = namespace.links.remove(&index)?;
        namespace.addresses.retain(|a| a.link != index);
        namespace.routes.retain(|r| r.link != Some(index));
        let _ = namespace.events.send(Event::LinkGone(link.clone()));
        Some(link)
    }
}

impl LinkControl for FakeLinks {
    async fn links(&self) -> Result<Vec<Link>> {
        self.read(|namespace| namespace.links.values().cloned().collect())
    }

    async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<()> {
        self.change(format!("create veth {}", spec.name), |kernel, me| {
            let there = spec.peer_netns.map_or(me, |fd| fd.as_raw_fd());
            kernel.free_name(me, spec.name)?;
            kernel.free_name(there, spec.peer)?;
            let kind = Some("veth");
            let near = kernel.add_link(me, spec.name, spec.mac, kind, spec.up, spec.master);
            let far = kernel.add_link(there, spec.peer, spec.peer_mac, kind, false, None);
            kernel.pairs.insert((me, near), (there, far));
            kernel.pairs.insert((there, far), (me, near));
            Ok(())
        })
    }

    async fn create_bridge(
        &self,
        name: &str,
        mac: Option<MacAddr>,
        _mtu: Option<u32>,
    ) -> Result<()> {
        self.change(format!("create bridge {name}"), |kernel, me| {
            kernel.free_name(me, name)?;
            kernel.add_link(me, name, mac, Some("bridge"), true, None);
            Ok(())
        })
    }

    async fn set_link(&self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        self.change(format!("change link {index} ({change:?})"), |kernel, me| {
            let own = kernel.namespaces.get_mut(&me).ok_or(libc::EINVAL)?;
            let link = own.links.get_mut(&index).ok_or(libc::ENODEV)?;
            if let Some(up) = change.up {
                (link.up, link.carrier) = (up, up);
            }
            if let Some(mac) = change.mac {
                link.mac = Some(mac);
            }
            if let Some(mtu) = change.mtu {
                link.mtu = mtu;
            }
            if let Some(master) = change.master {
                link.master = master;
            }
            let name = change.name.unwrap_or(&link.name).to_owned();
            let there = change.netns.map_or(me, |fd| fd.as_raw_fd());
            if there == me {
                if name != link.name {
                    kernel.free_name(me, &name)?;
                }
                let own = kernel.namespaces.get_mut(&me).ok_or(libc::EINVAL)?;
                let link = own.links.get_mut(&index).ok_or(libc::ENODEV)?;
                link.name = name;
                let _ = own.events.send(Event::Link(link.clone()));
                return Ok(());
            }
            kernel.free_name(there, &name)?;
            let mut link = kernel.take(me, index).ok_or(libc::ENODEV)?;
            (link.name, link.master, link.up, link.carrier) = (name, None, false, false);
            if let Some(peer) = kernel.pairs.remove(&(me, index)) {
                kernel.pairs.insert((there, index), peer);
                kernel.pairs.insert(peer, (there, index));
            }
            let target = kernel.namespaces.get_mut(&there).ok_or(libc::EINVAL)?;
            let _ = target.events.send(Event::Link(link.clone()));
            target.links.insert(index, link);
            Ok(())
        })
    }

    async fn delete_link(&self, index: u32) -> Result<()> {
        self.change(format!("delete link {index}"), |kernel, me| {
            kernel.take(me, index);
            if let Some(peer) = kernel.pairs.remove(&(me, index)) {
                kernel.take(peer.0, peer.1);
                kernel.pairs.remove(&peer);
            }
            Ok(())
        })
    }

    async fn addresses(&self) -> Result<Vec<Address>> {
        self.read(|namespace| namespace.addresses.clone())
    }

    async fn add_address(&self, address: &Address) -> Result<()> {
        let what = format!("add address {} to link {}", address.net, address.link);
        self.change_own(what, |own| {
            if !own.links.contains_key(&address.link) {
                return Err(libc::ENODEV);
            }
            let same = |a: &Address| a.link == address.link && a.net == address.net;
            own.addresses.retain(|a| !same(a));
            own.addresses.push(address.clone());
            let _ = own.events.send(Event::Address(address.clone()));
            Ok(())
        })
    }

    async fn delete_address(&self, address: &Address) -> Result<()> {
        let what = format!("delete address {} of link {}", address.net, address.link);
        self.change_own(what, |own| {
            let same = |a: &Address| a.link == address.link && a.net == address.net;
            if let Some(gone) = own.addresses.iter().find(|a| same(a)) {
                let _ = own.events.send(Event::AddressGone(gone.clone()));
            }
            own.addresses.retain(|a| !same(a));
            Ok(())
        })
    }

    async fn routes(&self) -> Result<Vec<Route>> {
        self.read(|namespace| namespace.routes.clone())
    }

    async fn add_route(&self, route: &Route) -> Result<()> {
        self.change_own(format!("add route {route:?}"), |own| {
            let up = |index: u32| own.links.get(&index).is_some_and(|link| link.up);
            if !route.link.is_none_or(up) {
                return Err(libc::ENETDOWN);
            }
            let place = |r: &Route| (r.to, r.table, r.metric);
            own.routes.retain(|r| place(r) != place(route));
            own.routes.push(route.clone());
            Ok(())
        })
    }

    async fn delete_route(&self, route: &Route) -> Result<()> {
        self.change_own(format!("delete route {route:?}"), |own| {
            let place = |r: &Route| (r.to, r.table, r.metric, r.protocol, r.via, r.link);
            own.routes.retain(|r| place(r) != place(route));
            Ok(())
        })
    }

    async fn rules(&self) -> Result<Vec<Rule>> {
        self.read(|namespace| namespace.rules.clone())
    }

    async fn add_rule(&self, rule: &Rule) -> Result<()> {
        self.change_own(format!("add rule {rule:?}"), |own| {
            if !own.rules.contains(rule) {
                own.rules.push(rule.clone());
            }
            Ok(())
        })
    }

    async fn delete_rule(&self, rule: &Rule) -> Result<()> {
        self.change_own(format!("delete rule {rule:?}"), |own| {
            own.rules.retain(|r| r != rule);
            Ok(())
        })
    }

    fn watch(&self) -> Result<Watch> {
        self.read(|namespace| Watch::fake(namespace.events.subscribe()))
    }
}
