//! `/lib/modules/order` of the initrd: kernel modules in the order in which they are loaded.

use super::shown;
use crate::FieldError;

/// More lines than any image needs; the whole cloud kernel has about 1,100 modules.
const MAX_MODULES: usize = 512;

/// A module file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Relative to `/lib/modules`.
    pub path: String,
    /// The kernel has to decompress it (`MODULE_INIT_COMPRESSED_FILE`).
    pub compressed: bool,
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
}
