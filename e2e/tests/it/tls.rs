//! TLS from the stored secret to the client and to the member, through the API, with real clients and members:
//! `openstack`, curl, `openssl pkcs12`, `openssl s_server`.

use crate::faults::roles;
use crate::openstack::{environment, shell};
use crate::story::{MEMBERS, Story};
use krater_e2e::api::text;
use krater_e2e::backend::Backend;
use krater_e2e::client;
use krater_e2e::place::Place;
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

pub(crate) const NAME: &str = "www.example.test";

pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub(crate) struct Cert {
    pub(crate) pem: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Cert {
    pub(crate) fn bundle(&self) -> String {
        format!("{}{}", self.pem, self.key)
    }
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// For a server or a client of this name, with this serial number.
    pub(crate) fn issue(&self, name: &str, serial: u64) -> Cert {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        Cert {
            pem: made.pem(),
            der: made.der().to_vec(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn crl(&self, revoked: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(revoked),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params
            .signed_by(&self.issuer)
            .expect("a list")
            .pem()
            .expect("PEM")
    }

    /// A client that believes this authority, and shows a certificate.
    pub(crate) fn client(
        &self,
        shows: Option<&Cert>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.pem.as_bytes()) {
            roots.add(root.expect("PEM")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        Arc::new(match shows {
            None => builder.with_no_client_auth(),
            Some(cert) => {
                let key = PrivateKeyDer::from_pem_slice(cert.key.as_bytes()).expect("a key");
                let chain = vec![CertificateDer::from(cert.der.clone())];
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        })
    }
}

/// A TLS connection that is used again.
pub(crate) struct Session(pub(crate) StreamOwned<ClientConnection, TcpStream>);

impl Session {
    pub(crate) fn open(
        place: &Place,
        to: SocketAddr,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let tcp = place.connect(to)?;
        tcp.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Self(StreamOwned::new(session, tcp)))
    }

    /// Status, head and body of one request.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        let head = client::head("GET", path, NAME, "");
        self.0.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4_096];
        loop {
            match self.0.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => answer.extend(&piece[..n]),
            }
            let text = String::from_utf8_lossy(&answer).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let lower = head.to_ascii_lowercase();
            let length = lower
                .lines()
                .find_map(|l| l.strip_prefix("content-length:"));
            let length = length
                .and_then(|l| l.trim().parse().ok())
                .unwrap_or(0_usize);
            if body.len() >= length {
                let status = head[9..12].parse().map_err(io::Error::other)?;
                return Ok((status, text));
            }
        }
    }

    pub(crate) fn certificate(&self) -> Vec<u8> {
        let chain = self
            .0
            .conn
            .peer_certificates()
            .expect("the handshake is done");
        chain[0].to_vec()
    }
}

/// A request on a connection of its own.
pub(crate) fn get(
    story: &Story,
    config: &Arc<ClientConfig>,
    path: &str,
) -> io::Result<(u16, String)> {
    Session::open(&story.client, story.at(443), NAME, config)?.get(path)
}

pub(crate) fn store(story: &Story, payload: &str) -> String {
    let body = json!({"payload": payload, "payload_content_type": "text/plain"});
    let made = story.system.api.must("POST", "/v1/secrets", Some(&body));
    text(&made["secret_ref"])
}

/// Runs the real client's commands; what they printed.
fn openstack(system: &System, script: &str) -> String {
    let done = shell(system, script);
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout).into_owned(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    );
    assert!(
        done.status.success(),
        "{script}\n-- output:\n{out}\n-- errors:\n{err}"
    );
    out
}

/// curl at an address of the public network, believing only `ca`.
fn curl(system: &System, ca: &Path, vip: &str) -> Output {
    curl_at(system, ca, vip, 443)
}

fn curl_at(system: &System, ca: &Path, vip: &str, port: u16) -> Output {
    let resolve = format!("{NAME}:{port}:{vip}");
    let url = format!("https://{NAME}:{port}/");
    system
        .krater(&["net", "exec", "public", "--ip", "203.0.113.220", "--"])
        .envs(environment())
        .args([
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--cacert",
        ])
        .arg(ca)
        .args(["--resolve", &resolve, &url])
        .stdin(Stdio::null())
        .output()
        .expect("krater net exec")
}

/// A program with the fetched peers in its path.
fn peer(program: &str) -> Command {
    // Its own path is searched for the program too.
    let mut command = Command::new("/usr/bin/env");
    command.arg(program).envs(environment());
    command
}

/// Files below `folder` that hold one of `needles`.
fn holding(folder: &Path, needles: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                let has = |needle: &Vec<u8>| bytes.windows(needle.len()).any(|w| w == needle);
                if needles.iter().any(has) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

/// The private key as it could be found: raw, as hex, and its lines of base64.
fn needles(key: &str) -> Vec<Vec<u8>> {
    let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    // PKCS#8 of P-256 holds the secret number at this place.
    let secret = &der.secret_der()[36..68];
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = key.lines().filter(|line| !line.contains("--"));
    let mut all: Vec<Vec<u8>> = lines.map(|line| line.as_bytes().to_vec()).collect();
    all.extend([secret.to_vec(), hex.into_bytes()]);
    all
}

#[test]
fn a_pkcs12_secret_of_the_openstack_client_serves_https_through_failover_and_rotation() {
    let _alone = alone();
    let system = System::start();
    let files = tempfile::tempdir().expect("a folder");
    let at = |name: &str| files.path().join(name);
    let (ca, stranger) = (Ca::new("ours"), Ca::new("theirs"));
    let cert = ca.issue(NAME, 10);
    let other = stranger.issue(NAME, 11);
    for (name, text) in [
        ("ca.pem", &ca.pem),
        ("cert.pem", &cert.pem),
        ("key.pem", &cert.key),
    ] {
        std::fs::write(at(name), text).expect(name);
    }
    let made = peer("openssl")
        .args(["pkcs12", "-export", "-passout", "pass:", "-inkey"])
        .arg(at("key.pem"))
        .arg("-in")
        .arg(at("cert.pem"))
        .arg("-certfile")
        .arg(at("ca.pem"))
        .arg("-out")
        .arg(at("server.p12"))
        .output()
        .expect("openssl");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let backend = Backend::start(&system, MEMBERS[0].1, MEMBERS[0].0);
    let folder = files.path().display();
    // As upstream's cookbook has it.
    let out = openstack(
        &system,
        &format!(
            r#"ref=$(openstack secret store --name tls1 -t application/octet-stream -e base64 --payload "$(base64 < {folder}/server.p12)" -f value -c 'Secret href')
        openstack loadbalancer create --name lb1 --vip-subnet-id public-subnet --wait -f value -c vip_address
        openstack loadbalancer listener create --name l1 --protocol TERMINATED_HTTPS --protocol-port 443 --default-tls-container-ref "$ref" --wait lb1
        openstack loadbalancer pool create --name p1 --protocol HTTP --lb-algorithm ROUND_ROBIN --listener l1 --wait
        openstack loadbalancer member create --name m1 --address {} --protocol-port 80 --subnet-id tenant-subnet --wait p1
        openstack secret get "$ref" -f value -c Name
        openstack secret get "$ref" --payload_content_type application/octet-stream --file {folder}/back.p12
        openstack secret list -f value -c 'Content types'
        openstack loadbalancer listener show l1"#,
            MEMBERS[0].1,
        ),
    );
    assert!(out.contains("tls1") && out.contains("TLSv1.3"), "{out}");
    let same = std::fs::read(at("back.p12")).expect("what came back");
    assert_eq!(
        same,
        std::fs::read(at("server.p12")).expect("what was stored")
    );

    let found = system.api.get("/v2/lbaas/loadbalancers?name=lb1");
    let balancer = found["loadbalancers"][0].clone();
    let vip = text(&balancer["vip_address"]);
    let verified = |said: &str| {
        let done = curl(&system, &at("ca.pem"), &vip);
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
            said.to_owned(),
        )
    };
    let good = |what: &str| {
        wait::for_condition(what, || {
            let (good, body, _) = verified(what);
            good && body == MEMBERS[0].0
        });
    };
    good("curl verifies the certificate");

    // Where the private key is not: in no file of the controller and its amphorae, in no answer.
    let needles = needles(&cert.key);
    assert_eq!(holding(&system.state_dir(), &needles), Vec::<String>::new());
    let log = system.log();
    assert!(log.contains("api request"), "the log is read");
    let found = |text: &str, n: &Vec<u8>| text.as_bytes().windows(n.len()).any(|w| w == n);
    assert!(!needles.iter().any(|n| found(&log, n)), "the log");
    for path in ["/v2/lbaas/listeners", "/v1/secrets", "/v2/octavia/amphorae"] {
        let said = system.api.get(path).to_string();
        assert!(!said.contains("PRIVATE"), "{path}: {said}");
    }
    // Control: the search finds it where it is.
    assert!(!holding(files.path(), &needles).is_empty());

    // A failover makes both amphorae anew; the secret is gone by then.
    let before: Vec<String> = system
        .api
        .amphorae(&text(&balancer["id"]))
        .iter()
        .map(|a| text(&a["id"]))
        .collect();
    openstack(
        &system,
        "openstack secret delete $(openstack secret list -f value -c 'Secret href')
        openstack loadbalancer failover --wait lb1",
    );
    let after = system.api.amphorae(&text(&balancer["id"]));
    assert!(
        after.iter().all(|a| !before.contains(&text(&a["id"]))),
        "{before:?} {after:?}"
    );
    good("curl verifies the certificate after a failover");

    // Negative control: with a certificate of somebody else, the same curl refuses.
    std::fs::write(at("other.pem"), other.bundle()).expect("other.pem");
    openstack(
        &system,
        &format!(
            r#"ref=$(openstack secret store --name tls2 --file {folder}/other.pem -f value -c 'Secret href')
        openstack loadbalancer listener set --default-tls-container-ref "$ref" --wait l1"#
        ),
    );
    wait::for_condition("curl refuses the other certificate", || {
        let done = curl(&system, &at("ca.pem"), &vip);
        String::from_utf8_lossy(&done.stderr).contains("certificate")
    });
    assert!(!verified("").0);

    // Rotation closes no connection.
    let list = system.api.get("/v2/lbaas/listeners?name=l1");
    let listener = text(&list["listeners"][0]["id"]);
    let place = Place::new(&system, "public", "203.0.113.221");
    let to = SocketAddr::new(vip.parse().expect("vip"), 443);
    let theirs = stranger.client(None, rustls::ALL_VERSIONS);
    let mut open = Session::open(&place, to, NAME, &theirs).expect("a connection");
    assert_eq!(open.get("/").expect("an answer").0, 200);
    assert_eq!(open.certificate(), other.der);
    // As a container of PEM secrets.
    std::fs::write(at("cert.pem"), &cert.pem).expect("cert.pem");
    openstack(
        &system,
        &format!(
            r#"cert=$(openstack secret store --name c -t text/plain --payload "$(cat {folder}/cert.pem)" -f value -c 'Secret href')
        key=$(openstack secret store --name k -t text/plain --payload "$(cat {folder}/key.pem)" -f value -c 'Secret href')
        ref=$(openstack secret container create --name both --type certificate --secret "certificate=$cert" --secret "private_key=$key" -f value -c 'Container href')
        openstack secret container get "$ref"
        openstack secret container list
        openstack loadbalancer listener set --default-tls-container-ref "$ref" --wait l1"#
        ),
    );
    good("curl verifies the certificate of the container");
    assert_eq!(open.get("/").expect("the old connection lives").0, 200);
    let mut new = Session::open(&place, to, NAME, &ca.client(None, rustls::ALL_VERSIONS))
        .expect("a connection");
    assert_eq!(new.get("/").expect("an answer").0, 200);
    assert_eq!(new.certificate(), cert.der);
    assert_eq!(holding(&system.state_dir(), &needles), Vec::<String>::new());
    let shown = system
        .api
        .show(&format!("listeners/{listener}"))
        .expect("the listener");
    assert!(text(&shown["default_tls_container_ref"]).contains("/v1/containers/"));
    drop(backend);
}

/// Files of real programs: what is read, and what is refused with what to do.
#[test]
fn what_openssl_writes_is_read_or_refused_by_name() {
    let system = System::start();
    let files = tempfile::tempdir().expect("a folder");
    let balancer = system.api.create_load_balancer("lb1");
    let balancer = text(&balancer["id"]);
    system.api.active(&balancer);
    let folder = files.path();
    let run = |script: &str| {
        let done = peer("sh")
            .args(["-e", "-c", script])
            .current_dir(folder)
            .output()
            .expect("sh");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{script}: {errors}");
    };
    // A root, an intermediate, and a leaf with an RSA key.
    run("root='-subj /CN=root -addext basicConstraints=critical,CA:true'
        openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -days 30 $root
        printf 'basicConstraints=critical,CA:true' > ca.ext
        printf 'subjectAltName=DNS:www.example.test' > leaf.ext
        openssl req -newkey rsa:2048 -nodes -keyout mid.key -out mid.csr -subj /CN=mid
        openssl x509 -req -in mid.csr -CA root.pem -CAkey root.key -CAcreateserial -days 30 -extfile ca.ext -out mid.pem
        openssl req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=www.example.test
        openssl x509 -req -in leaf.csr -CA mid.pem -CAkey mid.key -CAcreateserial -days 30 -extfile leaf.ext -out leaf.pem
        openssl ecparam -name secp384r1 -genkey -noout -out other.key
        cat root.pem mid.pem > chain.pem");
    let export =
        "openssl pkcs12 -export -inkey leaf.key -in leaf.pem -certfile chain.pem -out file.p12";
    let mut port = 4_430;
    let mut listen = |how: &str| {
        run(how);
        let bytes = std::fs::read(folder.join("file.p12")).expect("file.p12");
        let stored = system
            .api
            .raw(
                "POST",
                "/v1/secrets",
                &[("content-type", "application/json")],
                b"{}",
            )
            .expect("an answer");
        let reference = text(&stored.body["secret_ref"]);
        let (_, id) = reference.rsplit_once('/').expect("a reference");
        let binary = [("content-type", "application/octet-stream")];
        let filled = system
            .api
            .raw("PUT", &format!("/v1/secrets/{id}"), &binary, &bytes);
        assert_eq!(filled.expect("an answer").status, 204);
        port += 1;
        let body = json!({"listener": {
            "loadbalancer_id": balancer, "protocol": "TERMINATED_HTTPS", "protocol_port": port,
            "default_tls_container_ref": reference,
        }});
        let answer = system
            .api
            .send("POST", "/v2/lbaas/listeners", Some(&body))
            .expect("an answer");
        if answer.status == 201 {
            system.api.active(&balancer);
        }
        (answer.status, text(&answer.body["faultstring"]))
    };
    for more in [
        "-passout pass:",
        "-passout pass: -macalg sha1",
        "-passout pass: -keypbe AES-128-CBC -certpbe AES-192-CBC -macalg sha512",
        "-passout pass: -keypbe NONE -certpbe NONE",
        "-passout pass: -keypbe NONE -certpbe NONE -nomac",
        "-passout pass: -iter 10000 -maciter",
    ] {
        assert_eq!(
            listen(&format!("{export} {more}")),
            (201, String::new()),
            "{more}"
        );
    }
    for (how, said) in [
        (format!("{export} -passout pass:secret"), "protected by a pass phrase"),
        (format!("{export} -passout pass: -iter 1100000"), "iterations is more than is read"),
        (format!("{export} -passout pass: -legacy"), "-keypbe AES-256-CBC"),
        ("openssl pkcs12 -export -nokeys -in leaf.pem -passout pass: -out file.p12".into(), "no private key"),
        ("printf 'not a file' > file.p12".into(), "The PKCS12 bundle is unreadable."),
        ("cat leaf.pem other.key > file.p12".into(), "Key and x509 certificate do not match"),
        ("openssl rsa -aes256 -passout pass:secret -in leaf.key -out sealed.key; cat leaf.pem sealed.key > file.p12".into(), "without"),
    ] {
        let (status, text) = listen(&how);
        assert!(status == 400 && text.contains(said), "{how}: {status} {text}");
    }
    // Control, and PEM in any order with a key of the older form.
    let pem = "openssl rsa -traditional -in leaf.key -out old.key; cat root.pem old.key mid.pem leaf.pem > file.p12";
    assert_eq!(listen(pem), (201, String::new()));
    let answers = || {
        let system = &system;
        let balancer = system
            .api
            .show(&format!("loadbalancers/{balancer}"))
            .expect("it");
        curl_at(
            system,
            &folder.join("root.pem"),
            &text(&balancer["vip_address"]),
            4_431,
        )
    };
    // The chain is sent: a client that knows the root alone is satisfied (and gets 503: there is no pool).
    let done = wait::until("curl verifies the chain", || {
        let done = answers();
        done.status.success().then_some(done)
    });
    assert!(String::from_utf8_lossy(&done.stdout).contains("503"));
}

/// A load balancer with a TERMINATED_HTTPS listener on 443 beside the usual one.
pub(crate) fn terminated(story: &Story, more: Value) -> String {
    let mut body = json!({
        "name": "tls", "loadbalancer_id": story.load_balancer, "protocol": "TERMINATED_HTTPS",
        "protocol_port": 443, "default_pool_id": story.pool,
    });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    story.create("listeners", json!({"listener": body}))
}

#[test]
fn client_certificates_headers_and_rules_act() {
    let story = Story::new();
    let (ca, clients) = (Ca::new("servers"), Ca::new("clients"));
    let cert = ca.issue(NAME, 1);
    let second = ca.issue("second.example.test", 2);
    let (alice, blocked, revoked) = (
        clients.issue("alice", 3),
        clients.issue("blocked", 4),
        clients.issue("mallory", 5),
    );
    let stranger = Ca::new("strangers").issue("alice", 6);
    let listener = terminated(
        &story,
        json!({
            "default_tls_container_ref": store(&story, &cert.bundle()),
            "sni_container_refs": [store(&story, &second.bundle())],
            "client_ca_tls_container_ref": store(&story, &clients.pem),
            "client_crl_container_ref": store(&story, &clients.crl(5)),
            "client_authentication": "MANDATORY",
            "hsts_max_age": 3_600, "hsts_include_subdomains": true,
            "tls_versions": ["TLSv1.2"], "tls_ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384",
            "insert_headers": {"X-SSL-Client-CN": "true", "X-SSL-Client-Verify": "true", "X-Forwarded-Proto": "true"},
        }),
    );
    let policy = story.create(
        "l7policies",
        json!({"l7policy": {
            "listener_id": listener, "action": "REJECT", "name": "reject",
        }}),
    );
    let rule = story.create(
        &format!("l7policies/{policy}/rules"),
        json!({"rule": {
            "type": "SSL_DN_FIELD", "key": "CN", "compare_type": "EQUAL_TO", "value": "blocked",
        }}),
    );
    let shows = |cert: &Cert| ca.client(Some(cert), rustls::ALL_VERSIONS);
    let answer = wait::until("alice gets an answer", || {
        let answer = get(&story, &shows(&alice), "/headers").ok();
        answer.filter(|(status, _)| *status == 200)
    });
    let lower = answer.1.to_ascii_lowercase();
    for line in [
        "x-ssl-client-cn: alice",
        "x-ssl-client-verify: 0",
        "x-forwarded-proto: https",
    ] {
        assert!(lower.contains(line), "{line} is not in {lower}");
    }
    assert!(
        lower.contains("strict-transport-security: max-age=3600; includesubdomains"),
        "{lower}"
    );
    // Who is nobody, revoked or a stranger gets nothing; who is blocked by name gets 403.
    assert!(get(&story, &ca.client(None, rustls::ALL_VERSIONS), "/").is_err());
    assert!(get(&story, &shows(&revoked), "/").is_err());
    assert!(get(&story, &shows(&stranger), "/").is_err());
    assert_eq!(
        get(&story, &shows(&blocked), "/").expect("an answer").0,
        403
    );
    // Only TLS 1.2 and one cipher are spoken.
    assert!(
        get(
            &story,
            &ca.client(Some(&alice), &[&rustls::version::TLS13]),
            "/"
        )
        .is_err()
    );
    let mut session = Session::open(
        &story.client,
        story.at(443),
        "second.example.test",
        &shows(&alice),
    )
    .expect("a connection");
    assert_eq!(session.get("/").expect("an answer").0, 200);
    assert_eq!(session.certificate(), second.der, "chosen by server name");
    let suite = session
        .0
        .conn
        .negotiated_cipher_suite()
        .expect("a suite")
        .suite();
    assert_eq!(
        suite,
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
    );
    assert_eq!(session.0.conn.alpn_protocol(), None);

    // An authority without a question waits.
    let listener = format!("listeners/{listener}");
    let none = json!({"listener": {"client_authentication": "NONE"}});
    story.change("PUT", &listener, Some(none));
    let shown = story.system.api.show(&listener).expect("the listener");
    assert!(text(&shown["client_ca_tls_container_ref"]).contains("/v1/secrets/"));
    let nobody = || get(&story, &ca.client(None, rustls::ALL_VERSIONS), "/").expect("an answer");
    assert_eq!(nobody().0, 200);

    // The other two rules, with certificates that may be left out.
    story.change("PUT", &listener, Some(json!({"listener": {
        "client_authentication": "OPTIONAL", "client_crl_container_ref": null, "tls_versions": null,
        "tls_ciphers": null, "hsts_max_age": null, "hsts_include_subdomains": false,
    }})));
    let rule = format!("l7policies/{policy}/rules/{rule}");
    assert_eq!(nobody().0, 200);
    assert!(!nobody().1.to_ascii_lowercase().contains("strict-transport"));
    assert_eq!(
        get(&story, &shows(&revoked), "/")
            .expect("the list is gone")
            .0,
        200
    );
    assert_eq!(
        get(
            &story,
            &ca.client(Some(&alice), &[&rustls::version::TLS13]),
            "/"
        )
        .expect("TLS 1.3")
        .0,
        200
    );
    for (kind, value) in [("SSL_CONN_HAS_CERT", "true"), ("SSL_VERIFY_RESULT", "0")] {
        let change = |invert: bool| json!({"rule": {"type": kind, "key": null, "compare_type": "EQUAL_TO", "value": value, "invert": invert}});
        story.change("PUT", &rule, Some(change(false)));
        assert_eq!(
            get(&story, &shows(&alice), "/").expect("an answer").0,
            403,
            "{kind}"
        );
        // Control: inverted it lets the same client pass.
        story.change("PUT", &rule, Some(change(true)));
        assert_eq!(
            get(&story, &shows(&alice), "/").expect("an answer").0,
            200,
            "{kind}"
        );
        if kind == "SSL_CONN_HAS_CERT" {
            assert_eq!(nobody().0, 403, "{kind} inverted takes who shows none");
        }
    }
}

/// `openssl s_server` at an address of the members' network.
struct Member {
    child: Child,
}

impl Member {
    fn start(system: &System, folder: &Path, address: &str, cert: &Cert, clients: &Ca) -> Self {
        let at = |name: &str| folder.join(name).display().to_string();
        for (name, text) in [
            ("m.pem", &cert.pem),
            ("m.key", &cert.key),
            ("m.ca", &clients.pem),
        ] {
            std::fs::write(folder.join(name), text).expect(name);
        }
        let child = system
            .krater(&[
                "net", "exec", "tenant", "--ip", address, "--", "openssl", "s_server",
            ])
            .envs(environment())
            .args([
                "-quiet",
                "-accept",
                "443",
                "-www",
                "-verify",
                "1",
                "-cert",
                &at("m.pem"),
            ])
            .args(["-key", &at("m.key"), "-CAfile", &at("m.ca")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl s_server");
        Self { child }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn a_pool_verifies_its_members_and_shows_its_certificate() {
    let story = Story::new();
    let files = tempfile::tempdir().expect("a folder");
    let (ours, theirs, clients) = (Ca::new("members"), Ca::new("others"), Ca::new("clients"));
    let address = "192.0.2.211";
    let _member = Member::start(
        &story.system,
        files.path(),
        address,
        &ours.issue("m.example.test", 21),
        &clients,
    );
    let pool = story.create(
        "pools",
        json!({"pool": {
            "name": "tls", "loadbalancer_id": story.load_balancer, "protocol": "HTTP",
            "lb_algorithm": "ROUND_ROBIN", "tls_enabled": true,
            "ca_tls_container_ref": store(&story, &ours.pem),
            "tls_container_ref": store(&story, &clients.issue("krater", 22).bundle()),
        }}),
    );
    let subnet = story.system.api.subnet("tenant-subnet");
    story.create(
        &format!("pools/{pool}/members"),
        json!({"member": {
            "name": "m", "address": address, "protocol_port": 443, "subnet_id": subnet,
        }}),
    );
    let listener = format!("listeners/{}", story.listener);
    story.change(
        "PUT",
        &listener,
        Some(json!({"listener": {"default_pool_id": pool}})),
    );
    // s_server's page has no length: read to the end.
    let ask = || -> io::Result<String> {
        let mut stream = story.client.connect(story.at(80))?;
        stream.write_all(client::head("GET", "/", NAME, "connection: close\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = wait::until("the member answers through TLS", || {
        ask().ok().filter(|answer| answer.contains(" 200 "))
    });
    assert!(
        answer.contains("Client certificate"),
        "s_server saw ours: {answer}"
    );
    assert!(answer.contains("TLSv1.3"), "{answer}");
    let path = format!("pools/{pool}");
    let change = |body: Value| story.change("PUT", &path, Some(json!({"pool": body})));
    change(json!({"tls_versions": ["TLSv1.2"], "tls_container_ref": null}));
    let answer = ask().expect("an answer");
    assert!(
        answer.contains("TLSv1.2") && answer.contains("no client certificate available"),
        "{answer}"
    );
    // Negative controls: another authority, a revoked member, TLS off.
    change(json!({"ca_tls_container_ref": store(&story, &theirs.pem)}));
    let answer = ask().expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    change(
        json!({"ca_tls_container_ref": store(&story, &ours.pem), "crl_container_ref": store(&story, &ours.crl(21))}),
    );
    let answer = ask().expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "revoked: {answer}");
    change(json!({"crl_container_ref": null}));
    let answer = ask().expect("an answer");
    assert!(answer.contains(" 200 "), "{answer}");
    change(json!({"tls_enabled": false}));
    let answer = ask().unwrap_or_default();
    assert!(
        !answer.contains(" 200 "),
        "a TLS server takes no plain request: {answer}"
    );
}

/// Both amphorae of a pair have the certificate: whoever holds the VIP serves it.
#[test]
fn the_standby_serves_the_same_certificate() {
    let _alone = alone();
    let story = Story::new();
    let ca = Ca::new("ours");
    let cert = ca.issue(NAME, 1);
    let certificate = store(&story, &cert.bundle());
    let listener = terminated(&story, json!({"default_tls_container_ref": certificate}));
    let config = ca.client(None, rustls::ALL_VERSIONS);
    let serves = || get(&story, &config, "/").is_ok_and(|(status, _)| status == 200);
    wait::for_condition("the VIP serves TLS", serves);
    let (active, standby) = roles(&story);
    active.signal("dataplane", nix::sys::signal::Signal::SIGKILL);
    wait::for_condition("the peer holds the VIP", || {
        standby.addresses().contains(&story.vip)
    });
    wait::for_condition("and serves TLS", serves);

    // Another controller on the same folder reads what the first one sealed; with another key it does not start.
    let mut story = story;
    story.system.stop(nix::sys::signal::Signal::SIGKILL);
    let key = story.system.state_dir().join("secrets.key");
    let good = std::fs::read_to_string(&key).expect("secrets.key");
    std::fs::write(&key, "0f".repeat(32)).expect("another key");
    story.system.spawn_up();
    wait::for_condition("it ends", || story.system.exited().is_some());
    assert!(
        story.system.log().contains("not the key under which"),
        "it says why"
    );
    std::fs::write(&key, good).expect("the right key");
    story.system.up();
    let path = format!("listeners/{listener}");
    story.change(
        "PUT",
        &path,
        Some(json!({"listener": {"name": "still there"}})),
    );
    let config = ca.client(None, rustls::ALL_VERSIONS);
    assert_eq!(get(&story, &config, "/").expect("an answer").0, 200);
}
