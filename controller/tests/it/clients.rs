//! The unmodified clients: every sub-command and option of `openstack loadbalancer`, every call of openstacksdk's proxy, and
//! Ansible's modules. What they do and what they must read back stands in `tests/clients/*.py`; each of these programs also asks
//! its client what it can do, and fails when there is no case for something.

use crate::process::Controller;
use krater_e2e::python;
use std::path::Path;

/// Whether the program found nothing, and what it said.
fn run(
    venv: &str,
    program: &str,
    controller: &Controller,
    more: &[&str],
    folder: &Path,
) -> (bool, String) {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let output = python(venv)
        .arg(programs.join(program))
        .arg(format!("http://{}", controller.api.address))
        .args(more)
        // No caches beside the sources.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HOME", folder)
        .current_dir(folder)
        .output()
        .expect("python");
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

/// The program finds nothing; with `--control` it finds a wrong answer and missing cases.
fn both(venv: &str, program: &str, wrong: &[&str]) {
    for control in [false, true] {
        let controller = Controller::start(&[]);
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().display().to_string();
        let mut more = Vec::new();
        if program == "playbooks.py" {
            more.push(text.as_str());
        }
        if control {
            more.push("--control");
        }
        let (clean, said) = run(venv, program, &controller, &more, folder.path());
        if control {
            assert!(!clean, "{said}");
            for fault in wrong {
                let found = said
                    .lines()
                    .any(|line| line.starts_with("FAULT") && line.contains(fault));
                assert!(found, "{fault} is not found:\n{said}");
            }
        } else {
            assert!(clean, "{said}\n{}", controller.log());
            assert!(said.contains(" 0 faults"), "{said}");
        }
    }
}

#[test]
fn each_command_and_option_of_the_openstack_client_is_read_back() {
    let wrong = [
        "reads name 'control', not 'another'",
        "no case for: loadbalancer listener create --protocol TERMINATED_HTTPS",
        "no case for: loadbalancer pool unset --tls-ciphers",
        "no case for: loadbalancer quota reset",
    ];
    both("venv-cli", "cli.py", &wrong);
}

#[test]
fn each_call_of_the_sdk_is_answered() {
    let wrong = ["'control', not 'another'", "delete_pool: 'no case'"];
    both("venv-cli", "sdk.py", &wrong);
}

#[test]
fn the_modules_of_ansible_change_things_once() {
    let wrong = [
        "create again: loadbalancer changed: False, not True",
        "lb_pool: lb_algorithm: 'no case'",
    ];
    both("venv-ansible", "playbooks.py", &wrong);
}
