//! Schemathesis reads the OpenAPI document and makes requests of it, right and wrong ones: no answer may be a failure of ours
//! or contradict the document.

use crate::process::Controller;
use krater_e2e::{libraries, peers};
use std::path::Path;
use std::process::Command;

/// Examples for each operation; `cargo xtask ci nightly` sets more.
const EXAMPLES: &str = "KRATER_SCHEMATHESIS_EXAMPLES";

/// Whether it found nothing, and what it said.
fn run(document: &Path, controller: &Controller, examples: &str, more: &[&str]) -> (bool, String) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis.toml");
    let output = Command::new(peers().join("venv-schemathesis/bin/schemathesis"))
        .arg("--config-file")
        .arg(config)
        .args(["--no-color", "run"])
        .arg(document)
        .args(["--url", &format!("http://{}", controller.api.address)])
        .args([
            "--max-examples",
            examples,
            "--seed",
            "1",
            "--continue-on-failure",
        ])
        .args(more)
        .env("LD_LIBRARY_PATH", libraries())
        // It leaves folders where it runs.
        .current_dir(controller.state_dir())
        .output()
        .expect("schemathesis: run `cargo xtask setup`");
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[test]
fn no_request_is_answered_with_a_failure_or_against_the_document() {
    let controller = Controller::start(&[]);
    let document = controller.state_dir().join("openapi.json");
    let text = controller.api.get("/openapi.json").to_string();
    std::fs::write(&document, text).unwrap();
    let examples = std::env::var(EXAMPLES).unwrap_or_else(|_| "3".to_owned());
    let (clean, said) = run(&document, &controller, &examples, &[]);
    assert!(clean, "{said}\n{}", controller.log());
    assert!(said.contains("No issues found"), "{said}");
}

/// The negative control: a document that says something else than the program.
#[test]
fn an_answer_against_the_document_is_found() {
    let controller = Controller::start(&[]);
    let document = controller.state_dir().join("openapi.json");
    let mut text = controller.api.get("/openapi.json");
    let shown = &mut text["components"]["schemas"]["flavorprofile_shown"]["properties"];
    shown["id"] = serde_json::json!({"type": "integer"});
    std::fs::write(&document, text.to_string()).unwrap();
    let data = serde_json::json!({"flavorprofile":
        {"name": "n", "provider_name": "amphora", "flavor_data": "{}"}});
    controller.api.create("flavorprofiles", &data);
    let only = [
        "--include-path",
        "/v2/lbaas/flavorprofiles",
        "--include-method",
        "GET",
    ];
    let (clean, said) = run(&document, &controller, "3", &only);
    assert!(!clean && said.contains("violates schema"), "{said}");
}
