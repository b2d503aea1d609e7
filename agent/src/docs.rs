//! `amphora docs`: manual pages and shell completions, made of the command line's own definitions, so that they cannot
//! say anything else than the program does.

use crate::cli::Cli;
use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Programs for whoever administers the system.
const SECTION: &str = "8";

/// Writes them into a folder, which is made.
pub(crate) fn run(out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    for (name, content) in files()? {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// By name: `amphora.8`, `amphora-run.8`, …, and a file for each shell.
fn files() -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    let mut files = BTreeMap::new();
    for (shell, name) in [
        (Shell::Bash, "amphora.bash"),
        (Shell::Zsh, "_amphora"),
        (Shell::Fish, "amphora.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "amphora", &mut text);
        files.insert(name.to_owned(), text);
    }
    command.build();
    pages(&command, &mut files)?;
    Ok(files)
}

/// A page for a command and for each below it that is not hidden.
fn pages(command: &Command, files: &mut BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(below, files)?;
    }
    let page = clap_mangen::Man::new(command.clone()).section(SECTION);
    let mut text = Vec::new();
    page.render(&mut text)?;
    files.insert(page.get_filename(), text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_and_each_shell_knows_it() {
        let files = files().unwrap();
        let text = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
        for page in ["amphora.8", "amphora-run.8", "amphora-ctl-vrrp-handover.8"] {
            let text = text(page);
            let title = page.trim_end_matches(".8");
            assert!(text.contains(&format!(".TH {title} 8")), "{text}");
            assert!(text.contains(".SH SYNOPSIS"), "{text}");
        }
        assert!(text("amphora-run.8").contains("config"));
        for shell in ["amphora.bash", "_amphora", "amphora.fish"] {
            let text = text(shell);
            for word in ["handover", "drain", "upgrade", "config"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
        }
        // What is hidden is for other programs of ours.
        assert!(!files.contains_key("amphora-vrrp-guard.8"));
    }
}
