//! The bootable amphora image: a kernel and an initrd that holds one static binary as PID 1. And the same binary as a
//! package of Debian.
//!
//! | module | what |
//! |---|---|
//! | [`assemble`] | from packages and a program to the files of an image |
//! | [`lock`] | which packages, by version and SHA-256 |
//! | [`deb`] | Debian packages, read |
//! | [`modules`] | which kernel modules, and in which order |
//! | [`cpio`], [`initrd`] | the kernel's first file system |
//! | [`uki`] | the EFI program |
//! | [`fat`], [`gpt`], [`syslinux`] | a disk that BIOS and UEFI boot |
//! | [`qcow2`] | the disk as Glance takes it |
//! | [`sbom`] | what is inside |
//! | [`package`] | a Debian package of the program, for hosts without a cloud |
//! | [`config_drive`] | what a virtual machine is told, as Nova tells it |
//!
//! Everything is written bit for bit the same whatever the clock, the umask and the order of the input.
//!
//! Architecture Invariant: this crate reads and writes memory only; its callers own files, downloads and programs.
#![forbid(unsafe_code)]

pub mod assemble;
mod bytes;
pub mod config_drive;
pub mod cpio;
pub mod deb;
pub mod elf;
pub mod fat;
pub mod gpt;
pub mod initrd;
pub mod lock;
pub mod modules;
pub mod package;
pub mod qcow2;
pub mod sbom;
pub mod syslinux;
pub mod uki;

pub use assemble::{
    ARTEFACTS, BuildError, COMMAND_LINE, DISK, INITRD, Image, Inputs, KERNEL, Variant, build,
    sha256,
};
pub use lock::{Lock, Pin, Role};
