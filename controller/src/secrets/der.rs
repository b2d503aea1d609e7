//! DER (X.690), as far as PKCS#12 and signed objects need it: definite lengths, tags of one byte.

/// Tags of the universal class.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]`, constructed: an explicit tag or what stands for one.
pub(super) const CONTEXT_0: u8 = 0xa0;
/// `[0]`, primitive: an implicit OCTET STRING.
pub(super) const CONTEXT_0_PRIMITIVE: u8 = 0x80;

/// What is left to be read of some contents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

/// One element: its tag, its contents, and both with the length between them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) contents: &'a [u8],
    pub(super) whole: &'a [u8],
}

impl<'a> Der<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        if tag & 0x1f == 0x1f {
            return None; // Tags of several bytes occur nowhere here.
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = digits.iter().fold(0_u64, |n, &b| n << 8 | u64::from(b));
                (usize::try_from(length).ok()?, rest)
            }
            // 0x80 is an indefinite length: BER, not DER.
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Element {
            tag,
            contents,
            whole,
        })
    }

    /// The contents of the next element, which has this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let element = ahead.any().filter(|element| element.tag == tag)?;
        *self = ahead;
        Some(element.contents)
    }

    /// What is in the next element, which has this tag.
    pub(super) fn inside(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }

    /// The next element, a number that fits.
    pub(super) fn number(&mut self) -> Option<u32> {
        let digits = self.take(INTEGER)?;
        let (first, _) = digits.split_first()?;
        if first & 0x80 != 0 || digits.len() > 5 {
            return None;
        }
        let number = digits.iter().fold(0_u64, |n, &b| n << 8 | u64::from(b));
        u32::try_from(number).ok()
    }

    /// The octets of the next element, a BIT STRING of whole octets.
    pub(super) fn bits(&mut self) -> Option<&'a [u8]> {
        match self.take(BIT_STRING)?.split_first()? {
            (0, octets) => Some(octets),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_numbers() {
        let mut der = Der::new(&[0x02, 0x01, 0x05, 0x04, 0x81, 0x02, 0xaa, 0xbb]);
        assert_eq!(der.take(SEQUENCE), None, "another tag takes nothing");
        assert_eq!(der.number(), Some(5));
        assert_eq!(der.take(OCTET_STRING), Some(&[0xaa, 0xbb][..]));
        assert!(der.is_empty());
        for wrong in [
            &[][..],
            &[0x02],
            &[0x02, 0x02, 0x01],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x1f, 0x01, 0x00],
            &[0x04, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(Der::new(wrong).any().is_none(), "{wrong:x?}");
        }
        for wrong in [
            &[0x02, 0x00][..],
            &[0x02, 0x01, 0x80],
            &[0x02, 0x06, 0, 1, 2, 3, 4, 5],
        ] {
            assert_eq!(Der::new(wrong).number(), None, "{wrong:x?}");
        }
    }
}
