use crate::Lab;
use krater_net::netns::{self, NetNs};
use krater_net::sysctl;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io::ErrorKind;
use std::sync::mpsc;

#[test]
fn create_open_delete() {
    let lab = Lab::make();
    let path = lab.path("a");
    assert!(!netns::exists(&path));
    let made = NetNs::create(&path).unwrap();
    assert_eq!(
        NetNs::create(&path).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        made.id().unwrap(),
        NetNs::ensure(&path).unwrap().id().unwrap()
    );
    assert_ne!(made.id().unwrap(), NetNs::current().unwrap().id().unwrap());
    // The thread that worked inside is gone, and we are where we were.
    let inside = made
        .run(|| NetNs::current().unwrap().id().unwrap())
        .unwrap();
    assert_eq!(inside, made.id().unwrap());
    assert_ne!(NetNs::current().unwrap().id().unwrap(), inside);

    netns::delete(&path).unwrap();
    netns::delete(&path).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_plain_file_is_no_namespace_but_is_taken_over() {
    let lab = Lab::make();
    let path = lab.path("a");
    std::fs::write(&path, "").unwrap();
    assert!(!netns::exists(&path));
    assert_eq!(
        NetNs::open(&path).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    NetNs::create(&path).unwrap();
    assert!(netns::exists(&path));
}

#[test]
fn deleted_although_another_mount_namespace_holds_a_copy() {
    let lab = Lab::make();
    let path = lab.path("a");
    drop(lab.netns("a"));
    let (ready, wait_ready) = mpsc::channel();
    let (done, wait_done) = mpsc::channel::<()>();
    let holder = std::thread::spawn({
        let path = path.clone();
        move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            ready.send(netns::exists(&path)).unwrap();
            let _ = wait_done.recv();
            netns::exists(&path)
        }
    });
    assert!(wait_ready.recv().unwrap(), "the copy is there");
    netns::delete(&path).unwrap();
    assert!(!path.exists());
    drop(done);
    assert!(!holder.join().unwrap(), "the copy went with the file");
}

#[test]
fn sockets_belong_to_the_namespace() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let listener = a.tcp_listener("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let second = std::time::Duration::from_secs(1);
    assert!(a.tcp_connect(address, second).is_ok());
    let refused = b.tcp_connect(address, second).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // The same port is free elsewhere, also for UDP and IPv6.
    assert!(b.tcp_listener(address).is_ok());
    let udp = a.udp_socket("[::1]:0".parse().unwrap()).unwrap();
    assert!(b.udp_socket(udp.local_addr().unwrap()).is_ok());
}

#[test]
fn sysctls_are_written_inside_only() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let key = "net/ipv4/ip_nonlocal_bind";
    sysctl::write(&a, key, "1").unwrap();
    assert_eq!(sysctl::read(&a, key).unwrap(), "1");
    assert_eq!(sysctl::read(&b, key).unwrap(), "0");
    let error = sysctl::write(&a, "net/ipv4/no_such_thing", "1").unwrap_err();
    assert!(
        error.to_string().contains("net/ipv4/no_such_thing"),
        "{error}"
    );
}

#[test]
fn sysctls_are_written_where_proc_is_read_only() {
    let lab = Lab::make();
    let a = lab.netns("a");
    let key = "net/ipv4/ip_nonlocal_bind";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
            let sys = Some("/proc/sys");
            mount(sys, "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(none, "/proc/sys", none, read_only, none).unwrap();
            let refused = std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem, "the control");
            sysctl::write(&a, key, "1").unwrap();
        });
    });
    assert_eq!(sysctl::read(&a, key).unwrap(), "1");
}

#[test]
fn a_root_folder_that_is_no_mount_point_is_refused_by_name() {
    netns::check_private_mounts().unwrap();
    let lab = Lab::make();
    let root = lab.path("root");
    std::fs::create_dir(&root).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The root folder of this thread alone.
            unshare(CloneFlags::CLONE_FS).unwrap();
            nix::unistd::chroot(&root).unwrap();
            let error = netns::check_private_mounts().unwrap_err();
            assert!(error.to_string().contains("mount --bind"), "{error}");
        });
    });
    std::fs::remove_dir(&root).unwrap();
}

#[test]
fn a_process_with_several_threads_does_not_enter() {
    let lab = Lab::make();
    let error = lab.netns("a").enter().unwrap_err(); // the test harness has threads
    assert!(error.to_string().contains("threads"), "{error}");
}
