//! Building blocks of the bootable amphora image: a kernel and an initrd that holds one static
//! binary as PID 1.
//!
//! Here so far: [`cpio`], the archive format of an initrd, written bit for bit the same whatever the
//! clock, the umask and the order of the input. Kernel, disk images and the boot test come with the
//! image issue; until then `krater image` refuses.
//!
//! Architecture Invariant: this crate writes to memory only; its callers own files.
#![forbid(unsafe_code)]

pub mod cpio;
