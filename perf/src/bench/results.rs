//! What may be quoted: a full suite of a clean checkout, with the amphora that was built from it.

use super::report::Report;
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Digits of a commit that names and versions show.
const SHORT: usize = 12;

/// The git checkout that the run was started in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkout {
    pub(crate) commit: String,
    pub(crate) dirty: bool,
}

impl Checkout {
    fn short(&self) -> &str {
        self.commit.get(..SHORT).unwrap_or(&self.commit)
    }
}

/// None outside of a checkout, or without git.
pub(crate) fn checkout() -> Option<Checkout> {
    let git = |args: &[&str]| -> Option<String> {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    Some(Checkout {
        commit: git(&["rev-parse", "HEAD"])?,
        dirty: !git(&["status", "--porcelain"])?.is_empty(),
    })
}

/// Refuses what nobody could repeat.
pub(crate) fn may_be_kept(
    whole: bool,
    checkout: Option<&Checkout>,
    versions: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    if !whole {
        bail!(
            "--results: only a whole full suite may be quoted: add --suite full, and leave out --work, \
             --peer, --loopback, fewer --pairs and fewer --seconds"
        );
    }
    let checkout = checkout.context("--results: not in a git checkout: start the run in one")?;
    if checkout.dirty {
        bail!("--results: the checkout has changes that are not committed: commit them first");
    }
    let amphora = versions.get("krater").map_or("", String::as_str);
    if !amphora.contains(checkout.short()) {
        bail!(
            "--results: {amphora} is not built from commit {}: run `cargo build --release -p \
             krater-agent`",
            checkout.short()
        );
    }
    Ok(())
}

/// Writes text and JSON.
pub(crate) fn keep(
    folder: &Path,
    checkout: &Checkout,
    report: &Report,
    table: &str,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let base = folder.join(checkout.short());
    let command = report.command.join(" ");
    let details = super::table::details(report);
    let text = format!(
        "commit {}, clean\n{command}\n\n{table}\n{details}",
        checkout.commit
    );
    std::fs::write(base.with_extension("txt"), text)?;
    let mut value = serde_json::to_value(report)?;
    shorten(&mut value);
    let mut json = serde_json::to_vec(&value)?;
    json.push(b'\n');
    std::fs::write(base.with_extension("json"), json)?;
    Ok(())
}

/// No clock here is better than five digits, and what was not measured need not be said: the rest would fill the repository.
fn shorten(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(shorten),
        Value::Object(all) => {
            all.retain(|_, value| !value.is_null());
            all.values_mut().for_each(shorten);
        }
        Value::Number(number) if number.is_f64() => {
            let short = number
                .as_f64()
                .and_then(|n| format!("{n:.4e}").parse::<f64>().ok());
            if let Some(short) = short.and_then(serde_json::Number::from_f64) {
                *number = short;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_digits_are_kept_and_counts_are_exact() {
        let mut value = serde_json::json!({
            "a": [12.345_678, 0.000_123_456_7, 98_765.432_1], "n": 1_234_567, "nothing": null,
        });
        shorten(&mut value);
        assert_eq!(
            value.to_string(),
            r#"{"a":[12.346,0.00012346,98765.0],"n":1234567}"#
        );
    }

    #[test]
    fn only_a_full_suite_of_a_clean_checkout_with_its_own_amphora_is_kept() {
        let clean = Checkout {
            commit: "0123456789abcdef0123456789abcdef01234567".into(),
            dirty: false,
        };
        let dirty = Checkout {
            dirty: true,
            ..clean.clone()
        };
        let versions = |v: &str| BTreeMap::from([("krater".to_owned(), v.to_owned())]);
        let own = versions("amphora 0.1.0 (0123456789ab) schema 1");
        let other = versions("amphora 0.1.0 (ffffffffffff) schema 1");
        may_be_kept(true, Some(&clean), &own).unwrap();
        for (full, checkout, versions, word) in [
            (false, Some(&clean), &own, "--suite full"),
            (true, None, &own, "checkout"),
            (true, Some(&dirty), &own, "not committed"),
            (true, Some(&clean), &other, "not built from"),
        ] {
            let text = may_be_kept(full, checkout, versions)
                .unwrap_err()
                .to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
