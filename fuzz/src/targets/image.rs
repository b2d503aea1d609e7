//! Readers of krater-image: packages, kernel modules and loaders of somebody else.

use krater_image::syslinux::Loader;
use krater_image::{deb, elf, lock, modules, uki};

/// A package is read, or refused with a text; no more comes out than its bound allows.
pub(super) fn deb_package(data: &[u8]) {
    match deb::files(data, |path| !path.ends_with(".txt")) {
        Ok(files) => assert!(files.keys().all(|path| !path.ends_with(".txt"))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A module says what it depends on, or is refused.
pub(super) fn kernel_module(data: &[u8]) {
    let _ = elf::check_static(data);
    if let Ok(names) = modules::depends(data) {
        assert!(
            names
                .iter()
                .all(|name| !name.is_empty() && !name.contains('-'))
        );
    }
}

/// A loader that is cut out can be installed, or the area to fill in is not there.
pub(super) fn installer(data: &[u8]) {
    let Ok(loader) = Loader::from_installer(data) else {
        return;
    };
    if let Ok(installed) = loader.install(4_096) {
        assert_eq!(installed.file.len(), loader.file_size());
    }
}

/// What is added to a stub is in the result, and a result can be extended in turn.
pub(super) fn efi_stub(data: &[u8]) {
    let added = [(".cmdline", b"panic=10".as_slice())];
    let Ok(image) = uki::extend(data, &added) else {
        return;
    };
    assert!(image.windows(8).any(|w| w == b"panic=10"));
    assert!(
        uki::extend(&image, &added).is_err(),
        "the same section twice"
    );
}

/// A lock file is refused, or its own text gives the same again.
pub(super) fn image_lock(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(read) = lock::Lock::parse(text) {
        let again = lock::Lock::parse(&read.text());
        assert_eq!(again.ok().as_ref().map(lock::Lock::text), Some(read.text()));
    }
    let _ = lock::Pin::from_stanza(lock::Role::Syslinux, text);
    let _ = lock::newest_kernel(text.lines());
}
