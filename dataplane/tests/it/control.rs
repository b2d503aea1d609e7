//! The control socket: what is refused, and what it answers.

use crate::kit::*;
use krater_model::control::{ListenerState, Refusal};
use krater_model::state::*;
use krater_model::*;
use std::io::{Read, Write};

fn refused(answer: (u16, String), status: u16) -> Refusal {
    assert_eq!(answer.0, status, "{}", answer.1);
    serde_json::from_str(&answer.1).unwrap()
}

#[test]
fn order_of_snapshots() {
    let dataplane = Dataplane::start(1);
    assert_eq!(dataplane.request("GET", "/readyz", b"").0, 503);
    let setup = Setup::tcp(&[echo()]);
    let first = dataplane.snapshot(vec![setup.lb.clone()]);
    let second = dataplane.snapshot(vec![setup.lb.clone()]);
    assert_eq!(dataplane.put(&second).0, 200);
    assert_eq!(dataplane.request("GET", "/readyz", b"").0, 200);
    let (status, body) = dataplane.put(&second);
    assert!(
        status == 200 && body.contains(r#""changed":false"#),
        "{body}"
    );
    let older = refused(dataplane.put(&first), 409);
    assert!(
        older.field == "revision" && older.message.contains("1.1 is older"),
        "{older:?}"
    );
    let mut other = second.clone();
    other.load_balancers.clear();
    let conflict = refused(dataplane.put(&other), 409);
    assert!(conflict.message.contains("other content"), "{conflict:?}");
    assert_eq!(dataplane.status().revision, Some(second.revision));
    assert!(goes_round(&mut setup.connect()));
}

#[test]
fn what_is_wrong_is_refused_by_field_and_changes_nothing() {
    let dataplane = Dataplane::start(1);
    let setup = Setup::tcp(&[echo()]);
    setup.apply(&dataplane);
    let before = dataplane.status();
    let lb = |edit: &dyn Fn(&mut LoadBalancer)| {
        let mut lb = setup.lb.clone();
        edit(&mut lb);
        dataplane.put(&dataplane.snapshot(vec![lb]))
    };
    let persistence =
        |p| move |lb: &mut LoadBalancer| lb.pools[0].persistence = Some(Persistence::clone(&p));
    for (answer, field) in [
        (dataplane.request("PUT", "/snapshot", b"{"), "."),
        (
            dataplane.request("PUT", "/snapshot", b"{\"schema\":1}"),
            ".",
        ),
        (
            lb(&|lb| lb.listeners[0].default_pool = Some(PoolId::random())),
            "load_balancers[0].listeners[0].default_pool",
        ),
        (
            lb(&persistence(Persistence::HttpCookie)),
            "load_balancers[0].pools[0].persistence",
        ),
        (
            lb(&|lb| {
                lb.pools[0].protocol = PoolProtocol::Https;
                lb.pools[0].tls = Some(PoolTls {
                    certificate: None,
                    ca: None,
                    crl: None,
                    versions: vec![],
                    ciphers: vec![],
                    alpn: vec![],
                });
            }),
            "load_balancers[0].pools[0].tls",
        ),
        (
            lb(&|lb| {
                let twin = lb.pools[0].members[0].clone();
                lb.pools.push(Pool {
                    id: PoolId::random(),
                    members: vec![twin],
                    ..lb.pools[0].clone()
                });
            }),
            "load_balancers[0].pools[1].members[0].id",
        ),
    ] {
        let refusal = refused(answer, 400);
        assert!(
            refusal.field.ends_with(field) || field == ".",
            "{refusal:?}"
        );
        assert!(!refusal.message.is_empty());
    }
    assert_eq!(dataplane.status(), before);
    assert!(goes_round(&mut setup.connect()));
}

#[test]
fn one_listener_fails_alone() {
    let dataplane = Dataplane::start(2);
    let (mut good, mut bad) = (Setup::tcp(&[echo()]), Setup::tcp(&[echo()]));
    // Without SO_REUSEPORT nobody shares the address.
    let taken = std::net::TcpListener::bind(bad.address()).unwrap();
    dataplane.apply(vec![good.lb.clone(), bad.lb.clone()]);
    let state = dataplane.listener(bad.listener().id).state;
    assert!(
        matches!(&state, ListenerState::Failed(why) if why.contains("in use")),
        "{state:?}"
    );
    assert_eq!(
        dataplane.listener(good.listener().id).state,
        ListenerState::Open
    );
    assert!(goes_round(&mut good.connect()));
    assert_eq!(dataplane.request("GET", "/readyz", b"").0, 503);
    drop(taken);
    until("tried again by itself", || {
        (dataplane.request("GET", "/readyz", b"").0 == 200).then_some(())
    });
    assert!(goes_round(&mut bad.connect()));
    assert!(goes_round(&mut good.connect()));
    bad.listener().enabled = false;
    dataplane.apply(vec![good.lb.clone(), bad.lb.clone()]);
    assert_eq!(
        dataplane.listener(bad.listener().id).state,
        ListenerState::Disabled
    );
}

#[test]
fn other_paths() {
    let dataplane = Dataplane::start(1);
    assert_eq!(dataplane.request("GET", "/healthz", b"").0, 200);
    assert_eq!(
        dataplane
            .request("PUT", "/log-level", br#"{"level":"debug"}"#)
            .0,
        204
    );
    let wrong = refused(
        dataplane.request("PUT", "/log-level", br#"{"level":"loud"}"#),
        400,
    );
    assert_eq!(wrong.field, "level");
    assert_eq!(dataplane.request("GET", "/nowhere", b"").0, 404);
    refused(
        dataplane.request("POST", "/drain", br#"{"deadline":1}"#),
        400,
    );
    let status = dataplane.status();
    assert_eq!((status.version.as_str(), status.revision), ("test", None));
    let (_, metrics) = dataplane.request("GET", "/metrics", b"");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn progress_is_written_while_all_tick() {
    use krater_model::control::Progress;
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().unwrap();
    let dataplane = Dataplane::start_with(2, Some(file.try_clone().unwrap().into()));
    let record = || {
        let mut bytes = [0; Progress::SIZE];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Progress::decode(&bytes)
    };
    let first = until("first record", record);
    assert!(!first.ready, "no snapshot yet");
    let mut setup = Setup::tcp(&[echo(), echo()]);
    setup.pool().members[1].enabled = false;
    setup.apply(&dataplane);
    let ready = until("ready", || {
        record().filter(|r| r.ready && r.members_total == 2)
    });
    assert_eq!(ready.members_up, 1);
    until("ticks", || record().filter(|r| r.ticks > ready.ticks + 5));
}

#[test]
fn metrics_have_a_port_of_their_own_on_loopback() {
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let address = free();
    let _dataplane = Dataplane::start_metrics(address);
    let ask = |request: &str| {
        let mut stream = client(address);
        let text = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let metrics = ask("GET /metrics");
    assert!(metrics.contains("krater_dataplane_build_info{version=\"test\"} 1"));
    assert!(ask("GET /readyz").starts_with("HTTP/1.1 503 "));
    for request in [
        "PUT /snapshot",
        "POST /drain",
        "GET /status",
        "POST /metrics",
    ] {
        assert!(ask(request).starts_with("HTTP/1.1 404 "), "{request}");
    }
    // Scrapers that say nothing hold up no other.
    let _silent: Vec<_> = (0..10).map(|_| client(address)).collect();
    assert!(ask("GET /healthz").ends_with("ok\n"));
    // Elsewhere it does not start.
    let folder = tempfile::tempdir().unwrap();
    let refused = krater_dataplane::run(krater_dataplane::Settings {
        netns: None,
        control: folder.path().join("c.sock"),
        uid: None,
        workers: 1,
        metrics: Some("0.0.0.0:0".parse().unwrap()),
        progress_fd: None,
        version: "test".into(),
        log: std::sync::Arc::new(|_| Ok(())),
    });
    let error = report(&refused.unwrap_err());
    assert!(
        error.contains("not a loopback address: use 127.0.0.1 or [::1]"),
        "{error}"
    );
}

/// Clients that say half a request and no more hold the control socket up for a while, not for good.
#[test]
fn who_falls_silent_makes_way() {
    let dataplane = Dataplane::start(1);
    let path = dataplane.control().to_owned();
    let hold = |bytes: &'static [u8]| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut silent: Vec<_> = (0..40)
        .map(|n| match n % 2 {
            0 => hold(b"GET /sta"),
            _ => hold(b"PUT /snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"),
        })
        .collect();
    assert_eq!(dataplane.request("GET", "/healthz", b"").0, 200);
    // The first ones were let go, each in its way.
    for stream in &mut silent[..2] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
}
