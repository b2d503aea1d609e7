//! Labels of file systems, read from the first bytes of a disk: there is no udev that would have done it.

/// How many bytes of a disk [`read`] wants. The primary volume descriptor of ISO 9660 is the last of what it
/// reads: sector 16 of 2,048 bytes.
pub const HEAD: usize = ISO + 2_048;

const ISO: usize = 16 * 2_048;
const EXT: usize = 1_024;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ISO 9660, as on a CD.
    Iso9660,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    /// ext2, ext3 or ext4.
    Ext4,
}

impl Kind {
    /// The name that mount(2) wants.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iso9660 => "iso9660",
            Self::Vfat => "vfat",
            Self::Ext4 => "ext4",
        }
    }
}

/// A file system and its label, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Which file system.
    pub kind: Kind,
    /// Its name, without padding; what is not printable ASCII shows as `?`.
    pub text: String,
}

impl Label {
    /// Nova writes `config-2`; mkfs.vfat and others may make capitals of it, and so cloud-init takes both.
    pub fn is_config_drive(&self) -> bool {
        self.kind != Kind::Ext4 && self.text.eq_ignore_ascii_case("config-2")
    }

    /// The amphora's own small disk.
    pub fn is_data(&self) -> bool {
        self.kind == Kind::Ext4 && self.text == DATA
    }
}

/// Label of the ext4 file system, and name of the GPT partition, that keeps an amphora's state.
pub const DATA: &str = "krater-data";

/// What a disk begins with; none for what is none of the three. Fewer than [`HEAD`] bytes are a small disk.
pub fn read(head: &[u8]) -> Option<Label> {
    iso9660(head).or_else(|| ext(head)).or_else(|| vfat(head))
}

/// ECMA-119, 8.4: the type 1 says primary, the volume identifier stands at 40.
fn iso9660(head: &[u8]) -> Option<Label> {
    let descriptor = head.get(ISO..)?;
    (descriptor.get(..6)? == b"\x01CD001").then_some(())?;
    label(Kind::Iso9660, descriptor.get(40..72)?)
}

fn ext(head: &[u8]) -> Option<Label> {
    let superblock = head.get(EXT..)?;
    (superblock.get(56..58)? == [0x53, 0xef]).then_some(())?;
    label(Kind::Ext4, superblock.get(120..136)?)
}

/// The boot sector's copy of the label. mkfs writes it there and into the root folder; only renaming tools write
/// the second alone.
fn vfat(head: &[u8]) -> Option<Label> {
    let sector = head.get(..512)?;
    (sector.get(510..512)? == [0x55, 0xaa]).then_some(())?;
    let at = if sector.get(82..87)? == b"FAT32" {
        71
    } else if sector.get(54..57)? == b"FAT" {
        43
    } else {
        return None;
    };
    label(Kind::Vfat, sector.get(at..at + 11)?)
}

fn label(kind: Kind, bytes: &[u8]) -> Option<Label> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len()))?;
    let printable = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    let text: String = bytes.iter().map(printable).collect();
    Some(Label {
        kind,
        text: text.trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut disk = vec![0; HEAD];
        for (at, bytes) in parts {
            disk[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        disk
    }

    fn read_text(parts: &[(usize, &[u8])]) -> Option<(Kind, String)> {
        read(&disk(parts)).map(|label| (label.kind, label.text))
    }

    #[test]
    fn each_kind_is_found_where_its_standard_puts_it() {
        let padded = b"config-2                        ";
        let iso: [(usize, &[u8]); 2] = [(ISO, b"\x01CD001\x01"), (ISO + 40, padded)];
        assert_eq!(read_text(&iso), Some((Kind::Iso9660, "config-2".into())));
        let fat16: [(usize, &[u8]); 3] = [
            (43, b"CONFIG-2   "),
            (54, b"FAT16   "),
            (510, &[0x55, 0xaa]),
        ];
        assert_eq!(read_text(&fat16), Some((Kind::Vfat, "CONFIG-2".into())));
        let fat32: [(usize, &[u8]); 3] = [
            (71, b"config-2   "),
            (82, b"FAT32   "),
            (510, &[0x55, 0xaa]),
        ];
        assert_eq!(read_text(&fat32), Some((Kind::Vfat, "config-2".into())));
        let ext4: [(usize, &[u8]); 2] = [(EXT + 56, &[0x53, 0xef]), (EXT + 120, b"krater-data\0")];
        assert_eq!(read_text(&ext4), Some((Kind::Ext4, "krater-data".into())));
    }

    #[test]
    fn who_is_a_config_drive() {
        let label = |kind, text: &str| Label {
            kind,
            text: text.into(),
        };
        assert!(label(Kind::Iso9660, "config-2").is_config_drive());
        assert!(label(Kind::Vfat, "CONFIG-2").is_config_drive());
        assert!(!label(Kind::Ext4, "config-2").is_config_drive());
        assert!(!label(Kind::Iso9660, "config-22").is_config_drive());
        assert!(label(Kind::Ext4, DATA).is_data());
        assert!(!label(Kind::Vfat, DATA).is_data());
    }

    #[test]
    fn a_disk_without_a_file_system_has_no_label_and_short_ones_do_not_panic() {
        assert_eq!(read_text(&[]), None);
        // A master boot record without FAT is none.
        assert_eq!(read_text(&[(510, &[0x55, 0xaa])]), None);
        let whole = disk(&[(510, &[0x55, 0xaa]), (54, b"FAT12   "), (ISO, b"\x01CD001")]);
        for length in [0, 1, 511, 512, EXT + 57, ISO + 5, ISO + 71] {
            let _ = read(&whole[..length]);
        }
    }
}
