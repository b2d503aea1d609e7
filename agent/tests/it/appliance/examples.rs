//! Every file of `agent/examples`, started as it is and served from outside.

use super::host::{Host, ask, at, certificate, tls, until};
use crate::rig::PATIENCE;
use krater_model::config::appliance::Appliance;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// A running example.
struct Example {
    host: Host,
    /// By the names that its files are called after.
    certificates: Vec<(String, String)>,
}

impl Example {
    /// Starts the example: its addresses are the host's, its members answer with their names.
    fn start(file: &str) -> Self {
        Self::start_without(file, &[])
    }

    /// Without these members.
    fn start_without(file: &str, missing: &[&str]) -> Self {
        let text = std::fs::read_to_string(folder().join(file)).unwrap();
        let mut certificates = Vec::new();
        let read = |path: &str| {
            let site = path.trim_end_matches(".pem").to_owned();
            let name = match site.as_str() {
                "site" => "www.example.com".to_owned(),
                site => format!("{site}.example.com"),
            };
            let pem = certificate(&[&name]);
            certificates.push((path.to_owned(), pem.clone()));
            Ok(pem)
        };
        let appliance = Appliance::parse(&text, read).unwrap();
        let mut host = Host::new();
        for (path, pem) in &certificates {
            std::fs::write(host.dir.join(path), pem).unwrap();
        }
        for router in &appliance.vrrp {
            host.add_address("eth0", &format!("{}/24", router.source));
        }
        let held: Vec<IpAddr> = appliance
            .vrrp
            .iter()
            .flat_map(|router| router.addresses.iter().map(|net| net.addr()))
            .collect();
        let alone = |address: IpAddr| match address {
            IpAddr::V4(_) => format!("{address}/32"),
            IpAddr::V6(_) => format!("{address}/128"),
        };
        let member_pem = certificate(&["member.example"]);
        for lb in &appliance.load_balancers {
            for vip in lb.vips.iter().filter(|vip| !held.contains(vip)) {
                host.add_address("lo", &alone(*vip));
            }
            for member in lb.pools.iter().flat_map(|pool| &pool.members) {
                host.add_address("lo", &alone(member.address));
                if !missing.contains(&member.name.as_str()) {
                    let address = SocketAddr::new(member.address, member.port.value());
                    host.member(address, &member.name, &member_pem);
                }
            }
        }
        host.write(&text);
        host.run(&[]);
        host.serves();
        Self { host, certificates }
    }

    fn get(&self, address: &str, host: &str, path: &str) -> String {
        self.host.get(at(address), host, path)
    }

    fn tls(&self, name: &str) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let trusted: Vec<&str> = self
            .certificates
            .iter()
            .map(|(_, pem)| pem.as_str())
            .collect();
        tls(self.host.connect(at("192.0.2.10:443")), name, &trusted)
    }
}

const WEB: &str = "192.0.2.10:80";

/// Whoever adds an example adds its test.
#[test]
fn every_example_has_a_test() {
    let own = include_str!("examples.rs");
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Scripts around vrrp are run by `hooks`.
        if name == "vrrp" {
            continue;
        }
        let start = format!("(\"{name}\"");
        assert!(own.contains(&start), "no test starts {name}");
        count += 1;
    }
    assert_eq!(count, 10);
}

#[test]
fn http() {
    let example = Example::start("01-http.toml");
    // Twice as many for the heavier one, over both families.
    let mut counts = [0; 2];
    for n in 0..12 {
        let address = if n % 2 == 0 { WEB } else { "[2001:db8::10]:80" };
        let answer = example.get(address, "a", "/");
        counts[usize::from(answer.contains("198.51.100.12:8080"))] += 1;
    }
    assert_eq!(counts, [4, 8]);
    // The health check acts: a member that is not there is passed over, and status says so.
    let example = Example::start_without("01-http.toml", &["198.51.100.12:8080"]);
    until("the member's end", || {
        let (_, text) = example.host.ctl(&["status"]);
        text.contains("Down connection refused").then_some(())
    });
    for _ in 0..6 {
        assert!(example.get(WEB, "a", "/").contains("198.51.100.11:8080"));
    }
}

#[test]
fn https() {
    let example = Example::start("02-https.toml");
    let away = example.get(WEB, "www.example.com", "/a?b");
    assert!(away.starts_with("HTTP/1.1 301 "), "{away}");
    assert!(
        away.contains("Location: https://www.example.com/a?b\r\n"),
        "{away}"
    );
    let answer = ask(example.tls("www.example.com"), "www.example.com", "/");
    assert!(answer.ends_with("198.51.100.11:8080 "), "{answer}");
    let hsts = "strict-transport-security: max-age=31536000";
    assert!(answer.to_ascii_lowercase().contains(hsts), "{answer}");
}

#[test]
fn sites() {
    let example = Example::start("03-sites.toml");
    for site in ["shop", "blog"] {
        let name = format!("{site}.example.com");
        let stream = example.tls(&name);
        let answer = ask(stream, &name, "/");
        assert!(answer.ends_with(&format!("{site}-1 ")), "{answer}");
    }
    // The default certificate is not valid for others.
    let mut stream = example.tls("other.example.com");
    assert!(stream.write_all(b"x").is_err());
}

#[test]
fn passthrough() {
    let example = Example::start("04-passthrough.toml");
    let mut first = String::new();
    for n in 0..4 {
        // The member's own certificate is what the client sees.
        let stream = example.host.connect(at("192.0.2.10:443"));
        let mut stream = tls(stream, "member.example", &[]);
        let refused = stream.write_all(b"x").unwrap_err().to_string();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
        let mut plain = example.host.connect(at("192.0.2.10:443"));
        plain
            .write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        plain.read_to_string(&mut answer).unwrap();
        if n == 0 {
            first.clone_from(&answer);
        }
        assert_eq!(answer, first, "one client, one server");
    }
}

#[test]
fn database() {
    let address = "192.0.2.10:5432";
    let example = Example::start("05-database.toml");
    for _ in 0..3 {
        assert!(example.get(address, "a", "/").ends_with("primary "));
    }
    let example = Example::start_without("05-database.toml", &["primary"]);
    until("the replica", || {
        let mut stream = example.host.connect(at(address));
        let request = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.write_all(request).ok()?;
        let _closed = stream.read_to_string(&mut answer);
        answer.ends_with("replica ").then_some(())
    });
}

#[test]
fn sticky() {
    let example = Example::start("06-sticky.toml");
    let with = |cookie: &str| {
        let mut stream = example.host.connect(at(WEB));
        let request =
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = example.get(WEB, "a", "/");
    let cookie = answer
        .lines()
        .find_map(|line| {
            line.strip_prefix("Set-Cookie: ")
                .or_else(|| line.strip_prefix("set-cookie: "))
        })
        .unwrap_or_else(|| panic!("{answer}"));
    let cookie = cookie.split(';').next().unwrap();
    let mine = answer.rsplit("\r\n").next().unwrap();
    for _ in 0..4 {
        assert!(with(cookie).ends_with(mine));
    }
    let others: Vec<String> = (0..4).map(|_| with("other=1")).collect();
    assert!(
        others.iter().any(|answer| !answer.ends_with(mine)),
        "without the cookie they turn"
    );
}

#[test]
fn paths() {
    let example = Example::start("07-paths.toml");
    for (path, expected) in [
        ("/", "pages-1 "),
        ("/api/v2/x", "api-1 "),
        ("/api/x", "pages-1 "),
    ] {
        assert!(example.get(WEB, "a", path).ends_with(expected), "{path}");
    }
    assert!(
        example
            .get(WEB, "a", "/admin/x")
            .starts_with("HTTP/1.1 403 ")
    );
    let away = example.get(WEB, "a", "/old");
    assert!(away.starts_with("HTTP/1.1 308 "), "{away}");
    assert!(
        away.contains("Location: https://www.example.com/new\r\n"),
        "{away}"
    );
}

#[test]
fn limits() {
    let example = Example::start("08-limits.toml");
    assert!(example.get(WEB, "a", "/").starts_with("HTTP/1.1 200 "));
    // From elsewhere nobody may.
    example.host.add_address("lo", "100.64.0.9/32");
    let refused = from(&example.host, "100.64.0.9");
    assert_eq!(answer_of(refused, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "");
    // One client has a hundred connections.
    let mut held: Vec<TcpStream> = (0..100).map(|_| example.host.connect(at(WEB))).collect();
    for stream in &mut held {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert!(stream.read(&mut [0; 500]).unwrap() > 0);
    }
    let more = example.host.connect(at(WEB));
    assert_eq!(answer_of(more, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "");
}

#[test]
fn proxy_protocol() {
    let example = Example::start("09-proxy-protocol.toml");
    let front = || example.host.connect(at("192.0.2.10:25"));
    let request = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    let header = "PROXY TCP4 203.0.113.7 192.0.2.10 4000 25\r\n";
    let answer = answer_of(front(), format!("{header}{request}").as_bytes());
    assert!(answer.ends_with(header.trim_end()), "{answer}");
    assert_eq!(
        answer_of(front(), request.as_bytes()),
        "",
        "without a header"
    );
}

#[test]
fn pair() {
    let example = Example::start("10-pair.toml");
    let vip = at(WEB).ip();
    until("the VIP, as no peer speaks", || {
        example.host.has_address(vip).then_some(())
    });
    assert!(example.get(WEB, "a", "/").starts_with("HTTP/1.1 200 "));
    let (_, text) = example.host.ctl(&["vrrp"]);
    assert!(text.contains("vrid 10 on eth0 Active"), "{text}");
}

/// A connection from another address of the host.
fn from(host: &Host, address: &str) -> TcpStream {
    let from: SocketAddr = format!("{address}:0").parse().unwrap();
    let kind = socket2::Type::STREAM;
    let socket = host.ns.socket(socket2::Domain::IPV4, kind, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&at(WEB).into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes back until the end, which may be a reset.
fn answer_of(mut stream: TcpStream, bytes: &[u8]) -> String {
    let _refused = stream.write_all(bytes);
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let silent = end.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!silent, "no end of the connection");
    String::from_utf8(answer).unwrap()
}
