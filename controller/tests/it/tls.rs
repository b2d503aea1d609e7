//! TLS of listeners and pools through the API: what is taken, what is refused with which text, and what is kept.

use crate::common::Api;
use krater_controller::db::entity::{listener, tls_bundle};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use sea_orm::{EntityTrait, PaginatorTrait};
use serde_json::{Value, json};

const NOBODY: &str = "http://api:9876/v1/secrets/0f8fad5b-d9cb-469f-a165-70867728950e";

pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key.
    pub(crate) fn issue(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        (pem, key.serialize_pem())
    }

    fn crl(&self) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2036, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

struct Rig {
    api: Api,
    lb: String,
    ca: Ca,
}

impl Rig {
    async fn new() -> Self {
        let api = Api::new().await;
        let lb = api.lb("lb").await;
        Self {
            api,
            lb,
            ca: Ca::new("ca"),
        }
    }

    async fn store(&self, payload: &str) -> String {
        let body = json!({"payload": payload, "payload_content_type": "text/plain"});
        let made = self.api.post("/v1/secrets", body).await.ok(201);
        made["secret_ref"].as_str().unwrap().to_owned()
    }

    /// A PEM bundle of a fresh certificate.
    async fn certificate(&self, name: &str) -> String {
        let (cert, key) = self.ca.issue(name, |_| {});
        self.store(&format!("{cert}{key}")).await
    }

    fn listener(&self, more: &Value) -> Value {
        let mut body = json!({"loadbalancer_id": self.lb, "protocol": "TERMINATED_HTTPS", "protocol_port": 443});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        json!({"listener": body})
    }

    async fn refused(&self, more: Value) -> String {
        let answer = self
            .api
            .post("/v2/lbaas/listeners", self.listener(&more))
            .await;
        answer.fault(400)
    }

    async fn made(&self, more: Value) -> Value {
        let answer = self
            .api
            .post("/v2/lbaas/listeners", self.listener(&more))
            .await;
        let made = answer.ok(201)["listener"].clone();
        self.api.settle().await;
        made
    }

    async fn copies(&self) -> u64 {
        tls_bundle::Entity::find()
            .count(self.api.db.read())
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn defaults_are_upstreams_and_everything_is_read_back() {
    let rig = Rig::new().await;
    let (cert, ca) = (
        rig.certificate("a.example").await,
        rig.store(&rig.ca.pem).await,
    );
    let made = rig.made(json!({"default_tls_container_ref": cert})).await;
    assert_eq!(made["default_tls_container_ref"], cert);
    assert_eq!(made["tls_versions"], json!(["TLSv1.2", "TLSv1.3"]));
    assert_eq!(
        made["alpn_protocols"],
        json!(["h2", "http/1.1", "http/1.0"])
    );
    assert!(
        made["tls_ciphers"]
            .as_str()
            .unwrap()
            .starts_with("TLS_AES_128_GCM_SHA256:")
    );
    assert_eq!(
        (&made["client_authentication"], &made["hsts_max_age"]),
        (&json!("NONE"), &Value::Null)
    );
    let crl = rig.store(&rig.ca.crl()).await;
    let second = rig.certificate("b.example").await;
    let change = json!({
        "sni_container_refs": [second], "client_ca_tls_container_ref": ca, "client_crl_container_ref": crl,
        "client_authentication": "OPTIONAL", "tls_versions": ["TLSv1.3"], "alpn_protocols": ["http/1.1"],
        "tls_ciphers": "TLS_AES_256_GCM_SHA384", "hsts_max_age": 60, "hsts_include_subdomains": true,
        "hsts_preload": true,
    });
    let path = format!("/v2/lbaas/listeners/{}", made["id"].as_str().unwrap());
    let changed = rig
        .api
        .put(&path, json!({"listener": change}))
        .await
        .ok(200);
    for (name, value) in change.as_object().unwrap() {
        assert_eq!(&changed["listener"][name], value, "{name}");
    }
    assert_eq!(
        changed["listener"]["default_tls_container_ref"], cert,
        "what is not named stays"
    );
    rig.api.settle().await;
    // Null brings the defaults back.
    let nulls = json!({"tls_versions": null, "tls_ciphers": null, "alpn_protocols": null, "hsts_preload": null,
        "hsts_include_subdomains": null, "hsts_max_age": null, "client_authentication": null,
        "client_crl_container_ref": null, "client_ca_tls_container_ref": null, "sni_container_refs": null});
    let changed = rig.api.put(&path, json!({"listener": nulls})).await.ok(200);
    for name in nulls.as_object().unwrap().keys() {
        assert_eq!(changed["listener"][name], made[name], "{name}");
    }
    rig.api.settle().await;
    // Control: a listener without TLS shows none of it.
    let id = rig.api.listener(&rig.lb, 80).await;
    let plain = rig
        .api
        .get(&format!("/v2/lbaas/listeners/{id}"))
        .await
        .ok(200);
    assert_eq!(plain["listener"]["tls_versions"], Value::Null);
}

#[tokio::test]
async fn references_that_cannot_serve_are_refused_with_upstreams_texts() {
    let rig = Rig::new().await;
    let cert = rig.certificate("a.example").await;
    let (own, _) = rig.ca.issue("a.example", |_| {});
    let (_, other) = rig.ca.issue("b.example", |_| {});
    let nameless = |params: &mut CertificateParams| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names.clear();
    };
    let (no_name, key) = rig.ca.issue("x.example", nameless);
    let mismatch = rig.store(&format!("{own}{other}")).await;
    let no_name = rig.store(&format!("{no_name}{key}")).await;
    let junk = rig.store("junk").await;
    let ca = rig.store(&rig.ca.pem).await;
    let foreign_crl = rig.store(&Ca::new("ca").crl()).await;
    let with = |name: &str, value: &str| json!({"default_tls_container_ref": cert, name: value});
    let refused = async |more: Value, said: &str| {
        let text = rig.refused(more.clone()).await;
        assert!(text.contains(said), "{more}: {text}");
    };
    refused(json!({}), "An SNI or default certificate container reference must be provided for TERMINATED_HTTPS protocol listeners.").await;
    let only = |text: &str| json!({"default_tls_container_ref": text});
    refused(
        only(NOBODY),
        &format!("Could not retrieve certificate: ['{NOBODY}']"),
    )
    .await;
    refused(
        only("/etc/passwd"),
        "Could not retrieve certificate: ['/etc/passwd']",
    )
    .await;
    refused(
        json!({"default_tls_container_ref": cert, "sni_container_refs": [NOBODY, "x"]}),
        &format!("['{NOBODY}', 'x']"),
    )
    .await;
    refused(only(&junk), "The PKCS12 bundle is unreadable.").await;
    refused(only(&mismatch), "Key and x509 certificate do not match").await;
    refused(
        only(&no_name),
        "No CN or DNSName(s) found in certificate. The certificate is invalid.",
    )
    .await;
    refused(
        with("client_authentication", "MANDATORY"),
        "Client authentication setting MANDATORY requires a client CA container reference.",
    )
    .await;
    refused(
        with("client_ca_tls_container_ref", &junk),
        "The client authentication CA certificate is invalid.",
    )
    .await;
    refused(
        with("client_ca_tls_container_ref", NOBODY),
        "Could not retrieve certificate",
    )
    .await;
    refused(
        with("client_crl_container_ref", &foreign_crl),
        "A client authentication CA reference is required",
    )
    .await;
    let mut both = with("client_ca_tls_container_ref", &ca);
    both["client_crl_container_ref"] = json!(foreign_crl);
    refused(
        both,
        "The CRL specified is not valid for client certificate authority reference supplied.",
    )
    .await;
    for (name, value, said) in [
        ("tls_versions", json!([]), "Empty TLS version list."),
        (
            "tls_versions",
            json!(["TLSv1.9"]),
            "Invalid TLS versions: TLSv1.9",
        ),
        (
            "tls_versions",
            json!(["TLSv1", "TLSv1.2"]),
            "less than the minimum: TLSv1 < TLSv1.2",
        ),
        ("alpn_protocols", json!([]), "Empty ALPN protocol list."),
        (
            "alpn_protocols",
            json!(["spdy/1"]),
            "Invalid ALPN protocol: spdy/1",
        ),
        (
            "tls_ciphers",
            json!("a b"),
            "Invalid characters in cipher string.",
        ),
        ("tls_ciphers", json!("DHE-RSA-AES256-SHA256"), "can be used"),
        (
            "hsts_preload",
            json!(true),
            "only make sense if hsts_max_age is set",
        ),
        ("hsts_max_age", json!(-1), "hsts_max_age"),
        (
            "client_authentication",
            json!("MAYBE"),
            "client_authentication",
        ),
    ] {
        refused(
            json!({"default_tls_container_ref": cert, name: value}),
            said,
        )
        .await;
    }
    for (name, value, said) in [
        (
            "default_tls_container_ref",
            json!(cert),
            "Certificate container references are not allowed on HTTP protocol listeners.",
        ),
        ("sni_container_refs", json!([cert]), "not allowed on HTTP"),
        (
            "hsts_max_age",
            json!(1),
            "The HSTS feature can only be used",
        ),
        (
            "tls_versions",
            json!(["TLSv1.3"]),
            "tls_versions can only be used",
        ),
        (
            "client_authentication",
            json!("OPTIONAL"),
            "requires a client CA",
        ),
    ] {
        refused(json!({"protocol": "HTTP", name: value}), said).await;
    }
    assert!(rig.api.pending().await.is_empty());
    assert_eq!(rig.copies().await, 0, "what is refused leaves nothing");
    // Controls: the certificate is good; one that has ended is taken, as upstream's API does.
    let ended = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let (old, key) = rig.ca.issue("old.example", ended);
    let old = rig.store(&format!("{old}{key}")).await;
    rig.made(only(&old)).await;
    rig.made(json!({"protocol_port": 444, "default_tls_container_ref": cert}))
        .await;
}

#[tokio::test]
async fn a_container_serves_as_a_certificate_and_what_is_used_is_a_copy() {
    let rig = Rig::new().await;
    let (cert, key) = rig.ca.issue("a.example", |_| {});
    let (cert_ref, key_ref, ca_ref) = (
        rig.store(&cert).await,
        rig.store(&key).await,
        rig.store(&rig.ca.pem).await,
    );
    let mut refs = vec![
        json!({"name": "certificate", "secret_ref": cert_ref}),
        json!({"name": "private_key", "secret_ref": key_ref}),
        json!({"name": "intermediates", "secret_ref": ca_ref}),
    ];
    let container = async |refs: &[Value]| {
        let body = json!({"type": "certificate", "secret_refs": refs});
        rig.api.post("/v1/containers", body).await.ok(201)["container_ref"].clone()
    };
    let good = container(&refs).await;
    refs.push(json!({"name": "private_key_passphrase", "secret_ref": ca_ref}));
    let protected = container(&refs).await;
    let answer = rig
        .api
        .post(
            "/v2/lbaas/listeners",
            rig.listener(&json!({"default_tls_container_ref": protected})),
        )
        .await;
    assert!(answer.fault(501).contains("private_key_passphrase"));
    let made = rig.made(json!({"default_tls_container_ref": good})).await;
    // The secrets go; what was made of them stays.
    for reference in [&cert_ref, &key_ref, &ca_ref] {
        rig.api
            .delete(reference.strip_prefix("http://api:9876").unwrap())
            .await
            .ok(204);
    }
    let path = format!("/v2/lbaas/listeners/{}", made["id"].as_str().unwrap());
    rig.api
        .put(&path, json!({"listener": {"name": "x"}}))
        .await
        .ok(200);
    rig.api.settle().await;
    // Control: set again, it is looked for.
    let text = rig
        .api
        .put(
            &path,
            json!({"listener": {"default_tls_container_ref": good}}),
        )
        .await
        .fault(400);
    assert!(text.starts_with("Could not retrieve certificate"), "{text}");
    assert_eq!(rig.copies().await, 1);
    let row = &listener::Entity::find()
        .all(rig.api.db.read())
        .await
        .unwrap()[0];
    let copy = &tls_bundle::Entity::find()
        .all(rig.api.db.read())
        .await
        .unwrap()[0];
    let kept = format!("{row:?}{copy:?}");
    let lines = key.lines().filter(|line| !line.contains("--"));
    for line in lines {
        assert!(!kept.contains(line), "the key is not in the rows");
    }
}

#[tokio::test]
async fn pools_and_single_call_creation() {
    let rig = Rig::new().await;
    let (cert, ca, crl) = (
        rig.certificate("client.example").await,
        rig.store(&rig.ca.pem).await,
        rig.store(&rig.ca.crl()).await,
    );
    let pool = |more: Value| {
        let mut body =
            json!({"loadbalancer_id": rig.lb, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        json!({"pool": body})
    };
    let wanted = json!({"tls_enabled": true, "tls_container_ref": cert, "ca_tls_container_ref": ca,
        "crl_container_ref": crl, "tls_versions": ["TLSv1.2"], "tls_ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384", "alpn_protocols": ["http/1.1"], "alpn_protocols": ["http/1.1"]});
    let made = rig
        .api
        .post("/v2/lbaas/pools", pool(wanted.clone()))
        .await
        .ok(201)["pool"]
        .clone();
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&made[name], value, "{name}");
    }
    rig.api.settle().await;
    for (more, said) in [
        (
            json!({"tls_container_ref": NOBODY}),
            "Could not retrieve certificate",
        ),
        (
            json!({"crl_container_ref": crl}),
            "A CA certificate reference is required to specify a revocation list.",
        ),
        (
            json!({"tls_enabled": true, "protocol": "HTTPS"}),
            "passes the client's TLS through",
        ),
        (
            json!({"tls_enabled": true, "tls_ciphers": "RC4"}),
            "can be used",
        ),
    ] {
        let text = rig
            .api
            .post("/v2/lbaas/pools", pool(more.clone()))
            .await
            .fault(400);
        assert!(text.contains(said), "{more}: {text}");
    }
    let path = format!("/v2/lbaas/pools/{}", made["id"].as_str().unwrap());
    let text = rig
        .api
        .put(&path, json!({"pool": {"ca_tls_container_ref": null}}))
        .await
        .fault(400);
    assert!(text.contains("revocation list"), "{text}");
    let off = rig
        .api
        .put(&path, json!({"pool": {"tls_enabled": false}}))
        .await
        .ok(200);
    assert_eq!(
        (
            &off["pool"]["tls_enabled"],
            &off["pool"]["ca_tls_container_ref"]
        ),
        (&json!(false), &json!(ca))
    );
    rig.api.settle().await;
    let body = |reference: &str| {
        json!({"loadbalancer": {"name": "whole", "vip_subnet_id": rig.api.subnet, "listeners": [{
            "protocol": "TERMINATED_HTTPS", "protocol_port": 443, "default_tls_container_ref": reference,
            "default_pool": {"name": "p", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
                "tls_enabled": true, "ca_tls_container_ref": ca},
        }]}})
    };
    rig.api
        .post("/v2/lbaas/loadbalancers", body(NOBODY))
        .await
        .fault(400);
    let made = rig
        .api
        .post("/v2/lbaas/loadbalancers", body(&cert))
        .await
        .ok(201);
    let listener = &made["loadbalancer"]["listeners"][0];
    assert_eq!(listener["default_tls_container_ref"], cert);
    assert_eq!(made["loadbalancer"]["pools"][0]["ca_tls_container_ref"], ca);
}

#[tokio::test]
async fn copies_that_nothing_uses_are_removed() {
    use krater_controller::app::tls::used;
    use krater_controller::db::now;
    use krater_controller::db::query::bundle::collect;
    let rig = Rig::new().await;
    let first = rig.certificate("a.example").await;
    let second = rig.certificate("b.example").await;
    let made = rig.made(json!({"default_tls_container_ref": first})).await;
    let path = format!("/v2/lbaas/listeners/{}", made["id"].as_str().unwrap());
    let later = now() + 1_000_000;
    let collected = async |before: i64| collect(rig.api.db.write(), before, used).await.unwrap();
    assert_eq!(collected(later).await, 0, "it is used");
    let change = json!({"listener": {"default_tls_container_ref": second}});
    rig.api.put(&path, change).await.ok(200);
    assert_eq!(rig.copies().await, 2);
    // While the change may be undone, what it was before stays.
    assert_eq!(collected(later).await, 0, "a flow is open");
    rig.api.settle().await;
    assert_eq!(
        collected(now() - 60_000).await,
        0,
        "it was used a minute ago"
    );
    assert_eq!(collected(later).await, 1);
    let shown = rig.api.get(&path).await.ok(200);
    assert_eq!(shown["listener"]["default_tls_container_ref"], second);
    rig.api.delete(&path).await.ok(204);
    rig.api.settle().await;
    assert_eq!(collected(later).await, 1);
    assert_eq!(rig.copies().await, 0);
}

/// What stands inside a column is a filter like any other; each value also has one beside it that must find nothing.
#[tokio::test]
async fn lists_are_filtered_by_what_tls_says() {
    let rig = Rig::new().await;
    let cert = rig.certificate("a.example").await;
    let more = json!({"default_tls_container_ref": cert, "tls_ciphers": "TLS_AES_256_GCM_SHA384",
        "hsts_max_age": 60, "hsts_preload": true});
    let listener = rig.made(more).await["id"].clone();
    let plain = json!(rig.api.listener(&rig.lb, 80).await);
    let body = json!({"loadbalancer_id": rig.lb, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
        "tls_enabled": true, "tls_container_ref": cert});
    let pool = json!(rig.api.make("/v2/lbaas/pools", "pool", body).await);
    let other = json!(rig.api.pool(&rig.lb).await);
    for (list, filter, found) in [
        (
            "listeners",
            format!("default_tls_container_ref={cert}"),
            json!([listener]),
        ),
        (
            "listeners",
            format!("default_tls_container_ref={NOBODY}"),
            json!([]),
        ),
        (
            "listeners",
            "tls_ciphers=TLS_AES_256_GCM_SHA384".into(),
            json!([listener]),
        ),
        (
            "listeners",
            "tls_ciphers=TLS_AES_256_gcm_SHA384".into(),
            json!([]),
        ),
        ("listeners", "tls_ciphers=%22".into(), json!([])),
        ("listeners", "hsts_max_age=60".into(), json!([listener])),
        ("listeners", "hsts_max_age=6".into(), json!([])),
        ("listeners", "hsts_preload=true".into(), json!([listener])),
        ("listeners", "hsts_preload=false".into(), json!([plain])),
        ("pools", "tls_enabled=True".into(), json!([pool])),
        ("pools", "tls_enabled=False".into(), json!([other])),
        ("pools", format!("tls_container_ref={cert}"), json!([pool])),
        ("pools", format!("ca_tls_container_ref={cert}"), json!([])),
        (
            "loadbalancers",
            format!("vip_qos_policy_id={NOBODY}"),
            json!([]),
        ),
    ] {
        let answer = rig.api.get(&format!("/v2/lbaas/{list}?{filter}")).await;
        let shown = answer.ok(200)[list].clone();
        let ids: Vec<&Value> = shown
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["id"])
            .collect();
        assert_eq!(json!(ids), found, "{list}?{filter}");
    }
    // They are no order.
    for sort in ["tls_ciphers", "hsts_max_age"] {
        let path = format!("/v2/lbaas/listeners?sort={sort}");
        let text = rig.api.get(&path).await.fault(400);
        assert_eq!(text, format!("Supplied sort key '{sort}' is not valid."));
    }
    let answer = rig.api.get("/v2/lbaas/listeners?hsts_max_age=x").await;
    answer.fault(400);
}
