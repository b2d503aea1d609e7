//! Rules about files that no compiler checks.

use crate::ledger::{self, LEDGERS};
use crate::util::{Done, Failure, files, root};
use std::path::Path;

/// A file that does not fit one head: split it by what it owns.
const MAX_LINES: usize = 1_000;

/// Checks every source and document of the checkout.
pub(crate) fn tidy() -> Done {
    let mut faults = Vec::new();
    for file in files()? {
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else {
            continue;
        };
        check(&file, &text, &mut faults);
    }
    let read = |path: &str| std::fs::read_to_string(root().join(path)).ok();
    for ledger in LEDGERS {
        let text = read(ledger).unwrap_or_default();
        faults.extend(ledger::check(ledger, &text, read));
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Failure(format!("{} faults", faults.len())))
    }
}

fn check(file: &Path, text: &str, faults: &mut Vec<String>) {
    let name = file.display();
    let rust = file.extension().is_some_and(|e| e == "rs");
    let written = rust
        || file
            .extension()
            .is_some_and(|e| e == "md" || e == "toml" || e == "sh");
    if !written {
        return;
    }
    let count = text.lines().count();
    if rust && count > MAX_LINES {
        faults.push(format!(
            "{name}: {count} lines, at most {MAX_LINES}: split it by what it owns"
        ));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        faults.push(format!("{name}: no newline at the end"));
    }
    for (number, line) in text.lines().enumerate() {
        let mut fault = |what: &str| faults.push(format!("{name}:{}: {what}", number + 1));
        if line.ends_with([' ', '\t']) && rust {
            fault("white space at the end of the line");
        }
        for (word, why) in forbidden() {
            if holds(line, &word) && (rust || word.starts_with('/')) {
                fault(why);
            }
        }
    }
}

/// Whether the line holds the word; a path counts only from its root on, not as a part of another one.
fn holds(line: &str, word: &str) -> bool {
    let inside =
        |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || "_-.}".contains(c));
    line.match_indices(word)
        .any(|(at, _)| !word.starts_with('/') || !inside(line.get(..at).unwrap_or_default()))
}

/// Written in pieces, so that this file does not contain them.
fn forbidden() -> [(String, &'static str); 6] {
    [
        (
            ["to", "do!("].concat(),
            "unfinished code: implement it or refuse the input as not supported",
        ),
        (
            ["unimpl", "emented!("].concat(),
            "unfinished code: implement it or refuse the input as not supported",
        ),
        (
            ["#[ig", "nore"].concat(),
            "a test that does not run proves nothing: fix or delete it",
        ),
        (["/wo", "rk/"].concat(), "a path of one machine"),
        (["/ro", "ot/"].concat(), "a path of one machine"),
        (["/ho", "me/"].concat(), "a path of one machine"),
    ]
}

#[cfg(test)]
mod unit {
    use super::check;
    use std::path::Path;

    fn faults(name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(Path::new(name), text, &mut found);
        found
    }

    #[test]
    fn good_files_pass_and_each_rule_bites() {
        assert!(faults("a.rs", "fn main() {}\n").is_empty());
        assert_eq!(faults("a.rs", &"\n".repeat(1_001)).len(), 1);
        assert_eq!(
            faults("a.rs", &["fn f() { to", "do!() }\n"].concat()).len(),
            1
        );
        assert_eq!(faults("a.rs", &["#[ig", "nore]\n"].concat()).len(), 1);
        assert_eq!(faults("a.md", &["see /wo", "rk/x\n"].concat()).len(), 1);
        assert!(faults("a.md", &["peers/ro", "ot/usr\n"].concat()).is_empty());
        assert_eq!(faults("a.rs", "fn main() {} \n").len(), 1);
        assert_eq!(faults("a.toml", "a = 1").len(), 1);
        assert!(faults("corpus/seed.bin", "no newline").is_empty());
    }
}
