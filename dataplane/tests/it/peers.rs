//! Real peers: nginx as member, curl and Apache bench as clients, openssl on either side, a WebSocket.

use crate::kit::*;
use krater_model::state::ListenerProtocol::{Http, Https, TerminatedHttps};
use krater_model::state::*;
use krater_model::*;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

/// A port that nobody uses now.
fn free() -> SocketAddr {
    let address = (Ipv4Addr::LOCALHOST, 0);
    TcpListener::bind(address).unwrap().local_addr().unwrap()
}

/// Runs a peer to its end; what it wrote.
fn output(program: &str, arguments: &[&str]) -> String {
    let mut command = peer(program);
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{errors}"
    );
    text
}

fn curl(arguments: &[&str]) -> String {
    let fixed = ["-sS", "--fail", "--max-time", "60", "--noproxy", "*"];
    output("usr/bin/curl", &[&fixed[..], arguments].concat())
}

/// nginx in a folder of its own, serving and taking files below `files/`.
struct Nginx {
    address: SocketAddr,
    folder: tempfile::TempDir,
    _process: Peer,
}

impl Nginx {
    fn start() -> Self {
        let address = free();
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {here}/{what};\n"))
            .collect();
        let user = if nix::unistd::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let text = format!(
            "daemon off; master_process off; {user} pid {here}/pid; error_log {here}/errors;\n\
             events {{ }}\n\
             http {{ access_log off; {temporary} default_type text/plain;\n\
             server {{ listen {address}; absolute_redirect off; root {here}/files; client_max_body_size 0;\n\
             location / {{ dav_methods PUT DELETE; gzip on; gzip_min_length 1; gzip_types text/plain; }}\n\
             location = /hello {{ return 200 \"hello\\n\"; }}\n\
             location = /host {{ return 200 \"$http_host $http_x_forwarded_for $server_protocol\\n\"; }}\n\
             location = /away {{ return 302 /hello; }} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let arguments: Vec<OsString> = vec![
            "-e".into(),
            folder.path().join("errors").into(),
            "-p".into(),
            folder.path().into(),
            "-c".into(),
            file.into(),
        ];
        let process = Peer::start("usr/sbin/nginx", &arguments);
        until("nginx", || TcpStream::connect(address).ok());
        Self {
            address,
            folder,
            _process: process,
        }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("files").join(name)
    }
}

/// Bytes that do not repeat soon.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn curl_through_us_to_nginx() {
    let (nginx, dataplane) = (Nginx::start(), Dataplane::start(2));
    let mut setup = Setup::new(Http, &[nginx.address]);
    setup.listener().insert_headers = vec![InsertHeader::XForwardedFor];
    setup.apply(&dataplane);
    let url = |path: &str| format!("http://{}/{path}", setup.address());
    let host = setup.address();
    assert_eq!(
        curl(&[&url("host")]),
        format!("{host} 127.0.0.1 HTTP/1.1\n")
    );
    let old = curl(&["--http1.0", &url("host")]);
    assert_eq!(
        old,
        format!("{host} 127.0.0.1 HTTP/1.1\n"),
        "our own version goes on"
    );
    let connects = curl(&[
        "-w",
        "%{num_connects}",
        &url("hello"),
        &url("hello"),
        "-I",
        &url("hello"),
    ]);
    assert!(
        connects.contains('1') && connects.ends_with('0'),
        "kept: {connects}"
    );
    assert_eq!(
        curl(&["-L", "-w", "%{http_code} %{num_redirects}", &url("away")]),
        "hello\n200 1"
    );
    let head = curl(&["-I", &url("hello")]);
    assert!(head.contains("Content-Length: 6\r\n"), "{head}");
    // Up with a length and 100-continue, up in chunks, and back in several ways.
    let sent = nginx.folder.path().join("sent");
    let back = nginx.folder.path().join("back");
    let (sent_text, back_text) = (sent.to_str().unwrap(), back.to_str().unwrap());
    std::fs::write(&sent, noise(3_000_000)).unwrap();
    let ways: [&[&str]; 3] = [
        &["-H", "Expect: 100-continue"],
        &["-H", "Transfer-Encoding: chunked"],
        &["-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
    ];
    for (n, way) in ways.into_iter().enumerate() {
        let name = format!("up{n}.txt");
        curl(&[&["-T", sent_text][..], way, &[&url(&name)]].concat());
        assert!(same(&sent, &nginx.file(&name)), "{way:?}");
        curl(&["-o", back_text, &url(&name)]);
        assert!(same(&sent, &back), "{way:?}");
        curl(&["--compressed", "-o", back_text, &url(&name)]);
        assert!(same(&sent, &back), "compressed, so in chunks");
        curl(&["-X", "DELETE", &url(&name)]);
        assert!(!nginx.file(&name).exists());
    }
    std::fs::write(nginx.file("range"), "0123456789").unwrap();
    assert_eq!(curl(&["-r", "3-5", &url("range")]), "345");
    let several = curl(&["-r", "0-1,8-9", &url("range")]);
    assert!(
        several.contains("multipart/byteranges") || several.contains("Content-Range: bytes 8-9/10"),
        "{several}"
    );
    let code = curl(&[
        "-o",
        back_text,
        "-w",
        "%{http_code}",
        "-z",
        nginx.file("range").to_str().unwrap(),
        &url("range"),
    ]);
    assert_eq!(code, "304");
}

fn same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

#[test]
fn apache_bench_through_us_to_nginx() {
    let (nginx, dataplane) = (Nginx::start(), Dataplane::start(2));
    let setup = Setup::new(Http, &[nginx.address]);
    setup.apply(&dataplane);
    std::fs::write(nginx.file("large"), noise(200_000)).unwrap();
    let address = setup.address();
    let ab = |more: &[&str], path: &str| {
        let url = format!("http://{address}/{path}");
        let text = output("usr/bin/ab", &[&["-q"], more, &[&url]].concat());
        let number = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or("0");
            let word = line.trim_start_matches(':').split_whitespace().next();
            word.and_then(|word| word.parse::<u64>().ok()).unwrap()
        };
        assert_eq!(number("Failed requests"), 0, "{text}");
        assert_eq!(number("Non-2xx responses"), 0, "{text}");
        (number("Complete requests"), number("Keep-Alive requests"))
    };
    assert_eq!(
        ab(&["-k", "-n", "3000", "-c", "30"], "hello"),
        (3_000, 3_000)
    );
    assert_eq!(ab(&["-n", "500", "-c", "20"], "hello"), (500, 0));
    assert_eq!(ab(&["-k", "-n", "200", "-c", "10"], "large"), (200, 200));
    assert_eq!(
        ab(&["-i", "-k", "-n", "100", "-c", "5"], "large"),
        (100, 100),
        "HEAD"
    );
    until("the sums", || {
        (dataplane.metric("krater_dataplane_member_connections_reused_total") > 2_500).then_some(())
    });
    let stats = dataplane.listener(setup.lb.listeners[0].id).stats;
    assert_eq!(stats.request_errors, 0);
}

/// A key and a certificate for `name`, signed by itself, in one file; and the certificate's file.
fn certificate(folder: &Path, name: &str) -> (String, String) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let both = folder.join("both.pem");
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(
        &both,
        format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem()),
    )
    .unwrap();
    (
        both.to_str().unwrap().into(),
        certificate.to_str().unwrap().into(),
    )
}

#[test]
fn openssl_as_client_of_our_tls() {
    let (nginx, dataplane) = (Nginx::start(), Dataplane::start(2));
    let folder = nginx.folder.path();
    let (both, ca) = certificate(folder, "d.example");
    let pem = std::fs::read_to_string(both).unwrap();
    let bundle = Certificate {
        id: CertificateId::of(pem.as_bytes()),
        pem: Secret::new(&pem),
    };
    let mut setup = Setup::new(TerminatedHttps, &[nginx.address]);
    setup.listener().tls = Some(ListenerTls {
        default_certificate: bundle.id.clone(),
        sni_certificates: Vec::new(),
        versions: Vec::new(),
        ciphers: Vec::new(),
        alpn: vec!["http/1.1".into()],
        client_authentication: ClientAuthentication::None,
        client_ca: None,
        client_crl: None,
        hsts: None,
    });
    let mut snapshot = dataplane.snapshot(vec![setup.lb.clone()]);
    snapshot.certificates = vec![bundle];
    let (status, body) = dataplane.put(&snapshot);
    assert_eq!(status, 200, "{body}");
    let address = setup.address().to_string();
    let session = folder.join("session");
    let session = session.to_str().unwrap();
    let client = |more: &[&str]| {
        let fixed = [
            "s_client",
            "-connect",
            &address,
            "-servername",
            "d.example",
            "-CAfile",
            &ca,
        ];
        let strict = [
            "-verify_return_error",
            "-verify_hostname",
            "d.example",
            "-alpn",
            "http/1.1",
        ];
        let mut child = peer("usr/bin/openssl")
            .args(fixed)
            .args(strict)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let request = b"GET /hello HTTP/1.1\r\nHost: d.example\r\nConnection: close\r\n\r\n";
        let mut input = child.stdin.take().unwrap();
        input.write_all(request).unwrap();
        // Its input stays open until the answer is there: at its end it would hang up.
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        drop(input);
        child.wait().unwrap();
        text
    };
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let first = client(&[version, "-sess_out", session]);
        assert!(first.contains("Verify return code: 0 (ok)"), "{first}");
        assert!(
            first.contains(&format!("New, {name}, Cipher is ")),
            "{first}"
        );
        assert!(first.contains("ALPN protocol: http/1.1"), "{first}");
        assert!(
            first.contains("HTTP/1.1 200 OK") && first.contains("\r\n\r\nhello\n"),
            "{first}"
        );
        let second = client(&[version, "-sess_in", session]);
        assert!(
            second.contains(&format!("Reused, {name}, Cipher is ")),
            "{second}"
        );
        assert!(second.contains("\r\n\r\nhello\n"), "{second}");
    }
    let refused = client(&["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]);
    assert!(refused.contains("Cipher is (NONE)"), "{refused}");
}

#[test]
fn openssl_as_member_behind_a_pass_through_and_under_health_checks() {
    let (dataplane, folder) = (Dataplane::start(2), tempfile::tempdir().unwrap());
    let (both, ca) = certificate(folder.path(), "d.example");
    let address = free();
    let arguments = [
        "s_server",
        "-quiet",
        "-www",
        "-accept",
        &address.to_string(),
        "-cert",
        &both,
        "-key",
        &both,
    ];
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let mut setup = Setup::new(Https, &[address]);
    let member = setup.pool().members[0].id;
    setup.pool().health_monitor = Some(monitor(HealthCheck::TlsHello));
    setup.apply(&dataplane);
    until("nobody there", || {
        (dataplane.member(member).health == control::MemberHealth::Down).then_some(())
    });
    let _process = Peer::start("usr/bin/openssl", &arguments);
    until("openssl answers a ClientHello", || {
        (dataplane.member(member).health == control::MemberHealth::Up).then_some(())
    });
    let resolve = format!(
        "d.example:{}:{}",
        setup.address().port(),
        setup.address().ip()
    );
    let url = format!("https://d.example:{}/", setup.address().port());
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let page = curl(&[version, "--resolve", &resolve, "--cacert", &ca, &url]);
        assert!(
            page.contains("Ciphers supported in s_server binary"),
            "{page}"
        );
    }
}

/// Frames of RFC 6455 both ways, as a browser sends them: masked, fragmented, with a ping between, and
/// a closing handshake.
#[test]
fn a_websocket_from_handshake_to_close() {
    let member = server(|mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(byte(&mut stream).unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(
            head.contains("\r\nupgrade: websocket\r\n")
                && head.contains("\r\nconnection: upgrade\r\n")
        );
        // The key of RFC 6455 section 1.3, and its answer.
        assert!(head.contains("\r\nsec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n"));
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n").unwrap();
        let mut message = Vec::new();
        loop {
            let (first, payload) = frame(&mut stream);
            match first & 0x0f {
                0x0..=0x2 => {
                    message.extend(payload);
                    if first & 0x80 != 0 {
                        send(&mut stream, 0x82, None, &std::mem::take(&mut message));
                    }
                }
                0x9 => send(&mut stream, 0x8a, None, &payload),
                _ => return send(&mut stream, 0x88, None, &payload),
            }
        }
    });
    let dataplane = Dataplane::start(2);
    let setup = Setup::new(Http, &[member]);
    setup.apply(&dataplane);
    let mut client = setup.connect();
    client.write_all(b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://a\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(&mut client).unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let mask = Some([1, 2, 3, 4]);
    let large = noise(300_000);
    send(&mut client, 0x02, mask, &large[..100_000]);
    send(&mut client, 0x89, mask, b"ping");
    assert_eq!(frame(&mut client), (0x8a, b"ping".to_vec()));
    send(&mut client, 0x80, mask, &large[100_000..]);
    assert!(frame(&mut client) == (0x82, large));
    for n in 0..50_u8 {
        send(&mut client, 0x81, mask, &[n; 10]);
        assert_eq!(frame(&mut client), (0x82, vec![n; 10]));
    }
    send(&mut client, 0x88, mask, &1_000_u16.to_be_bytes());
    assert_eq!(frame(&mut client), (0x88, 1_000_u16.to_be_bytes().to_vec()));
    assert_eq!(byte(&mut client), None, "closed by the member, through us");
}

/// Writes a frame (RFC 6455 section 5.2).
fn send(stream: &mut TcpStream, first: u8, mask: Option<[u8; 4]>, payload: &[u8]) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        n @ 0..=125 => bytes.push(masked | u8::try_from(n).unwrap()),
        n => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
    stream.write_all(&bytes).unwrap();
}

/// Reads a frame and takes its mask off.
fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut start = [0; 2];
    stream.read_exact(&mut start).unwrap();
    let length = match start[1] & 0x7f {
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length).unwrap();
            u64::from_be_bytes(length)
        }
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if start[1] & 0x80 != 0 {
        stream.read_exact(&mut mask).unwrap();
    }
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).unwrap();
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }
    (start[0], payload)
}
