//! The same listeners in Krater and in the real HAProxy 2.6, written as Octavia's templates write them: rules,
//! redirects, cookies, what members learn of client certificates, revocation. They agree, or the difference stands here
//! and, in the same words, in `docs/haproxy-differences.md`.

use crate::kit::*;
use crate::tls::{Ca, bundle, client_config, key_der, mirror, tls};
use krater_model::state::L7Compare::{self, Contains, EndsWith, EqualTo, Regex, StartsWith};
use krater_model::state::*;
use krater_model::*;
use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber, date_time_ymd};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

const DEFAULTS: &str = "global\n maxconn 2000\n\
    defaults\n mode http\n retries 3\n option redispatch\n option http-keep-alive\n\
    timeout client 50000\n timeout connect 5000\n timeout server 50000\n";

/// HAProxy with sections of the test's.
fn haproxy(folder: &Path, sections: &str, addresses: &[SocketAddr]) -> Peer {
    Peer::haproxy(folder, &format!("{DEFAULTS}{sections}"), addresses)
}

/// What comes until the connection ends.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = client(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A reset ends it, too.
    let _end = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

/// Asks both for all of `questions`, on eight threads; what each pair answered, in order.
fn both(questions: &[(SocketAddr, SocketAddr, String)]) -> Vec<[String; 2]> {
    std::thread::scope(|scope| {
        let part = questions.len().div_ceil(8).max(1);
        let threads: Vec<_> = questions
            .chunks(part)
            .map(|part| {
                let one = |(ours, theirs, request): &(_, _, String)| {
                    [ask(*ours, request), ask(*theirs, request)]
                };
                scope.spawn(move || part.iter().map(one).collect::<Vec<_>>())
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Rules: subject, key, comparison, value.
const RULES: [(&str, &str, L7Compare, &str); 37] = [
    ("HOST_NAME", "", EqualTo, "www.example.com"),
    ("HOST_NAME", "", EqualTo, "WWW.Example.com"),
    ("HOST_NAME", "", EqualTo, "www.example.com:8080"),
    ("HOST_NAME", "", EqualTo, "www.example.com."),
    ("HOST_NAME", "", StartsWith, "www."),
    ("HOST_NAME", "", StartsWith, "["),
    ("HOST_NAME", "", EndsWith, ".com"),
    ("HOST_NAME", "", EndsWith, ":8080"),
    ("HOST_NAME", "", Contains, "EXAMPLE"),
    ("HOST_NAME", "", Regex, "^www\\."),
    ("HOST_NAME", "", Regex, "\\.com$"),
    ("PATH", "", EqualTo, "/a"),
    ("PATH", "", EqualTo, "/"),
    ("PATH", "", EqualTo, "/%61"),
    ("PATH", "", StartsWith, "/a"),
    ("PATH", "", EndsWith, ".jpg"),
    ("PATH", "", Contains, "b"),
    ("PATH", "", Regex, "^/[0-9]+$"),
    ("PATH", "", Regex, "^//"),
    ("FILE_TYPE", "", EqualTo, "jpg"),
    ("FILE_TYPE", "", EqualTo, ".jpg"),
    ("FILE_TYPE", "", EqualTo, "tar.gz"),
    ("FILE_TYPE", "", Regex, "jpg"),
    ("FILE_TYPE", "", Regex, "\\.jpe?g$"),
    ("FILE_TYPE", "", Regex, "^jpe?g$"),
    ("HEADER", "X-Kind", EqualTo, "beta"),
    ("HEADER", "X-Kind", EqualTo, "a b"),
    ("HEADER", "X-Kind", StartsWith, "b"),
    ("HEADER", "X-Kind", EndsWith, "a"),
    ("HEADER", "X-Kind", Contains, ", b"),
    ("HEADER", "X-Kind", Regex, "^[a-z]+$"),
    ("COOKIE", "sid", EqualTo, "42"),
    ("COOKIE", "sid", StartsWith, "4"),
    ("COOKIE", "sid", EndsWith, "2"),
    ("COOKIE", "sid", Contains, "4"),
    ("COOKIE", "sid", Regex, "^[0-9]+$"),
    ("COOKIE", "SID", EqualTo, "42"),
];

/// Requests: target, and fields besides Host; the host if it is another one.
const REQUESTS: [(&str, &str, &str); 46] = [
    ("/", "", "www.example.com"),
    ("/", "", "WWW.EXAMPLE.COM"),
    ("/", "", "www.example.com:8080"),
    ("/", "", "www.example.com:80"),
    ("/", "", "www.example.com."),
    ("/", "", "ftp.example.com:8080"),
    ("/", "", "www.example.org"),
    ("/", "", "[2001:DB8::1]:8080"),
    ("/", "", ""),
    ("/a", "", "a"),
    ("/A", "", "a"),
    ("/a?b", "", "a"),
    ("/a/", "", "a"),
    ("/a/b.jpg", "", "a"),
    ("/a/b.jpg?x=.png", "", "a"),
    ("/a?x=.jpg", "", "a"),
    ("/jpg", "", "a"),
    ("/a.JPG", "", "a"),
    ("/a.jpg/b", "", "a"),
    ("/a.jpeg", "", "a"),
    ("/a.tar.gz", "", "a"),
    ("/%61", "", "a"),
    ("/42", "", "a"),
    ("//a", "", "a"),
    ("http://www.example.com/a", "", "www.example.com"),
    ("http://www.example.com", "", "www.example.com"),
    ("/", "X-Kind: beta\r\n", "a"),
    ("/", "x-kind: Beta\r\n", "a"),
    ("/", "X-Kind: alpha, beta\r\n", "a"),
    ("/", "X-Kind: alpha,beta\r\n", "a"),
    ("/", "X-Kind: alpha\r\nX-KIND: beta\r\n", "a"),
    ("/", "X-Kind: \"a, b\"\r\n", "a"),
    ("/", "X-Kind: a b\r\n", "a"),
    ("/", "X-Kind:\r\n", "a"),
    ("/", "X_Kind: beta\r\n", "a"),
    ("/", "Cookie: sid=42\r\n", "a"),
    ("/", "Cookie: a=b; sid=42; c=d\r\n", "a"),
    ("/", "Cookie: SID=42\r\n", "a"),
    ("/", "Cookie: sid = 42\r\n", "a"),
    ("/", "Cookie: sid=1; sid=42\r\n", "a"),
    ("/", "Cookie: a=b\r\nCookie: sid=42\r\n", "a"),
    ("/", "Cookie: sid=\r\n", "a"),
    ("/", "Cookie: sid\r\n", "a"),
    ("/", "Cookie: xsid=42; a=sid=42\r\n", "a"),
    ("/", "Cookie: sid=42,x\r\n", "a"),
    ("/", "Cookie: sid=\"4;2\"\r\n", "a"),
];

/// Where one alone takes a request, and why that is right.
const PORT: &str =
    "a rule that names no port holds whatever the port in Host, and whether a dot ends the name";
const EXTENSION: &str = "an expression for the extension alone holds, as Octavia describes it";
const WHOLE_FIELD: &str = "a value with a comma in it can be named as a whole";
const COMMA: &str = "only a semicolon ends a value, no comma (RFC 6265 section 4.2.1)";
const NO_PATH: &str = "a target without a path has the path /";

/// Why a difference is right, if it is: subject, comparison and value, the request, and whether we take it.
fn reason(kind: &str, value: &str, request: &str, taken: bool) -> Option<&'static str> {
    let host = request.split(' ').nth(1).unwrap_or_default();
    match (kind, taken) {
        ("HOST_NAME", true) if host.ends_with('.') || host.contains(":80") => Some(PORT),
        ("FILE_TYPE", true) if value == "^jpe?g$" => Some(EXTENSION),
        ("HEADER", true) if value == ", b" && request.contains(", b") => Some(WHOLE_FIELD),
        ("COOKIE", false) if request.contains("sid=42,x") => Some(COMMA),
        ("PATH", true) if value == "/" && request.starts_with("http://www.example.com ") => {
            Some(NO_PATH)
        }
        _ => None,
    }
}

fn subject(kind: &str, key: &str) -> L7Subject {
    let key = key.to_owned();
    match kind {
        "HOST_NAME" => L7Subject::HostName,
        "PATH" => L7Subject::Path,
        "FILE_TYPE" => L7Subject::FileType,
        "HEADER" => L7Subject::Header { key },
        _ => L7Subject::Cookie { key },
    }
}

/// As `macros.j2` writes it.
fn acl(kind: &str, key: &str, compare: L7Compare, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
    let how = match compare {
        Regex => "reg",
        StartsWith => "beg",
        EndsWith => "end",
        Contains => "sub",
        EqualTo => "str",
    };
    match kind {
        "HOST_NAME" => format!("req.hdr(host) -i -m {how} {value}"),
        "PATH" => format!("path -m {how} {value}"),
        "FILE_TYPE" if compare == EqualTo => format!("path_end {value}"),
        "FILE_TYPE" => format!("path_end -m {how} {value}"),
        "HEADER" => format!("req.hdr({key}) -m {how} {value}"),
        _ => format!("req.cook({key}) -m {how} {value}"),
    }
}

fn policy(action: L7Action, kind: &str, key: &str, compare: L7Compare, value: &str) -> L7Policy {
    L7Policy {
        id: L7PolicyId::random(),
        enabled: true,
        position: 1,
        action,
        rules: vec![L7Rule {
            id: L7RuleId::random(),
            enabled: true,
            subject: subject(kind, key),
            compare,
            value: value.into(),
            invert: false,
        }],
    }
}

#[test]
fn rules_take_the_same_requests() {
    let (dataplane, folder) = (Dataplane::start(2), tempfile::tempdir().unwrap());
    let member = mirror();
    let (mut lbs, mut sections, mut places) = (Vec::new(), String::new(), Vec::new());
    for (n, (kind, key, compare, value)) in RULES.into_iter().enumerate() {
        let mut setup = Setup::new(ListenerProtocol::Http, &[member]);
        setup.listener().l7_policies = vec![policy(L7Action::Reject, kind, key, compare, value)];
        let theirs = free();
        places.push((setup.address(), theirs));
        lbs.push(setup.lb);
        let acl = acl(kind, key, compare, value);
        writeln!(
            sections,
            "frontend f{n}\n bind {theirs}\n acl r {acl}\n http-request deny if r\n default_backend b"
        )
        .unwrap();
    }
    writeln!(sections, "backend b\n server s {member}").unwrap();
    dataplane.apply(lbs);
    let theirs: Vec<_> = places.iter().map(|(_, theirs)| *theirs).collect();
    let _haproxy = haproxy(folder.path(), &sections, &theirs);
    let (mut questions, mut names) = (Vec::new(), Vec::new());
    for ((kind, key, compare, value), (ours, theirs)) in RULES.iter().zip(&places) {
        for (target, fields, host) in REQUESTS {
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n"
            );
            questions.push((*ours, *theirs, request));
            names.push((
                (*kind, *key, *compare, *value),
                format!("{target} {host} {fields}"),
            ));
        }
    }
    let mut reasons = std::collections::BTreeMap::<_, u32>::new();
    let (mut taken, mut wrong) = (0, String::new());
    for ((rule, request), [ours, theirs]) in names.iter().zip(both(&questions)) {
        let got = [status(&ours), status(&theirs)];
        assert!(
            got.iter().all(|status| ["200", "403"].contains(status)),
            "{rule:?} on {request}: {got:?}"
        );
        taken += u32::from(got[0] == "403");
        if got[0] != got[1] {
            match reason(rule.0, rule.3, request, got[0] == "403") {
                Some(reason) => *reasons.entry(reason).or_default() += 1,
                None => writeln!(wrong, "{rule:?} on {request}: {got:?}").unwrap(),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // Each reason is one, and no more than it was; the document has it.
    let counts: Vec<u32> = [PORT, EXTENSION, WHOLE_FIELD, COMMA, NO_PATH]
        .iter()
        .map(|why| reasons.get(why).copied().unwrap_or_default())
        .collect();
    assert_eq!(counts, [14, 3, 1, 3, 1]);
    assert!(taken > 100, "{taken}");
    let document = include_str!("../../../docs/haproxy-differences.md");
    for why in reasons.keys() {
        assert!(document.contains(why), "not in the document: {why}");
    }
}

#[test]
fn redirects_lead_to_the_same_place() {
    let (dataplane, folder) = (Dataplane::start(2), tempfile::tempdir().unwrap());
    let code = |code| StatusCode::new(code).unwrap();
    let (mut lbs, mut sections, mut places) = (Vec::new(), String::new(), Vec::new());
    let redirects = [
        ("prefix", "https://b.example", 302),
        ("prefix", "https://b.example/p", 301),
        ("prefix", "/", 303),
        ("prefix", "/new", 307),
        ("location", "https://b.example/x?y=z", 308),
        ("location", "/elsewhere", 302),
    ];
    for (n, (kind, to, status)) in redirects.into_iter().enumerate() {
        let action = match kind {
            "prefix" => L7Action::RedirectPrefix {
                prefix: to.into(),
                code: code(status),
            },
            _ => L7Action::RedirectToUrl {
                url: to.into(),
                code: code(status),
            },
        };
        let mut setup = Setup::new(ListenerProtocol::Http, &[mirror()]);
        setup.listener().l7_policies = vec![policy(action, "PATH", "", StartsWith, "/")];
        let theirs = free();
        places.push((setup.address(), theirs));
        lbs.push(setup.lb);
        writeln!(
            sections,
            "frontend f{n}\n bind {theirs}\n acl r path -m beg /\n redirect code {status} {kind} {to} if r"
        )
        .unwrap();
    }
    dataplane.apply(lbs);
    let theirs: Vec<_> = places.iter().map(|(_, theirs)| *theirs).collect();
    let _haproxy = haproxy(folder.path(), &sections, &theirs);
    let mut questions = Vec::new();
    for (ours, theirs) in &places {
        for request in [
            "GET /a/b?c=d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET http://a/b?c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET /%0d%0aX:%20y?%20 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
            "GET /a HTTP/1.0\r\n\r\n",
        ] {
            questions.push((*ours, *theirs, request.to_owned()));
        }
    }
    let place = |answer: &str| {
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location")
                .then(|| value.trim().to_owned())
        };
        (status(answer).to_owned(), answer.lines().find_map(field))
    };
    for ((.., request), [ours, theirs]) in questions.iter().zip(both(&questions)) {
        let (ours, theirs) = (place(&ours), place(&theirs));
        assert_eq!(ours, theirs, "{request}");
        assert!(ours.1.is_some(), "{request}: {ours:?}");
    }
    // A path that looks like a host is none, which HAProxy does not care for.
    let ours = ask(
        places[2].0,
        "GET //evil.example/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(place(&ours).1.as_deref(), Some("/evil.example/"));
}

/// Writes `text` to a file of the folder.
fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A listener with client certificates, in both: ours, theirs.
struct Terminated {
    setup: Setup,
    theirs: SocketAddr,
    sections: String,
    certificates: Vec<Certificate>,
}

/// The headers that Octavia's listeners add for client certificates, and what its templates make of them.
const HEADERS: [(InsertHeader, &str, &str); 8] = [
    (
        InsertHeader::XSslClientVerify,
        "X-SSL-Client-Verify",
        "%[ssl_c_verify]",
    ),
    (
        InsertHeader::XSslClientHasCert,
        "X-SSL-Client-Has-Cert",
        "%[ssl_c_used]",
    ),
    (
        InsertHeader::XSslClientDn,
        "X-SSL-Client-DN",
        "%{+Q}[ssl_c_s_dn]",
    ),
    (
        InsertHeader::XSslClientCn,
        "X-SSL-Client-CN",
        "%{+Q}[ssl_c_s_dn(cn)]",
    ),
    (
        InsertHeader::XSslIssuer,
        "X-SSL-Issuer",
        "%{+Q}[ssl_c_i_dn]",
    ),
    (
        InsertHeader::XSslClientSha1,
        "X-SSL-Client-SHA1",
        "%{+Q}[ssl_c_sha1,hex]",
    ),
    (
        InsertHeader::XSslClientNotBefore,
        "X-SSL-Client-Not-Before",
        "%{+Q}[ssl_c_notbefore]",
    ),
    (
        InsertHeader::XSslClientNotAfter,
        "X-SSL-Client-Not-After",
        "%{+Q}[ssl_c_notafter]",
    ),
];

fn terminated(
    folder: &Path,
    server: &str,
    clients: &Ca,
    crl: Option<&str>,
    verify: ClientAuthentication,
) -> Terminated {
    let member = mirror();
    let (certificate, client_ca) = (bundle(server), bundle(&clients.0.pem()));
    let mut setup = Setup::new(ListenerProtocol::TerminatedHttps, &[member]);
    setup.listener().insert_headers = HEADERS.iter().map(|(header, ..)| *header).collect();
    let mut listener = tls(&certificate);
    listener.client_authentication = verify;
    listener.client_ca = Some(client_ca.id.clone());
    let crl_bundle = crl.map(bundle);
    listener.client_crl = crl_bundle.as_ref().map(|crl| crl.id.clone());
    setup.listener().tls = Some(listener);
    let theirs = free();
    let n = theirs.port();
    let (pem, ca) = (
        file(folder, &format!("{n}.pem"), server),
        file(folder, &format!("{n}.ca"), &clients.0.pem()),
    );
    let crl = crl.map_or_else(String::new, |crl| {
        format!(" crl-file {}", file(folder, &format!("{n}.crl"), crl))
    });
    let verify = match verify {
        ClientAuthentication::Mandatory => "required",
        _ => "optional",
    };
    let mut sections = format!(
        "frontend f{n}\n bind {theirs} ssl crt {pem} ca-file {ca} verify {verify}{crl}\n default_backend b{n}\n\
         backend b{n}\n server s {member}\n"
    );
    for (_, name, value) in HEADERS {
        writeln!(sections, " http-request set-header {name} {value}").unwrap();
    }
    let certificates = [certificate, client_ca].into_iter().chain(crl_bundle);
    Terminated {
        setup,
        theirs,
        sections,
        certificates: certificates.collect(),
    }
}

/// Puts all of them into Krater and HAProxy.
fn serve(dataplane: &Dataplane, folder: &Path, all: &[Terminated]) -> Peer {
    let mut snapshot = dataplane.snapshot(all.iter().map(|one| one.setup.lb.clone()).collect());
    let certificates = all.iter().flat_map(|one| one.certificates.clone());
    let mut seen = BTreeSet::new();
    snapshot.certificates = certificates
        .filter(|certificate| seen.insert(certificate.id.as_str().to_owned()))
        .collect();
    let (status, body) = dataplane.put(&snapshot);
    assert_eq!(status, 200, "{body}");
    let sections: String = all.iter().map(|one| one.sections.as_str()).collect();
    let theirs: Vec<_> = all.iter().map(|one| one.theirs).collect();
    haproxy(folder, &sections, &theirs)
}

/// One request over TLS, or why there is no answer.
fn over_tls(
    at: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    request: &str,
) -> Result<String, String> {
    let name = rustls::pki_types::ServerName::try_from("d.example").unwrap();
    let session = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, client(at));
    let sent = stream.write_all(request.as_bytes());
    sent.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error.to_string()),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

type Shown = Option<(rustls::pki_types::CertificateDer<'static>, KeyPair)>;

fn issued(clients: &Ca, with: impl FnOnce(&mut CertificateParams)) -> Shown {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date_time_ymd(2025, 1, 2);
    params.not_after = date_time_ymd(2049, 3, 4);
    with(&mut params);
    let certificate = params.signed_by(&key, &clients.0).unwrap();
    Some((certificate.der().clone(), key))
}

#[test]
fn members_learn_the_same_of_client_certificates() {
    let (dataplane, folder) = (Dataplane::start(1), tempfile::tempdir().unwrap());
    let (ca, clients) = (Ca::new(), Ca::new());
    let server = ca.issue("d.example").2;
    let both = [terminated(
        folder.path(),
        &server,
        &clients,
        None,
        ClientAuthentication::Optional,
    )];
    let _haproxy = serve(&dataplane, folder.path(), &both);
    let custom = |oid: &[u64]| DnType::CustomDnType(oid.to_vec());
    let shown: Vec<(&str, Shown)> = vec![
        ("none", None),
        (
            "usual names",
            issued(&clients, |params| {
                let name = &mut params.distinguished_name;
                name.push(DnType::CountryName, "DE");
                name.push(DnType::StateOrProvinceName, "Bayern");
                name.push(DnType::LocalityName, "Würzburg");
                name.push(DnType::OrganizationName, "Org, Inc. / \"Sub\"");
                name.push(DnType::OrganizationalUnitName, "One");
                name.push(DnType::CommonName, "c.example");
            }),
        ),
        (
            "less usual names",
            issued(&clients, |params| {
                let name = &mut params.distinguished_name;
                name.push(custom(&[1, 2, 840, 113_549, 1, 9, 1]), "me@example.com");
                name.push(custom(&[2, 5, 4, 5]), "4711");
                name.push(custom(&[2, 5, 4, 4]), "Sur");
                name.push(custom(&[2, 5, 4, 42]), "Given");
                name.push(custom(&[2, 5, 4, 12]), "Dr");
                name.push(custom(&[0, 9, 2342, 19_200_300, 100, 1, 1]), "uid");
                name.push(custom(&[0, 9, 2342, 19_200_300, 100, 1, 25]), "dc");
                name.push(custom(&[1, 3, 6, 1, 4, 1, 55_555, 1]), "own");
            }),
        ),
        ("no name at all", issued(&clients, |_| {})),
        (
            "late",
            issued(&clients, |params| {
                params.not_after = date_time_ymd(2099, 12, 31);
                params.distinguished_name.push(DnType::CommonName, "late");
            }),
        ),
    ];
    let forged: String = HEADERS
        .iter()
        .map(|(_, name, _)| format!("{name}: forged\r\n"))
        .collect();
    let request = format!("GET / HTTP/1.1\r\nHost: d.example\r\n{forged}Connection: close\r\n\r\n");
    for (what, identity) in shown {
        let identity = identity.map(|(certificate, key)| (certificate, key_der(&key)));
        let config = Arc::new(client_config(ca.roots(), identity));
        let lines = |at| {
            let answer = over_tls(at, &config, &request).unwrap();
            let of_ours = |line: &&str| line.to_ascii_lowercase().starts_with("x-ssl-");
            let lines: BTreeSet<String> = answer
                .lines()
                .filter(of_ours)
                .map(|line| {
                    let (name, value) = line.split_once(": ").unwrap_or((line, ""));
                    format!("{}: {value}", name.to_ascii_lowercase())
                })
                .collect();
            assert_eq!(lines.len(), HEADERS.len(), "{what}: {answer}");
            lines
        };
        let (ours, theirs) = (lines(both[0].setup.address()), lines(both[0].theirs));
        assert_eq!(ours, theirs, "{what}");
    }
}

#[test]
fn revocation_lists_keep_the_same_clients_out() {
    let (dataplane, folder) = (Dataplane::start(1), tempfile::tempdir().unwrap());
    let (ca, clients) = (Ca::new(), Ca::new());
    let server = ca.issue("d.example").2;
    let lists = [
        ("good", clients.revoking(7, 2020, 2049)),
        ("out of date", clients.revoking(7, 2020, 2021)),
    ];
    let all: Vec<Terminated> = lists
        .iter()
        .flat_map(|(_, list)| {
            [
                ClientAuthentication::Optional,
                ClientAuthentication::Mandatory,
            ]
            .map(|verify| terminated(folder.path(), &server, &clients, Some(list), verify))
        })
        .collect();
    let _haproxy = serve(&dataplane, folder.path(), &all);
    let serial = |n: u64| {
        issued(&clients, |params| {
            params.serial_number = Some(SerialNumber::from(n));
        })
    };
    let stranger = issued(&Ca::new(), |_| {});
    let expired = issued(&clients, |params| {
        params.not_after = date_time_ymd(2025, 1, 3);
    });
    let mut seen = Vec::new();
    for (who, identity) in [
        ("nobody", None),
        ("a client", serial(8)),
        ("a revoked one", serial(7)),
        ("a stranger", stranger),
        ("an expired one", expired),
    ] {
        let identity = identity.map(|(certificate, key)| (certificate, key_der(&key)));
        let mut config = client_config(ca.roots(), identity);
        // Another server's ticket means nothing here, and rustls wants none of it after a HelloRetryRequest.
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        let request = "GET / HTTP/1.1\r\nHost: d.example\r\nConnection: close\r\n\r\n";
        for (n, one) in all.iter().enumerate() {
            let answers =
                [one.setup.address(), one.theirs].map(|at| over_tls(at, &config, request));
            let enters = |answer: &Result<String, String>| {
                answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 200"))
            };
            let enters = [enters(&answers[0]), enters(&answers[1])];
            assert_eq!(enters[0], enters[1], "{who}, listener {n}: {answers:?}");
            seen.push(enters[0]);
        }
    }
    let (yes, no) = (true, false);
    assert_eq!(
        seen,
        [
            [yes, no, yes, no],
            [yes, yes, no, no],
            [no, no, no, no],
            [no, no, no, no],
            [no, no, no, no]
        ]
        .concat(),
        "list good and optional, good and mandatory, out of date and optional, …"
    );
}
