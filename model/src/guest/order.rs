//! `/lib/modules/order` of the initrd: kernel modules in the order in which they are loaded, one a line. Behind `if`
//! stand patterns of devices' names (`modalias`, in which `*` is any text): such a module is loaded where one is there.

use super::shown;
use crate::FieldError;

/// More lines than any image needs; the whole cloud kernel has about 1,100 modules.
const MAX_MODULES: usize = 512;
/// Patterns of a line.
const MAX_PATTERNS: usize = 16;

/// A module file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Relative to `/lib/modules`.
    pub path: String,
    /// The kernel has to decompress it (`MODULE_INIT_COMPRESSED_FILE`).
    pub compressed: bool,
    /// Names of devices without which it is of no use; none: always of use.
    pub devices: Vec<String>,
}

impl Module {
    /// Whether it is of use where these devices are.
    pub fn is_wanted<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        let fits = |name: &str| self.devices.iter().any(|pattern| matches(pattern, name));
        self.devices.is_empty() || names.into_iter().any(fits)
    }
}

/// Whether `text` is what `pattern` says, whose `*` are any text. As fast as the pattern has stars: each takes the first
/// place that fits.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(head) else {
        return false;
    };
    let Some((middle, tail)) = rest.rsplit_once('*') else {
        return left.ends_with(rest);
    };
    for part in middle.split('*') {
        let Some((_, behind)) = left.split_once(part) else {
            return false;
        };
        left = behind;
    }
    left.ends_with(tail)
}

/// Reads the list: one file a line, `#` begins a comment.
pub fn parse(text: &str) -> Result<Vec<Module>, FieldError> {
    let mut modules = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let field = || format!("line {}", number + 1);
        let (line, devices) = match line.split_once(" if ") {
            None => (line, Vec::new()),
            Some((file, patterns)) => {
                let patterns = patterns.split_ascii_whitespace().map(str::to_owned);
                (file.trim_end(), patterns.collect())
            }
        };
        if devices.len() > MAX_PATTERNS {
            let why = format!("more than {MAX_PATTERNS} patterns");
            return Err(FieldError::new(field(), why));
        }
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !line.split('/').all(plain) || line.contains('\0') {
            let why = format!(
                "{}: write a path below the folder of this file",
                shown(line)
            );
            return Err(FieldError::new(field(), why));
        }
        let compressed = line.ends_with(".ko.xz");
        if !compressed && !line.ends_with(".ko") {
            let why = format!("{}: a module ends in .ko or .ko.xz", shown(line));
            return Err(FieldError::new(field(), why));
        }
        if modules.len() == MAX_MODULES {
            let why = format!("more than {MAX_MODULES} modules");
            return Err(FieldError::new(field(), why));
        }
        modules.push(Module {
            path: line.into(),
            compressed,
            devices,
        });
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_compression_are_kept() {
        let text = "# made by hand\n\nvirtio.ko\nkernel/fs/isofs.ko.xz # ISO 9660\n";
        let modules = parse(text).unwrap();
        let expect = [("virtio.ko", false), ("kernel/fs/isofs.ko.xz", true)];
        assert_eq!(modules.len(), expect.len());
        for (module, (path, compressed)) in modules.iter().zip(expect) {
            assert_eq!(
                (module.path.as_str(), module.compressed),
                (path, compressed)
            );
        }
    }

    #[test]
    fn what_leaves_the_folder_or_is_no_module_is_refused_with_its_line() {
        for wrong in [
            "a.ko\n../b.ko",
            "a.ko\n/b.ko",
            "a.ko\nb.txt",
            "a.ko\nx//b.ko",
        ] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error.field, "line 2", "{error}");
        }
        assert!(parse(&"a.ko\n".repeat(MAX_MODULES)).is_ok());
        assert!(parse(&"a.ko\n".repeat(MAX_MODULES + 1)).is_err());
    }

    #[test]
    fn a_module_for_hardware_is_wanted_where_it_is() {
        let modules = parse("ahci.ko if pci:*bc01sc06* virtio:d00000008v*\nfat.ko\n").unwrap();
        assert_eq!(modules[0].path, "ahci.ko");
        assert_eq!(modules[0].devices.len(), 2);
        let sata = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
        let ide = "pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80";
        assert!(modules[0].is_wanted([ide, sata]));
        assert!(modules[0].is_wanted(["virtio:d00000008v00001AF4"]));
        assert!(!modules[0].is_wanted([ide]) && !modules[0].is_wanted([]));
        assert!(modules[1].is_wanted([]));
        let many = "a.ko if".to_owned() + &" x".repeat(MAX_PATTERNS + 1);
        assert_eq!(parse(&many).unwrap_err().field, "line 1");
    }

    #[test]
    fn stars_are_any_text() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("*", "abc"),
            ("a*", "a"),
            ("*c", "abc"),
            ("a*c", "ac"),
            ("a*b*c", "a-b-b-c"),
            ("**", "a"),
            ("a*b*b", "abb"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "b"),
            ("a", "aa"),
            ("", "a"),
            ("a*a", "a"),
            ("a*b*b", "ab"),
            ("a*c*b", "a-b-b"),
            ("*c", "cb"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
