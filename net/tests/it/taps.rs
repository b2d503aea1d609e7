use crate::Lab;
use krater_net::link::LinkChange;
use krater_net::process::{Descriptors, Detached, spawn_detached_with};
use krater_net::sync::NetlinkSocket;
use krater_net::tap;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

#[test]
fn a_tap_lives_as_long_as_its_descriptor() {
    let lab = Lab::make();
    let a = lab.netns("a");
    let netlink = NetlinkSocket::open_in(&a).unwrap();
    let there = || netlink.link_by_name("tap0").unwrap();
    let descriptor = tap::create(&a, "tap0").unwrap();
    let link = there().expect("it is in the namespace");
    netlink.create_bridge("br0", None, None).unwrap();
    let bridge = netlink.link_by_name("br0").unwrap().unwrap().index;
    let plugged = LinkChange {
        master: Some(Some(bridge)),
        mtu: Some(1450),
        up: Some(true),
        ..LinkChange::default()
    };
    netlink.set_link(link.index, &plugged).unwrap();
    let link = there().unwrap();
    assert_eq!((link.mtu, link.master, link.up), (1450, Some(bridge), true));
    tap::create(&a, "tap0").expect_err("the name is taken");
    assert!(there().is_some(), "and stays whose it was");
    drop(descriptor);
    // A process that another test forks has a copy until it runs its own program.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while there().is_some() {
        assert!(
            std::time::Instant::now() < deadline,
            "it outlives its descriptor"
        );
        std::thread::yield_now();
    }
    for name in ["", "sixteen-bytes-xx", "a\0b"] {
        tap::create(&a, name).unwrap_err();
    }
}

#[test]
fn a_tap_that_a_killed_process_had_is_gone_with_it() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let netlink = NetlinkSocket::open_in(&a).unwrap();
    let descriptor = tap::create(&a, "tap0").unwrap();
    let (mut said, output) = std::io::pipe().unwrap();
    let mut child = spawn_detached_with(
        &Detached {
            program: Path::new("/bin/sh"),
            args: &["-c".into(), "echo up; echo here >&2; sleep 1000".into()],
            netns: &b,
            stderr: None,
        },
        Descriptors {
            stdin: None,
            output: Some(output.into()),
            keep: &[descriptor.as_fd()],
        },
    )
    .unwrap();
    let mut text = [0; 8];
    said.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"up\nhere\n", "both outputs");
    drop(descriptor);
    assert!(netlink.link_by_name("tap0").unwrap().is_some());
    let patience = Duration::from_secs(20);
    krater_net::process::kill_all_in(&[b.id().unwrap()], patience).unwrap();
    child.wait().unwrap();
    let deadline = std::time::Instant::now() + patience;
    while netlink.link_by_name("tap0").unwrap().is_some() {
        assert!(
            std::time::Instant::now() < deadline,
            "it outlives its process"
        );
        std::thread::yield_now();
    }
}
